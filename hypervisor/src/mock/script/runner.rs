//! A vCPU that follows a script, and treats its accesses as KVM treats guest code's.

use std::collections::VecDeque;
use std::ops::Range;

use kvm_bindings::KVM_MP_STATE_RUNNABLE;

use super::{Script, Step};
use crate::kick::KickState;
use crate::mock::cpu::regs::AX;
use crate::mock::vcpu::State;
use crate::mock::vcpu::event_inbox::EventInbox;
use crate::mock::vm::Platform;
use crate::{Access, AddressSpace, Direction, Exit, InternalError, PAGE_SIZE};

/// The exit of a step that no instruction could make, such as an access of 0 bytes.
const IMPOSSIBLE: Exit = Exit::InternalError(InternalError::NOTHING_TO_RUN);

/// The instruction under way: its pieces that still need an exit, and what it has coalesced.
#[derive(Default)]
struct Work {
    /// The exit of now, first, and those of the same instruction behind it.
    pieces: VecDeque<Piece>,
    data: Vec<u8>,
    /// A load's bytes end up in RAX; those of a string instruction do not.
    into_rax: bool,
}

/// A part of an instruction that needs an exit.
struct Piece {
    exit: Exit,
    /// Where its bytes lie in the instruction's data.
    place: Range<usize>,
}

/// How far a vCPU is in its script.
pub(in crate::mock) struct ScriptRunner {
    script: Script,
    done: usize,
    work: Work,
}

impl ScriptRunner {
    pub(in crate::mock) fn new(script: Script) -> Self {
        Self { script, done: 0, work: Work::default() }
    }

    /// Takes the answer of a read.
    pub(in crate::mock) fn answer(&mut self, data: &[u8]) {
        if let Some(piece) = self.work.pieces.front()
            && let Some(bytes) = self.work.data.get_mut(piece.place.clone())
        {
            bytes.copy_from_slice(data);
        }
    }

