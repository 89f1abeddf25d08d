//! Running: one instruction after the other, exceptions, interrupts that are under way, exits.

use std::sync::Arc;

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE};

use super::bus::{Bus, Traffic};
use super::decode::{Cache, Decoded, NotCode};
use super::fault::{DEBUG, DOUBLE_FAULT, Exception, Fault, NMI};
use super::flags::{IF, RF, TF, VM};
use super::history::{Executed, History};
use super::interrupts::Source;
use super::{Exec, control};
use crate::kick::Door;
use crate::mock::vcpu::event_inbox::{ARRIVAL, Arrivals, EventInbox as Intake, INTERRUPT, RETIME};
use crate::mock::vcpu_state::State;
use crate::mock::vm::Platform;
use crate::{Direction, Exit, InternalError};

/// Instructions that are executed before somebody who waits to change memory slots gets a turn.
const TURN: u32 = 1024;

/// What executes a vCPU's code, and remembers what an exit left unfinished.
pub(in crate::mock) struct Interpreter {
    intake: Arc<Intake>,
    traffic: Traffic,
    cache: Cache,
    /// The instruction whose read waits for an answer, or which waits for the other vCPUs to stand still.
    suspended: Option<Decoded>,
    history: History,
}

/// Repetitions of a string instruction that are made before anything else gets a look in.
const REPETITIONS: u32 = 1024;

/// What became of a turn.
pub(in crate::mock) enum Progress {
    Exit(Exit),
    /// The vCPU halts, or was not started yet.
    Idle,
    /// There is more to do.
    Busy,
}

/// What became of one instruction.
enum Advance {
    On,
    /// It waits for the other vCPUs to stand still.
    Split,
    Stop(Progress),
}

impl Interpreter {
    pub(in crate::mock) fn new(intake: Arc<Intake>) -> Self {
        Self {
            intake,
            traffic: Traffic::default(),
            cache: Cache::default(),
            suspended: None,
            history: History::default(),
        }
    }

    /// The exit's data, where it is a write.
    pub(in crate::mock) fn access_data(&self) -> &[u8] {
        match self.traffic.asked() {
            Some(_) => &[],
            None => self.traffic.exit().and_then(|access| access.inline_data()).unwrap_or_default(),
        }
    }

    /// Takes the answer of a read.
    pub(in crate::mock) fn answer(&mut self, data: &[u8]) {
        self.traffic.answer(data);
    }

    /// Finishes what the last exit was for; the next exit of the same instruction, if there is one.
    pub(in crate::mock) fn finish(&mut self, state: &mut State, platform: &Platform) -> Option<Exit> {
        match self.suspended.take() {
            Some(decoded) => {
                let slots = platform.memory.slots();
                let mut exec = Exec::new(state, Bus::new(&slots, platform, &self.intake, &mut self.traffic));
                exec.resume(decoded, &mut self.suspended)
            }
            None => {
                self.traffic.exit_is_done();
                self.traffic.exit().copied().map(Exit::Access)
            }
        }
    }

    /// Keeps the last `most` instructions from now on.
    pub(in crate::mock) fn keep_history(&mut self, most: usize) {
        self.history.keep(most);
    }

    /// The last instructions, the oldest first.
    pub(in crate::mock) fn history(&self) -> Vec<Executed> {
        self.history.executed()
    }

    /// Whether a read waits to be finished, so that the vCPU is within an instruction.
    pub(in crate::mock) fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// Executes one instruction.
    pub(in crate::mock) fn step(&mut self, state: &mut State, platform: &Platform) -> Progress {
        platform.irqs.begin_batch(&self.intake, 1);
        let slots = platform.memory.slots();
        state.msrs.clock_pages.update(&platform.clock, &platform.irqs, &self.intake, &slots);
        let mut exec = Exec::new(state, Bus::new(&slots, platform, &self.intake, &mut self.traffic));
        match exec.advance(&mut self.cache, &mut self.suspended, &mut self.history) {
            Advance::On => Progress::Busy,
            Advance::Stop(progress) => progress,
            Advance::Split => {
                drop(slots);
                self.finish_alone(state, platform)
            }
        }
    }

