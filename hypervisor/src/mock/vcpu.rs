//! A vCPU of the mock: follows its script, and treats accesses as KVM does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, Thread};

use kvm_bindings::{KVM_MP_STATE_UNINITIALIZED, kvm_mp_state, kvm_regs, kvm_sregs};
use parking_lot::Mutex;

use super::memory::Memory;
use super::reset;
use super::script::{Script, Step};
use crate::kick::{Bell, Door};
use crate::pending::Pending;
use crate::{Access, AddressSpace, Direction, Exit, InternalError, Kick, PAGE_SIZE, Result, Vcpu, VcpuId};

pub(super) struct SoftVcpu {
    id: VcpuId,
    script: Script,
    done: usize,
    memory: Arc<Memory>,
    door: Door,
    sleeper: Arc<Sleeper>,
    pending: Pending,
    work: Work,
    regs: kvm_regs,
    sregs: kvm_sregs,
    mp_state: kvm_mp_state,
}

/// The exit of a step that no instruction could make, such as an access of 0 bytes.
const IMPOSSIBLE: Exit = Exit::InternalError(InternalError::NOTHING_TO_RUN);

/// The instruction under way: its pieces that still need an exit, and what it has gathered.
#[derive(Default)]
struct Work {
    /// The exit's access, first, and those of the same instruction behind it, each with its place in `data`.
    pieces: VecDeque<(Access, usize)>,
    data: Vec<u8>,
    /// A load's bytes end up in RAX; those of a string instruction do not.
    into_rax: bool,
}

/// Where a vCPU with nothing to do waits.
#[derive(Default)]
struct Sleeper(Mutex<Option<Thread>>);

struct MockBell(Arc<Sleeper>);

impl Bell for MockBell {
    /// The vCPU looks at the door itself before each step.
    fn raise(&self) {}

    fn interrupt(&self) {
        if let Some(thread) = &*self.0.0.lock() {
            thread.unpark();
        }
    }
}

impl SoftVcpu {
    pub(super) fn new(id: VcpuId, script: Script, memory: Arc<Memory>) -> Self {
        let sleeper = Arc::<Sleeper>::default();
        Self {
            id,
            script,
            done: 0,
            memory,
            door: Door::new(MockBell(Arc::clone(&sleeper))),
            sleeper,
            pending: Pending::new(id),
            work: Work::default(),
            regs: reset::regs(),
            sregs: reset::sregs(id),
            mp_state: reset::mp_state(id),
        }
    }

    /// Ends the piece the last exit was for. The next piece of the same instruction is an exit of its own.
    fn finish_piece(&mut self) -> Option<Exit> {
        self.work.pieces.pop_front()?;
        if let Some((access, _)) = self.work.pieces.front() {
            return Some(Exit::Access(*access));
        }
        if self.work.into_rax {
            self.regs.rax = merge(self.regs.rax, &self.work.data);
        }
        self.work = Work::default();
        None
    }

    /// Follows the script to the next exit; `None` where the vCPU has nothing to do but wait.
    fn step(&mut self) -> Option<Exit> {
        while !self.door.is_kicked() && self.mp_state.mp_state != KVM_MP_STATE_UNINITIALIZED {
            let step = self.script.step(self.done)?.clone();
            self.done += 1;
            match self.execute(step) {
                Ok(None) => {}
                Ok(Some(exit)) | Err(exit) => return Some(exit),
            }
        }
        None
    }

    /// Does one step: nothing to see, or an exit. `Err` for a step that no guest could make.
    fn execute(&mut self, step: Step) -> std::result::Result<Option<Exit>, Exit> {
        let rax = self.regs.rax.to_le_bytes();
        let low = |width: u8| rax.get(..usize::from(width)).unwrap_or_default();
        match step {
            Step::Mov(value) => {
                self.regs.rax = value;
                Ok(None)
            }
            Step::Exit(exit) => Ok(Some(exit)),
            Step::In { port, width } => self.port(Access::read(AddressSpace::Pio, port.into(), width), &[], true),
            Step::Out { port, width } => {
                let data = low(width);
                self.port(Access::write(AddressSpace::Pio, port.into(), data), data, false)
            }
            Step::Ins { port, width, count } => {
                self.port(Access::new(AddressSpace::Pio, port.into(), Direction::Read, width, count), &[], false)
            }
            Step::Outs { port, data } => {
                let count = u16::try_from(data.len()).unwrap_or(u16::MAX);
                let access = Access::new(AddressSpace::Pio, port.into(), Direction::Write, 1, count);
                self.port(access.map(|access| access.with_data(&data)), &data, false)
            }
            Step::Load { address, width } if (1..=8).contains(&width) => Ok(self.load(address, width)),
            Step::Store { address, width } if (1..=8).contains(&width) => Ok(self.store(address, low(width))),
            Step::Load { .. } | Step::Store { .. } => Err(IMPOSSIBLE),
        }
    }

    fn port(&mut self, access: Option<Access>, data: &[u8], into_rax: bool) -> std::result::Result<Option<Exit>, Exit> {
        let access = access.ok_or(IMPOSSIBLE)?;
        let mut bytes = data.to_vec();
        bytes.resize(access.len(), 0);
        self.work = Work { pieces: VecDeque::from([(access, 0)]), data: bytes, into_rax };
        Ok(Some(Exit::Access(access)))
    }

