//! Serving one vCPU, and seeing that what comes is what is due.

use std::sync::atomic::Ordering;

use plugin_sdk::{Access, AddressSpace, Event, State, Vcpu};

use super::machine::{self, Bells};
use super::shared::{Shared, Word};
use crate::error::Failure;
use crate::soak::counters::Count;
use crate::soak::layout;
use crate::soak::model::{Kind, Model, Next, Seen};
use crate::soak::random::Random;

/// One exit in so many has its registers looked at, and set to what they are.
const LOOKS: u64 = 16;

/// Serves `vcpu` until the VMM hangs up.
pub(super) fn serve(mut vcpu: Vcpu, bells: Bells, shared: &Shared) -> Result<(), Failure> {
    let index = vcpu.index();
    let program = shared.plan.programs[index].clone();
    let rounds = program.rounds;
    let mut server = Server {
        vcpu: index,
        model: Model::new(index, program, shared.plan.seed),
        random: Random::stream(shared.plan.seed, index as u64),
        bells,
        heard: [0; 2],
        landings: 0,
        shared,
    };
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                machine::boot(index, rounds, init.state())?;
                init.resume()?;
            }
            Event::Paused(mut paused) => {
                server.paused(paused.user(), paused.state())?;
                paused.resume()?;
                // Only now may the next one come.
            }
            Event::Posted(posted) => {
                shared.counters.add(Count::Posted, 1);
                check_items(&posted.access, posted.width(), posted.count())?;
                server.access(&Seen { kind: Kind::Posted, access: posted.access, data: &posted.data })?;
            }
            Event::Write(mut write) => {
                let access = write.access();
                check_items(&access, write.width(), write.count())?;
                server.access(&Seen { kind: Kind::Write, access, data: write.data() })?;
                server.look(&access, write.state())?;
                write.resume()?;
            }
            Event::Read(mut read) => {
                let access = read.access();
                check_items(&access, read.width(), read.count())?;
                let answer = server.access(&Seen { kind: Kind::Read, access, data: &[] })?;
                server.look(&access, read.state())?;
                read.answer(&answer)?;
            }
            other => return Err(format!("vCPU {index}: {other:?}").into()),
        }
    }
}

/// Strings move bytes, and all other accesses are one item.
fn check_items(access: &Access, width: usize, count: usize) -> Result<(), Failure> {
    let strings = layout::STRING_PORTS..layout::STRING_PORTS + layout::PORTS;
    let is_string = access.space == AddressSpace::Pio && strings.contains(&access.address);
    let due = if is_string { (1, access.length) } else { (access.length, 1) };
    if (width, count) == due {
        return Ok(());
    }
    Err(format!("{access:?} reports {count} items of {width} bytes, and {} of {} are due", due.1, due.0).into())
}

struct Server<'s> {
    vcpu: usize,
    model: Model,
    random: Random,
    bells: Bells,
    /// How many signals of each eventfd were taken.
    heard: [u64; 2],
    /// How many writes to memory were told.
    landings: u64,
    shared: &'s Shared,
}