    /// Executes the instruction that reads and writes as one over two words, as a bus lock has it: every other vCPU ends
    /// its turn first, and none begins another one meanwhile.
    fn finish_alone(&mut self, state: &mut State, platform: &Platform) -> Progress {
        let Some(decoded) = self.suspended.take() else { return Progress::Busy };
        let slots = platform.memory.slots_alone();
        let mut exec = Exec::new(state, Bus::alone(&slots, platform, &self.intake, &mut self.traffic));
        exec.resume(decoded, &mut self.suspended).map_or(Progress::Busy, Progress::Exit)
    }

    /// Executes for a while.
    pub(in crate::mock) fn go_on(&mut self, state: &mut State, platform: &Platform, door: &Door) -> Progress {
        let batch = platform.irqs.begin_batch(&self.intake, TURN);
        let slots = platform.memory.slots();
        state.msrs.clock_pages.update(&platform.clock, &platform.irqs, &self.intake, &slots);
        let mut exec = Exec::new(state, Bus::new(&slots, platform, &self.intake, &mut self.traffic));
        for _ in 0..batch {
            if door.is_kicked() {
                return Progress::Busy;
            }
            match exec.advance(&mut self.cache, &mut self.suspended, &mut self.history) {
                Advance::On if self.intake.word() & RETIME != 0 => break,
                Advance::On => {}
                Advance::Stop(progress) => return progress,
                Advance::Split => {
                    drop(slots);
                    return self.finish_alone(state, platform);
                }
            }
        }
        Progress::Busy
    }
}

impl<'a> Exec<'a> {
    fn new(state: &'a mut State, bus: Bus<'a>) -> Self {
        Self { state, bus, start: 0, shadow: 0, repeats: false, split: false, exit: None }
    }

    /// Executes one instruction, if the vCPU runs.
    #[inline]
    fn advance(&mut self, cache: &mut Cache, suspended: &mut Option<Decoded>, history: &mut History) -> Advance {
        if self.bus.intake.word() & ARRIVAL != 0 {
            self.take_arrivals();
        }
        if self.state.mp_state.mp_state != KVM_MP_STATE_RUNNABLE && !self.wake() {
            return Advance::Stop(Progress::Idle);
        }
        self.step(cache, suspended, history);
        // An exit is rare, and large to be moved about.
        if self.exit.is_none() {
            return if self.split { Advance::Split } else { Advance::On };
        }
        self.exit.take().map_or(Advance::On, |exit| Advance::Stop(Progress::Exit(exit)))
    }

    /// Executes an instruction that was suspended. It may be suspended again, by its next read.
    fn resume(&mut self, decoded: Decoded, suspended: &mut Option<Decoded>) -> Option<Exit> {
        self.complete(&decoded);
        self.exit.take().inspect(|exit| *suspended = is_read(exit).then_some(decoded))
    }

    /// Executes one instruction, behind the beginning of the handler of what is under way. An exit, and the instruction that
    /// it suspends, are left in their places.
    #[inline]
    fn step(&mut self, cache: &mut Cache, suspended: &mut Option<Decoded>, history: &mut History) {
        self.state.has_run = true;
        if self.state.events_are_under_way() || self.bus.intake.word() != 0 {
            self.deliver_events();
            if self.exit.is_some() {
                return;
            }
        }
        if let Some(mode) = self.unknown_mode() {
            return self.unknown(&[0; 16], 0, mode);
        }
        match cache.decode(self) {
            Ok(decoded) => {
                history.note(self.state.sregs.cs.base, decoded);
                self.complete(decoded);
                let suspends = self.split || self.exit.as_ref().is_some_and(is_read);
                *suspended = suspends.then_some(*decoded);
            }
            Err(NotCode { fault: Fault::Exception(exception), .. }) => self.fault(exception),
            Err(NotCode { bytes, len, .. }) => self.unknown(&bytes, len, "(no memory)"),
        }
    }