    /// The exit's data, where it is a write.
    pub(in crate::mock) fn access_data(&self) -> &[u8] {
        match self.work.pieces.front() {
            Some(Piece { exit: Exit::Access(access), place }) if access.direction() == Direction::Write => {
                self.work.data.get(place.clone()).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Ends the piece the last exit was for. The next piece of the same instruction is an exit of its own.
    pub(in crate::mock) fn finish(&mut self, state: &mut State) -> Option<Exit> {
        self.work.pieces.pop_front()?;
        self.next_piece(state)
    }

    /// The exit of the piece that is next; without one the instruction ends.
    fn next_piece(&mut self, state: &mut State) -> Option<Exit> {
        if let Some(piece) = self.work.pieces.front() {
            return Some(piece.exit);
        }
        if self.work.into_rax {
            let rax = &mut state.regs.gpr[AX];
            *rax = merge(*rax, &self.work.data);
        }
        self.work = Work::default();
        None
    }

    /// Follows the script to the next exit; `None` where the vCPU has nothing to do but wait.
    pub(in crate::mock) fn step(
        &mut self,
        state: &mut State,
        platform: &Platform,
        kick_state: &KickState,
        inbox: &EventInbox,
    ) -> Option<Exit> {
        while !kick_state.is_kicked() && state.mp_state.mp_state == KVM_MP_STATE_RUNNABLE {
            platform.irqs.begin_batch(inbox, 1);
            let step = self.script.step(self.done)?.clone();
            inbox.count(1);
            self.done += 1;
            state.has_run = true;
            match self.execute(step, state, platform) {
                Ok(None) => {}
                Ok(Some(exit)) | Err(exit) => return Some(exit),
            }
        }
        None
    }

    /// Does one step: nothing to see, or an exit. `Err` for a step that no guest could make.
    fn execute(&mut self, step: Step, state: &mut State, platform: &Platform) -> Result<Option<Exit>, Exit> {
        let rax = state.regs.gpr[AX].to_le_bytes();
        let low = |width: u8| rax.get(..usize::from(width)).unwrap_or_default();
        match step {
            Step::Mov(value) => {
                state.regs.gpr[AX] = value;
                Ok(None)
            }
            Step::Exit(exit) => Ok(Some(exit)),
            Step::In { port, width } => {
                self.port(Access::read(AddressSpace::Pio, port.into(), width), &[], true, state)
            }
            Step::Out { port, width } => self.output(port, low(width), state, platform),
            Step::Ins { port, width, count } => {
                self.port(Access::new(AddressSpace::Pio, port.into(), Direction::Read, width, count), &[], false, state)
            }
            Step::Outs { port, data } => self.output_string(port, &data, state, platform),
            Step::Acknowledge { gsi } => {
                platform.irqs.acknowledge(gsi);
                Ok(None)
            }
            Step::HypervCall { input, params } => {
                let exit = Exit::HypervCall { input, params };
                let pieces = VecDeque::from([Piece { exit, place: 0..8 }]);
                self.work = Work { pieces, data: vec![0; 8], into_rax: true };
                Ok(self.next_piece(state))
            }
            Step::Load { address, width } if (1..=8).contains(&width) => Ok(self.load(address, width, state, platform)),
            Step::Store { address, width } if (1..=8).contains(&width) => {
                Ok(self.store(address, low(width), state, platform))
            }
            Step::Load { .. } | Step::Store { .. } => Err(IMPOSSIBLE),
        }
    }

    fn output(&mut self, port: u16, data: &[u8], state: &mut State, platform: &Platform) -> Result<Option<Exit>, Exit> {
        if platform.keeps_write(AddressSpace::Pio, port.into(), data) {
            return Ok(None);
        }
        self.port(Access::write(AddressSpace::Pio, port.into(), data), data, false, state)
    }

    /// If the first byte is kept, KVM keeps all: the others are an ioeventfd's or coalesced too, or lost.
    fn output_string(
        &mut self,
        port: u16,
        data: &[u8],
        state: &mut State,
        platform: &Platform,
    ) -> Result<Option<Exit>, Exit> {
        let mut items = data.chunks(1);
        let mut keep = |item| platform.keeps_write(AddressSpace::Pio, port.into(), item);
        if items.next().is_some_and(&mut keep) {
            for item in items {
                keep(item);
            }
            return Ok(None);
        }
        let count = u16::try_from(data.len()).unwrap_or(u16::MAX);
        let access = Access::new(AddressSpace::Pio, port.into(), Direction::Write, 1, count);
        self.port(access.map(|access| access.with_data(data)), data, false, state)
    }

    fn port(
        &mut self,
        access: Option<Access>,
        data: &[u8],
        into_rax: bool,
        state: &mut State,
    ) -> Result<Option<Exit>, Exit> {
        let access = access.ok_or(IMPOSSIBLE)?;
        let mut bytes = data.to_vec();
        bytes.resize(access.len(), 0);
        let pieces = VecDeque::from([Piece { exit: Exit::Access(access), place: 0..access.len() }]);
        self.work = Work { pieces, data: bytes, into_rax };
        Ok(self.next_piece(state))
    }

    fn load(&mut self, address: u64, width: u8, state: &mut State, platform: &Platform) -> Option<Exit> {
        let mut work = Work { data: vec![0; width.into()], into_rax: true, ..Default::default() };
        for (at, place) in pieces(address, width) {
            let bytes = work.data.get_mut(place.clone())?;
            if platform.memory.read(at, bytes).is_none() {
                let exit = Exit::Access(Access::read(AddressSpace::Mmio, at, place.len() as u8)?);
                work.pieces.push_back(Piece { exit, place });
            }
        }
        self.work = work;
        self.next_piece(state)
    }

    fn store(&mut self, address: u64, data: &[u8], state: &mut State, platform: &Platform) -> Option<Exit> {
        let mut work = Work { data: data.to_vec(), ..Default::default() };
        for (at, place) in pieces(address, data.len() as u8) {
            let bytes = data.get(place.clone())?;
            if platform.memory.write(at, bytes).is_none() && !platform.keeps_write(AddressSpace::Mmio, at, bytes) {
                let exit = Exit::Access(Access::write(AddressSpace::Mmio, at, bytes)?);
                work.pieces.push_back(Piece { exit, place });
            }
        }
        self.work = work;
        self.next_piece(state)
    }
}

/// A memory access cut at the end of its page, as KVM's emulator cuts it: address, place in the data.
fn pieces(address: u64, width: u8) -> impl Iterator<Item = (u64, Range<usize>)> {
    let width = usize::from(width);
    let to_page_end = (PAGE_SIZE - address % PAGE_SIZE) as usize;
    let first = width.min(to_page_end);
    let pieces = [(address, 0..first), (address.wrapping_add(first as u64), first..width)];
    pieces.into_iter().filter(|(_, place)| !place.is_empty())
}

/// RAX after `data` was loaded into its low bytes: 1 and 2 bytes keep the rest, more clear what is above them.
fn merge(rax: u64, data: &[u8]) -> u64 {
    let mut bytes = if data.len() <= 2 { rax.to_le_bytes() } else { [0; 8] };
    if let Some(low) = bytes.get_mut(..data.len()) {
        low.copy_from_slice(data);
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_cut_at_the_end_of_its_page() {
        let cut = |address, width| pieces(address, width).collect::<Vec<_>>();
        assert_eq!(cut(0x1000, 4), [(0x1000, 0..4)]);
        assert_eq!(cut(0x1ffe, 4), [(0x1ffe, 0..2), (0x2000, 2..4)]);
        assert_eq!(cut(0x1fff, 8), [(0x1fff, 0..1), (0x2000, 1..8)]);
    }

    #[test]
    fn small_loads_keep_the_rest_of_rax_and_large_ones_clear_it() {
        assert_eq!(merge(0x1111_1111_1111_1111, &[2]), 0x1111_1111_1111_1102);
        assert_eq!(merge(0x1111_1111_1111_1111, &[2, 3]), 0x1111_1111_1111_0302);
        assert_eq!(merge(0x1111_1111_1111_1111, &[2, 3, 4, 5]), 0x0504_0302);
    }
}
