//! Executing instructions: one after the other, with the exceptions they raise, the interrupts between them, and exits.

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_X86_SHADOW_INT_MOV_SS, kvm_sregs};

use super::Exec;
use super::decode::Decoded;
use super::delivery::Source;
use super::exception::{DEBUG, DOUBLE_FAULT, Exception, Fault, NMI, PAGE, Result};
use super::fetch::NotCode;
use super::flags::{IF, RF, TF};
use super::interpreter::Progress;
use super::ops::debug_regs::{DR6_BREAKPOINTS, DR6_SINGLE_STEP, DR7_GUARD, Watched};
use super::trace::History;
use crate::mock::vcpu::event_inbox::{ARRIVAL, Arrivals, INTERRUPT};
use crate::{Direction, Exit, InternalError};

/// Repetitions of a string instruction that are made before anything else is served.
const REPETITIONS: u32 = 1024;

/// What became of one instruction.
pub(super) enum Advance {
    On,
    /// It waits for the other vCPUs to stop.
    Split,
    Stop(Progress),
}

impl Exec<'_> {
    /// Executes one instruction, if the vCPU runs.
    #[inline]
    pub(super) fn advance(&mut self, suspended: &mut Option<Decoded>, history: &mut History) -> Advance {
        if self.bus.intake.word() & ARRIVAL != 0 {
            self.take_arrivals();
        }
        if self.state.mp_state.mp_state != KVM_MP_STATE_RUNNABLE && !self.wake() {
            return Advance::Stop(Progress::Idle);
        }
        self.step(suspended, history);
        self.outcome()
    }

    /// What became of what was executed.
    #[inline]
    pub(super) fn outcome(&mut self) -> Advance {
        // An exit is rare, and large to be moved about.
        if self.exit.is_none() {
            return if self.split { Advance::Split } else { Advance::On };
        }
        self.exit.take().map_or(Advance::On, |exit| Advance::Stop(Progress::Exit(exit)))
    }

    /// Executes an instruction that was suspended. It may be suspended again, by its next read.
    pub(super) fn resume(&mut self, decoded: Decoded, suspended: &mut Option<Decoded>) -> Option<Exit> {
        self.complete(&decoded);
        self.exit.take().inspect(|exit| *suspended = is_read(exit).then_some(decoded))
    }

    /// Executes one instruction, after what is under way has got its handler. An exit, and the instruction that it suspends,
    /// are left in their places.
    #[inline]
    fn step(&mut self, suspended: &mut Option<Decoded>, history: &mut History) {
        if self.state.events_are_under_way() || self.bus.intake.word() != 0 {
            self.deliver_events();
            if self.exit.is_some() {
                return;
            }
        }
        if self.state.mode.has_breakpoints && self.meets_breakpoint() {
            return;
        }
        match self.fetch().and_then(|fetched| self.decode(fetched)) {
            Ok(decoded) => {
                if history.is_on() {
                    history.note(self.code_address(), &decoded);
                }
                self.complete(&decoded);
                let suspends = self.split || self.exit.as_ref().is_some_and(is_read);
                *suspended = suspends.then_some(decoded);
            }
            Err(NotCode { fault: Fault::Exception(exception), .. }) => self.fault(exception),
            Err(NotCode { bytes, len, .. }) => self.unknown(&bytes, len, "(no memory)"),
        }
    }

    /// Raises #DB where a breakpoint is at the next instruction, and RF does not say that it has been served.
    fn meets_breakpoint(&mut self) -> bool {
        let is_shadowed = self.state.events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS as u8 != 0;
        if self.state.regs.has(RF) || is_shadowed {
            return false;
        }
        let met = self.met_breakpoints(self.code_address(), 1, Watched::Execution);
        if met != 0 {
            self.fault(Exception::debug(met));
        }
        met != 0
    }

    /// Executes an instruction completely: with the exception it raises, or up to the read that it waits for. Nothing else is
    /// served between the repetitions of one, of which there are at most [`REPETITIONS`] here, as in KVM's emulator.
    #[inline]
    pub(super) fn complete(&mut self, decoded: &Decoded) {
        for _ in 0..REPETITIONS {
            if let Some((what, width)) = decoded.repeated
                && self.repeat_fast(decoded, what, width)
            {
                break;
            }
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
        let sregs_before = decoded.is_complex.then_some(self.state.sregs);
        self.start = before.rip;
        let Some(handler) = decoded.handler else {
            return self.unknown(&decoded.bytes(), decoded.len, &name(decoded));
        };
        self.shadow = 0;
        let next = before.rip.wrapping_add(decoded.len.into()) & self.state.mode.linear_mask();
        loop {
            self.state.regs.rflags &= !RF;
            self.state.regs.rip = next;
            match handler(self, &decoded.instruction) {
                Ok(()) if self.bus.commit() => break,
                Ok(()) => {
                    self.bus.rewind();
                    self.put_back(before, sregs_before.as_ref());
                }
                Err(fault) => {
                    self.put_back(before, sregs_before.as_ref());
                    return self.fail(fault, decoded);
                }
            }
        }
        self.state.set_shadow(self.shadow);
        self.bus.intake.count(1);
        if before.has(TF) || self.after.is_some() || self.watched != 0 {
            self.trap(decoded, before.has(TF));
        }
        self.next_exit();
    }

    /// Undoes what an instruction has done to the registers.
    fn put_back(&mut self, regs: super::regs::Regs, sregs: Option<&kvm_sregs>) {
        self.state.regs = regs;
        if let Some(sregs) = sregs {
            self.state.sregs = *sregs;
            self.state.refresh_mode();
        }
    }

    /// Raises what comes after an instruction: the trap of a single step and of breakpoints, or an exception of the task that
    /// it has switched to. The instruction behind which interrupts wait keeps these traps away too.
    #[cold]
    fn trap(&mut self, decoded: &Decoded, single_step: bool) {
        if let Some(exception) = self.after.take() {
            self.watched = 0;
            return self.fault(exception);
        }
        if self.shadow & KVM_X86_SHADOW_INT_MOV_SS as u8 != 0 {
            return;
        }
        let single_step = single_step && single_steps(decoded, self.state.regs.has(TF));
        let causes = std::mem::take(&mut self.watched) | if single_step { DR6_SINGLE_STEP } else { 0 };
        if causes == 0 {
            return;
        }
        self.note_causes(causes);
        if self.exit.is_some() || self.bus.traffic.exit().is_some() {
            // The exit comes first: it shows the registers behind the instruction.
            let exception = &mut self.state.events.exception;
            (exception.injected, exception.nr, exception.has_error_code) = (1, DEBUG, 0);
            return;
        }
        self.raise(Exception::new(DEBUG, None));
    }

    /// DR6 gets the causes of a debug exception.
    fn note_causes(&mut self, causes: u64) {
        let dr6 = &mut self.state.debug_regs.dr6;
        *dr6 = *dr6 & !DR6_BREAKPOINTS | causes;
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
        self.after = None;
        if fault != Fault::Unanswered {
            self.watched = 0;
        }
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
            self.bus.tlb.flush_all();
            self.state.translation_changed = false;
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
        self.begin_handler(Exception::new(vector, None), false);
    }

    fn begin_handler(&mut self, first: Exception, mut is_exception: bool) {
        let mut exception = first;
        let (before, sregs) = (self.state.regs, self.state.sregs);
        while let Err(fault) = self.deliver(exception, is_exception) {
            let cr2 = self.state.sregs.cr2;
            self.put_back(before, Some(&kvm_sregs { cr2, ..sregs }));
            self.bus.give_up();
            exception = match fault {
                Fault::Exception(second) if !is_exception => second,
                Fault::Exception(_) if exception.vector == DOUBLE_FAULT => return self.exit = Some(Exit::Shutdown),
                Fault::Exception(second) if exception.doubles(second) => Exception::new(DOUBLE_FAULT, Some(0)),
                Fault::Exception(second) => second,
                Fault::Unanswered | Fault::Split | Fault::Unknown => {
                    return self.exit = Some(undeliverable(exception.vector));
                }
            };
            is_exception = true;
        }
        // #DB ends a halt.
        self.state.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
    }

    fn deliver(&mut self, exception: Exception, is_exception: bool) -> Result<()> {
        match (exception.vector, exception.payload) {
            (PAGE, Some(address)) if is_exception => self.state.sregs.cr2 = address,
            (DEBUG, Some(causes)) if is_exception => self.note_causes(causes),
            _ => {}
        }
        self.interrupt(exception, Source::Hardware)?;
        if exception.vector == DEBUG && is_exception {
            self.state.debug_regs.dr7 &= !DR7_GUARD;
        }
        // Nothing is locked here, so nothing can get in between.
        let _ = self.bus.commit();
        if let Some(exception) = self.after.take() {
            // The task that the handler is has begun, and cannot go on.
            self.raise(exception);
        }
        Ok(())
    }

    /// Delivers what `vcpu_events` shows as under way, or what the local APIC or the PICs ask for. Interrupts wait for IF and
    /// for the end of a shadow, NMIs for that of `mov ss`.
    fn deliver_events(&mut self) {
        let events = &mut self.state.events;
        let exception = events.exception;
        let nmi_is_shadowed = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS as u8 != 0;
        let nmi_is_due = events.nmi.pending != 0 && events.nmi.masked == 0 && !nmi_is_shadowed;
        let vector = if exception.injected != 0 {
            events.exception.injected = 0;
            let error = (exception.has_error_code != 0).then_some(exception.error_code as u16);
            return self.fault(Exception::new(exception.nr, error));
        } else if events.nmi.injected != 0 || nmi_is_due {
            if events.nmi.injected != 0 {
                events.nmi.injected = 0
            } else {
                events.nmi.pending -= 1
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
        let exception = events.exception.injected != 0;
        let wakes = self.state.mp_state.mp_state == KVM_MP_STATE_HALTED && (nmi || interrupt || exception);
        if wakes {
            self.state.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        }
        wakes
    }

    /// The exit of an instruction that the interpreter has no model of.
    fn unknown(&mut self, bytes: &[u8; 16], len: u32, name: &str) {
        let bytes = bytes.get(..len as usize).unwrap_or_default();
        let error = InternalError::unknown_instruction(self.code_address(), bytes, name);
        self.exit = Some(Exit::InternalError(error));
    }
}

/// Whether a single step traps after an instruction that began with TF. Software interrupts clear TF before their handler's
/// first instruction; `syscall` leaves it to FMASK, so that TF after it counts.
fn single_steps(decoded: &Decoded, still_set: bool) -> bool {
    use iced_x86::Mnemonic;
    match decoded.instruction.mnemonic() {
        Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 => false,
        Mnemonic::Into | Mnemonic::Syscall => still_set,
        _ => true,
    }
}

/// Whether an instruction is to resume with data. One that was interrupted by an exception may exit for the writes of its
/// frame instead.
pub(super) fn is_read(exit: &Exit) -> bool {
    matches!(exit, Exit::Access(access) if access.direction() == Direction::Read)
}

fn name(decoded: &Decoded) -> String {
    format!("{:?}", decoded.instruction.mnemonic()).to_lowercase()
}

/// `KVM_INTERNAL_ERROR_DELIVERY_EV`.
fn undeliverable(vector: u8) -> Exit {
    Exit::InternalError(InternalError { suberror: 3, data: [vector.into(), 0, 0, 0, 0, 0], words: 1 })
}