    /// The mode the guest is in, if there is no model of it.
    #[inline]
    fn unknown_mode(&self) -> Option<&'static str> {
        if self.state.regs.has(VM) { Some("(virtual 8086)") } else { control::unknown_mode(&self.state.sregs) }
    }

    /// Executes an instruction completely: with the exception it raises, or up to the read that it waits for. A repeated one
    /// is not looked at again between its repetitions, of which there are at most [`REPETITIONS`] here, as in KVM's emulator.
    #[inline]
    fn complete(&mut self, decoded: &Decoded) {
        for _ in 0..REPETITIONS {
            self.repeats = false;
            self.complete_once(decoded);
            if !self.repeats {
                break;
            }
            if self.exit.is_some() || self.state.regs.has(TF) || self.state.events_are_under_way() {
                break;
            }
        }
    }

    #[inline]
    fn complete_once(&mut self, decoded: &Decoded) {
        let before = self.state.regs;
        self.start = before.rip;
        let Some(handler) = decoded.handler else {
            return self.unknown(&decoded.bytes(), decoded.len, &name(decoded));
        };
        self.shadow = 0;
        loop {
            self.state.regs.rflags &= !RF;
            self.state.regs.rip = u64::from((before.rip as u32).wrapping_add(decoded.len));
            match handler(self, &decoded.instruction) {
                Ok(()) if self.bus.commit() => break,
                Ok(()) => {
                    self.bus.rewind();
                    self.state.regs = before;
                }
                Err(fault) => {
                    self.state.regs = before;
                    return self.fail(fault, decoded);
                }
            }
        }
        self.state.set_shadow(self.shadow);
        self.bus.intake.count(1);
        if before.has(TF) {
            self.state.debug_regs.dr6 |= control::DR6_SINGLE_STEP;
            self.raise(Exception { vector: DEBUG, error: None });
        }
        self.next_exit();
    }

    /// The exit of a write that was made, unless there is another already.
    fn next_exit(&mut self) {
        if self.exit.is_none()
            && let Some(&access) = self.bus.traffic.exit()
        {
            self.exit = Some(Exit::Access(access));
        }
    }

    fn fail(&mut self, fault: Fault, decoded: &Decoded) {
        match fault {
            Fault::Unanswered => {
                self.bus.rewind();
                self.exit = self.bus.traffic.asked().map(Exit::Access);
            }
            Fault::Split => {
                self.bus.rewind();
                self.split = true;
            }
            Fault::Exception(exception) => {
                self.bus.give_up();
                self.fault(exception);
            }
            Fault::Unknown => {
                self.bus.give_up();
                self.unknown(&decoded.bytes(), decoded.len, &name(decoded));
            }
        }
    }

    /// Delivers an exception that the instruction at RIP has raised. RF, in the flags that are pushed, says that its handler
    /// will come back to that instruction.
    fn fault(&mut self, exception: Exception) {
        let before = self.state.regs;
        if exception.is_fault() {
            self.state.regs.rflags |= RF;
        }
        self.raise(exception);
        if self.exit.is_some() {
            self.state.regs = before;
        }
        self.next_exit();
    }

    /// Takes what has come from outside and is no interrupt.
    #[cold]
    fn take_arrivals(&mut self) {
        let Arrivals { nmis, init, start } = self.bus.intake.take_arrivals();
        self.state.events.nmi.pending = self.state.pending_nmis(nmis);
        if init {
            self.state.init(self.bus.intake.id());
            self.bus.intake.init();
        }
        if let Some(page) = start {
            self.state.start(page);
        }
    }

    /// Delivers an exception; those that come meanwhile in its place, up to the shutdown.
    fn raise(&mut self, exception: Exception) {
        self.begin_handler(exception, true);
    }

    /// Delivers what is no exception, whatever its vector, and exceptions that come meanwhile in its place.
    fn raise_interrupt(&mut self, vector: u8) {
        self.begin_handler(Exception { vector, error: None }, false);
    }

    fn begin_handler(&mut self, first: Exception, mut is_exception: bool) {
        let mut exception = first;
        let before = self.state.regs;
        while let Err(fault) = self.deliver(exception) {
            self.state.regs = before;
            self.bus.give_up();
            exception = match fault {
                Fault::Exception(second) if !is_exception => second,
                Fault::Exception(_) if exception.vector == DOUBLE_FAULT => return self.exit = Some(Exit::Shutdown),
                Fault::Exception(second) if exception.is_contributory() && second.is_contributory() => {
                    Exception { vector: DOUBLE_FAULT, error: Some(0) }
                }
                Fault::Exception(second) => second,
                Fault::Unanswered | Fault::Split | Fault::Unknown => {
                    return self.exit = Some(undeliverable(exception.vector));
                }
            };
            is_exception = true;
        }
    }

    fn deliver(&mut self, exception: Exception) -> super::fault::Result<()> {
        self.interrupt(exception, Source::Hardware)?;
        // Nothing is locked here, so nothing can get in between.
        let _ = self.bus.commit();
        Ok(())
    }

    /// Delivers what a look at `vcpu_events` shows as under way, or what the local APIC or the PICs ask for. Interrupts wait for IF and for the
    /// end of a shadow.
    fn deliver_events(&mut self) {
        let events = &mut self.state.events;
        let exception = events.exception;
        let vector = if exception.injected != 0 || exception.pending != 0 {
            (events.exception.injected, events.exception.pending) = (0, 0);
            let error = (exception.has_error_code != 0).then_some(exception.error_code as u16);
            return self.fault(Exception { vector: exception.nr, error });
        } else if events.nmi.injected != 0 || events.nmi.pending != 0 && events.nmi.masked == 0 {
            if events.nmi.injected != 0 {
                events.nmi.injected = 0
            } else {
                events.nmi.pending = 0
            }
            events.nmi.masked = 1;
            NMI
        } else if events.interrupt.shadow != 0 || !self.state.regs.has(IF) {
            return;
        } else if events.interrupt.injected != 0 {
            events.interrupt.injected = 0;
            events.interrupt.nr
        } else if let Some(vector) = self.bus.take_interrupt() {
            vector
        } else {
            return;
        };
        self.raise_interrupt(vector);
        self.next_exit();
    }

    /// Whether a vCPU that halts has something to wake up for.
    fn wake(&mut self) -> bool {
        let events = &self.state.events;
        let nmi = events.nmi.pending != 0 && events.nmi.masked == 0 || events.nmi.injected != 0;
        let asked = self.bus.intake.word() & INTERRUPT != 0;
        let interrupt = (events.interrupt.injected != 0 || asked) && self.state.regs.has(IF);
        let wakes = self.state.mp_state.mp_state == KVM_MP_STATE_HALTED && (nmi || interrupt);
        if wakes {
            self.state.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        }
        wakes
    }

    /// The exit of an instruction that nobody taught this processor.
    fn unknown(&mut self, bytes: &[u8; 16], len: u32, name: &str) {
        let linear = (self.state.sregs.cs.base as u32).wrapping_add(self.state.regs.rip as u32);
        let bytes = bytes.get(..len as usize).unwrap_or_default();
        self.exit = Some(Exit::InternalError(InternalError::unknown_instruction(linear.into(), bytes, name)));
    }
}

/// Whether an instruction is to go on with an answer. One that was interrupted by an exception may exit for the writes of its
/// frame instead.
fn is_read(exit: &Exit) -> bool {
    matches!(exit, Exit::Access(access) if access.direction() == Direction::Read)
}

fn name(decoded: &Decoded) -> String {
    format!("{:?}", decoded.instruction.mnemonic()).to_lowercase()
}

/// `KVM_INTERNAL_ERROR_DELIVERY_EV`.
fn undeliverable(vector: u8) -> Exit {
    Exit::InternalError(InternalError { suberror: 3, data: [vector.into(), 0, 0, 0, 0, 0], words: 1 })
}