    fn load(&mut self, address: u64, width: u8) -> Option<Exit> {
        let mut work = Work { data: vec![0; width.into()], into_rax: true, ..Default::default() };
        for (at, place, len) in pieces(address, width) {
            let bytes = work.data.get_mut(place..place + len)?;
            if self.memory.read(at, bytes).is_none() {
                work.pieces.push_back((Access::read(AddressSpace::Mmio, at, len as u8)?, place));
            }
        }
        self.begin(work)
    }

    fn store(&mut self, address: u64, data: &[u8]) -> Option<Exit> {
        let mut work = Work { data: data.to_vec(), ..Default::default() };
        for (at, place, len) in pieces(address, data.len() as u8) {
            let bytes = data.get(place..place + len)?;
            if self.memory.write(at, bytes).is_none() {
                work.pieces.push_back((Access::write(AddressSpace::Mmio, at, bytes)?, place));
            }
        }
        self.begin(work)
    }

    fn begin(&mut self, work: Work) -> Option<Exit> {
        self.work = work;
        match self.work.pieces.front() {
            Some((access, _)) => Some(Exit::Access(*access)),
            None => {
                // All of it was memory: done as if the last piece had just been finished.
                if self.work.into_rax {
                    self.regs.rax = merge(self.regs.rax, &self.work.data);
                }
                self.work = Work::default();
                None
            }
        }
    }

    /// What `run` does once inside: finishes, steps, or waits until it is kicked.
    fn run_inside(&mut self) -> Exit {
        if let Some(exit) = self.finish_piece() {
            return exit;
        }
        loop {
            if let Some(exit) = self.step() {
                return exit;
            }
            if self.door.is_kicked() {
                return Exit::Interrupted;
            }
            thread::park();
        }
    }
}

impl Vcpu for SoftVcpu {
    fn id(&self) -> VcpuId {
        self.id
    }

    fn kick_handle(&self) -> Kick {
        self.door.kick_handle()
    }

    fn run(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        let me = thread::current();
        let mut sleeper = self.sleeper.0.lock();
        if sleeper.as_ref().map(Thread::id) != Some(me.id()) {
            *sleeper = Some(me);
        }
        drop(sleeper);
        // A kick that is pending already is seen by `run_inside`, which looks at the door itself.
        let _ = self.door.enter();
        let exit = self.run_inside();
        self.door.leave();
        if exit == Exit::Interrupted {
            self.door.take();
        }
        self.pending.after(&exit);
        Ok(exit)
    }

    fn commit(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        let exit = self.finish_piece().unwrap_or(Exit::Interrupted);
        self.pending.after(&exit);
        Ok(exit)
    }

    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.pending.take_answer(data.len())?;
        if let Some((access, place)) = self.work.pieces.front()
            && let Some(bytes) = self.work.data.get_mut(*place..place + access.len())
        {
            bytes.copy_from_slice(data);
        }
        Ok(())
    }

    fn access_data(&self) -> &[u8] {
        match self.work.pieces.front() {
            Some((access, place)) if access.direction() == Direction::Write => {
                self.work.data.get(*place..place + access.len()).unwrap_or_default()
            }
            _ => &[],
        }
    }

    fn regs(&self) -> Result<kvm_regs> {
        Ok(self.regs)
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.pending.check_set()?;
        self.regs = *regs;
        Ok(())
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        Ok(self.sregs)
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.pending.check_set()?;
        self.sregs = *sregs;
        Ok(())
    }

    fn mp_state(&self) -> Result<kvm_mp_state> {
        Ok(self.mp_state)
    }

    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        self.mp_state = *state;
        Ok(())
    }
}

/// A memory access cut at the end of its page, as KVM's emulator cuts it: address, place in the data, length.
fn pieces(address: u64, width: u8) -> impl Iterator<Item = (u64, usize, usize)> {
    let width = usize::from(width);
    let to_page_end = (PAGE_SIZE - address % PAGE_SIZE) as usize;
    let first = width.min(to_page_end);
    let pieces = [(address, 0, first), (address.wrapping_add(first as u64), first, width - first)];
    pieces.into_iter().filter(|(_, _, len)| *len > 0)
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
        assert_eq!(cut(0x1000, 4), [(0x1000, 0, 4)]);
        assert_eq!(cut(0x1ffe, 4), [(0x1ffe, 0, 2), (0x2000, 2, 2)]);
        assert_eq!(cut(0x1fff, 8), [(0x1fff, 0, 1), (0x2000, 1, 7)]);
    }

    #[test]
    fn small_loads_keep_the_rest_of_rax_and_large_ones_clear_it() {
        assert_eq!(merge(0x1111_1111_1111_1111, &[2]), 0x1111_1111_1111_1102);
        assert_eq!(merge(0x1111_1111_1111_1111, &[2, 3]), 0x1111_1111_1111_0302);
        assert_eq!(merge(0x1111_1111_1111_1111, &[2, 3, 4, 5]), 0x0504_0302);
    }
}
