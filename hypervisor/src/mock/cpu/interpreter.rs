//! The interpreter as its vCPU drives it: one timeslice, one step, the completion of an exit.

use std::sync::Arc;

use super::Exec;
use super::block::Blocks;
use super::bus::Bus;
use super::decode::Decoded;
use super::execute::Advance;
use super::mode::CR4_PAE;
use super::tlb::Tlb;
use super::trace::{Executed, History};
use super::traffic::Traffic;
use crate::Exit;
use crate::kick::KickState;
use crate::mock::memory::Slots;
use crate::mock::vcpu::State;
use crate::mock::vcpu::event_inbox::{EventInbox as Intake, RETIME};
use crate::mock::vm::Platform;

/// Instructions that are executed before someone who waits to change memory slots may do so.
const TIMESLICE: u32 = 1024;

/// What executes a vCPU's code, and remembers what an exit left unfinished.
pub(in crate::mock) struct Interpreter {
    intake: Arc<Intake>,
    traffic: Traffic,
    tlb: Tlb,
    blocks: Blocks,
    /// The instruction whose read waits for its data, or which waits for the other vCPUs to stop.
    suspended: Option<Decoded>,
    history: History,
}

/// What became of a timeslice.
pub(in crate::mock) enum Progress {
    Exit(Exit),
    /// The vCPU halts, or was not started yet.
    Idle,
    /// There is more to do.
    Busy,
}

impl<'a> Exec<'a> {
    /// A processor that executes on this state, with what it is connected to.
    pub(super) fn new(state: &'a mut State, bus: Bus<'a>) -> Self {
        let mut exec =
            Self { state, bus, start: 0, shadow: 0, repeats: false, split: false, after: None, watched: 0, exit: None };
        exec.state.has_run = true;
        if exec.state.translation_changed {
            exec.take_translation();
        }
        exec
    }

    /// Registers that translate addresses were set from outside.
    #[cold]
    fn take_translation(&mut self) {
        self.state.translation_changed = false;
        self.bus.tlb.flush_all();
        let mode = self.state.mode;
        if mode.is_paged && !mode.is_long && self.state.sregs.cr4 & CR4_PAE != 0 {
            // As in KVM, entries with reserved bits are found out about by what they translate.
            let _ = self.load_pdptrs(self.state.sregs.cr3);
        }
    }
}

impl Interpreter {
    pub(in crate::mock) fn new(intake: Arc<Intake>) -> Self {
        Self {
            intake,
            traffic: Traffic::default(),
            tlb: Tlb::default(),
            blocks: Blocks::default(),
            suspended: None,
            history: History::default(),
        }
    }

    fn bus<'a>(
        traffic: &'a mut Traffic,
        tlb: &'a mut Tlb,
        intake: &'a Intake,
        slots: &'a Slots,
        platform: &'a Platform,
    ) -> Bus<'a> {
        Bus::new(slots, platform, intake, traffic, tlb)
    }

    /// The exit's data, where it is a write.
    pub(in crate::mock) fn access_data(&self) -> &[u8] {
        match self.traffic.asked() {
            Some(_) => &[],
            None => self.traffic.exit().and_then(|access| access.inline_data()).unwrap_or_default(),
        }
    }

    /// Takes the data of a read.
    pub(in crate::mock) fn answer(&mut self, data: &[u8]) {
        self.traffic.answer(data);
    }

    /// Finishes what the last exit was for; the next exit of the same instruction, if there is one.
    pub(in crate::mock) fn finish(&mut self, state: &mut State, platform: &Platform) -> Option<Exit> {
        match self.suspended.take() {
            Some(decoded) => {
                let slots = platform.memory.slots();
                let bus = Self::bus(&mut self.traffic, &mut self.tlb, &self.intake, &slots, platform);
                Exec::new(state, bus).resume(decoded, &mut self.suspended)
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
        let bus = Self::bus(&mut self.traffic, &mut self.tlb, &self.intake, &slots, platform);
        match Exec::new(state, bus).advance(&mut self.suspended, &mut self.history) {
            Advance::On => Progress::Busy,
            Advance::Stop(progress) => progress,
            Advance::Split => {
                drop(slots);
                self.finish_alone(state, platform)
            }
        }
    }

    /// Executes the instruction that reads and writes as one over two words, as a bus lock has it: every other vCPU ends
    /// its timeslice first, and none begins another one meanwhile.
    fn finish_alone(&mut self, state: &mut State, platform: &Platform) -> Progress {
        let Some(decoded) = self.suspended.take() else { return Progress::Busy };
        let slots = platform.memory.slots_alone();
        let bus = Self::bus(&mut self.traffic, &mut self.tlb, &self.intake, &slots, platform).alone();
        let exit = Exec::new(state, bus).resume(decoded, &mut self.suspended);
        exit.map_or(Progress::Busy, Progress::Exit)
    }

    /// Executes a timeslice.
    pub(in crate::mock) fn go_on(
        &mut self,
        state: &mut State,
        platform: &Platform,
        kick_state: &KickState,
    ) -> Progress {
        let batch = platform.irqs.begin_batch(&self.intake, TIMESLICE);
        let slots = platform.memory.slots();
        state.msrs.clock_pages.update(&platform.clock, &platform.irqs, &self.intake, &slots);
        let bus = Self::bus(&mut self.traffic, &mut self.tlb, &self.intake, &slots, platform);
        let mut exec = Exec::new(state, bus);
        let mut left = batch;
        while left > 0 {
            if kick_state.is_kicked() || self.intake.word() & RETIME != 0 {
                return Progress::Busy;
            }
            let executed = match self.history.is_on() {
                false => exec.run_block(&mut self.blocks, &mut self.suspended, left),
                true => 0,
            };
            if executed != 0 && exec.exit.is_none() && !exec.split {
                left -= executed;
                continue;
            }
            let advance = match executed {
                0 => exec.advance(&mut self.suspended, &mut self.history),
                _ => exec.outcome(),
            };
            left -= 1;
            match advance {
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