impl Server<'_> {
    /// What a read gets.
    fn access(&mut self, seen: &Seen<'_>) -> Result<Vec<u8>, Failure> {
        if let Some(vcpu) = layout::whose_coalesced(&seen.access) {
            return self.coalesced(vcpu, seen).map(|()| Vec::new());
        }
        self.shared.counters.add(Count::Exits, 1);
        if self.is_of_handlers(&seen.access) {
            return self.interrupt(seen).map(|()| Vec::new());
        }
        let (shared, vcpu) = (self.shared, self.vcpu);
        let next = self.model.take(seen, || shared.window(vcpu)).map_err(|wrong| wrong.to_string())?;
        let landings = self.model.landings();
        self.shared.counters.add(Count::Landed, landings - self.landings);
        self.landings = landings;
        if self.model.is_finished() {
            self.take_bells()?;
            if self.heard != self.model.bells() {
                let (heard, rung) = (self.heard, self.model.bells());
                return Err(format!("vCPU {vcpu}: eventfds were signalled {rung:?} times and have {heard:?}").into());
            }
            self.shared.change(|state| state.coalesced_due[vcpu] = Some(self.model.coalesced()));
            // Before the guest is let go: if it is to fault, that is what ends the VM.
            self.shared.say(Word::Done { vcpu });
        }
        Ok(match next {
            Next::Go(answer) => answer,
            Next::Done => Vec::new(),
        })
    }

    /// Whether an access is none of the guest's steps, but of vCPU 0's handlers and their preparation.
    fn is_of_handlers(&self, access: &Access) -> bool {
        let lines = layout::LINE_PORTS..layout::LINE_PORTS + layout::PORTS;
        access.space == AddressSpace::Pio && (lines.contains(&access.address) || access.address == layout::READY_PORT)
    }

    fn interrupt(&mut self, seen: &Seen<'_>) -> Result<(), Failure> {
        if seen.access.address == layout::READY_PORT {
            self.shared.change(|state| state.ready = true);
            return Ok(());
        }
        let line = ((seen.access.address - layout::LINE_PORTS) / 8) as u32;
        let told = <[u8; 4]>::try_from(seen.data).map(u32::from_le_bytes);
        let kind = if line == layout::EVENT_LINE { Count::EventIrqs } else { Count::PulseIrqs };
        self.shared.counters.add(kind, 1);
        self.shared.handled(line, told.map_err(|_| format!("{seen:?} from a handler"))?.into())
    }

    /// Notes a coalesced write of `vcpu`, whichever vCPU's channel it came by.
    fn coalesced(&mut self, vcpu: usize, seen: &Seen<'_>) -> Result<(), Failure> {
        let value = <[u8; 4]>::try_from(seen.data).map(u32::from_le_bytes);
        match value {
            Ok(value) if seen.kind == Kind::Posted => {
                self.shared.counters.add(Count::Coalesced, 1);
                self.shared.change(|state| state.coalesced[vcpu].add(value));
                Ok(())
            }
            _ => Err(format!("{seen:?} where writes are coalesced").into()),
        }
    }

    /// Takes the signals that must be there, so that no look waits.
    fn take_bells(&mut self) -> Result<(), Failure> {
        for ((doorbell, heard), rung) in self.bells.iter().zip(&mut self.heard).zip(self.model.bells()) {
            while *heard < rung {
                let more = doorbell.wait()?;
                *heard += more;
                self.shared.counters.add(Count::Bells, more);
            }
        }
        Ok(())
    }

    fn paused(&mut self, user: u64, state: &mut State<'_>) -> Result<(), Failure> {
        let vcpu = self.vcpu;
        let sent = self.shared.pauses.load(Ordering::SeqCst);
        let before = self.shared.change(|state| std::mem::replace(&mut state.paused[vcpu], user));
        if user <= before || user > sent {
            return Err(format!("vCPU {vcpu}: pause {user} after {before}, and {sent} was the last").into());
        }
        self.shared.counters.add(Count::Pauses, 1);
        self.take_bells()?;
        let regs = state.regs()?;
        let code = layout::code(vcpu)..layout::code(vcpu) + plugin_sdk::PAGE_SIZE;
        let handlers = u64::from(layout::HANDLERS)..u64::from(layout::HANDLED);
        if !code.contains(&regs.rip) && !handlers.contains(&regs.rip) {
            return Err(format!("vCPU {vcpu} is paused at {:#x}, where none of its code is", regs.rip).into());
        }
        self.set(state)
    }

    /// Sometimes compares the guest's count with what it is at this access, and sets the registers to what they are.
    fn look(&mut self, access: &Access, state: &mut State<'_>) -> Result<(), Failure> {
        if self.is_of_handlers(access) || !self.random.once_in(LOOKS) {
            return Ok(());
        }
        let ebx = state.regs()?.rbx as u32;
        if ebx != self.model.count() {
            let (vcpu, count) = (self.vcpu, self.model.count());
            return Err(format!("vCPU {vcpu}: EBX is {ebx} at {access:?}, and {count} is due").into());
        }
        self.set(state)
    }

    fn set(&mut self, state: &mut State<'_>) -> Result<(), Failure> {
        if self.random.once_in(2) {
            let regs = state.regs()?;
            state.set_regs(&regs);
            self.shared.counters.add(Count::Registers, 1);
        }
        Ok(())
    }
}
