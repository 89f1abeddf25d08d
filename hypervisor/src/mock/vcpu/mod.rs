//! A vCPU of the mock: runs its program, and keeps to what KVM does around it.

mod api;
pub(super) mod event_inbox;
mod state;
mod valid;
mod waker;

use std::sync::Arc;

use event_inbox::EventInbox as Intake;

use super::cpu::{Executed, Interpreter, Progress};
use super::script::Script;
use super::script::runner::ScriptRunner;
use super::vm::Platform;
use crate::kick::{KickSignal, KickState};
use crate::pending::Pending;
use crate::{Exit, Kick, Result, Vcpu, VcpuId};

pub(super) use state::State;

/// A vCPU of the mock. Beyond what every [`Vcpu`] can do, it can be led step by step; see [`Stop`].
pub struct SoftVcpu {
    id: VcpuId,
    program: Program,
    platform: Arc<Platform>,
    kick_state: KickState,
    pub(super) intake: Arc<Intake>,
    /// Whether it had nothing to do when it ran last.
    waits: bool,
    pub(super) pending: Pending,
    pub(super) state: State,
}

/// Why [`SoftVcpu::step`] and [`SoftVcpu::run_to`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// One instruction was executed.
    Stepped,
    /// The instruction at a breakpoint is next.
    Breakpoint,
    /// The guest exited. An access is pending as after a run.
    Exit(Exit),
    /// The vCPU halts, or was not started.
    Idle,
}

/// What a vCPU does.
enum Program {
    Code(Box<Interpreter>),
    Script(ScriptRunner),
}

struct MockKickSignal(Arc<Intake>);

impl KickSignal for MockKickSignal {
    /// The vCPU looks at the kick_state itself before each step.
    fn raise(&self) {}

    fn interrupt(&self) {
        self.0.waker().wake();
    }
}

impl SoftVcpu {
    /// A vCPU that follows a script, or executes guest code without one.
    pub(super) fn new(id: VcpuId, script: Option<Script>, platform: Arc<Platform>) -> Result<Self> {
        let intake = Arc::new(Intake::new(id)?);
        platform.irqs.add(&intake);
        let program = match script {
            Some(script) => Program::Script(ScriptRunner::new(script)),
            None => Program::Code(Box::new(Interpreter::new(Arc::clone(&intake)))),
        };
        Ok(Self {
            id,
            program,
            platform,
            kick_state: KickState::new(MockKickSignal(Arc::clone(&intake))),
            intake,
            waits: id.0 != 0,
            pending: Pending::new(id),
            state: State::after_reset(id),
        })
    }

    /// Ends what the last exit was for; the next exit of the same instruction, if it has one.
    fn finish(&mut self) -> Option<Exit> {
        match &mut self.program {
            Program::Code(code) => code.finish(&mut self.state, &self.platform),
            Program::Script(script) => script.finish(&mut self.state),
        }
    }

    /// Runs the guest for a while.
    fn go_on(&mut self) -> Progress {
        let Self { state, platform, kick_state, intake, .. } = self;
        let progress = match &mut self.program {
            Program::Code(code) => code.go_on(state, platform, kick_state),
            Program::Script(script) => {
                script.step(state, platform, kick_state, intake).map_or(Progress::Idle, Progress::Exit)
            }
        };
        self.has_gone(&progress);
        progress
    }

    /// Tells the VM's clock what was executed, and whether the vCPU waits.
    fn has_gone(&mut self, progress: &Progress) {
        self.platform.irqs.report(&self.intake);
        if self.waits && !matches!(progress, Progress::Idle) {
            self.waits = false;
            self.platform.irqs.leave_idle(&self.intake);
        }
    }

    fn is_scripted(&self) -> bool {
        matches!(self.program, Program::Script(_))
    }

    /// Executes one instruction; of a script, goes on to its next exit. A pending access is finished first, and where it is a
    /// read, finishing its instruction is the step. Kicks are left for [`run`](Vcpu::run).
    ///
    /// # Errors
    ///
    /// A pending read that has not been answered.
    pub fn step(&mut self) -> Result<Stop> {
        self.pending.check_enter()?;
        let is_within = matches!(&self.program, Program::Code(code) if code.is_suspended());
        let progress = match self.finish() {
            Some(exit) => Progress::Exit(exit),
            None if is_within => Progress::Busy,
            None => self.step_or_jump(),
        };
        self.has_gone(&progress);
        let stop = match progress {
            Progress::Exit(exit) => Stop::Exit(exit),
            Progress::Idle => Stop::Idle,
            Progress::Busy => Stop::Stepped,
        };
        self.pending.after(&if let Stop::Exit(exit) = stop { exit } else { Exit::Interrupted });
        Ok(stop)
    }

    /// Executes one instruction. Where nobody has one to execute, a virtual clock jumps first, to where somebody has.
    fn step_or_jump(&mut self) -> Progress {
        loop {
            let wakes = self.intake.wakes();
            let progress = match &mut self.program {
                Program::Code(code) => code.step(&mut self.state, &self.platform),
                Program::Script(_) => self.go_on(),
            };
            if !matches!(progress, Progress::Idle) {
                return progress;
            }
            self.waits = true;
            if !self.platform.irqs.idle(&self.intake, wakes) {
                return Progress::Idle;
            }
        }
    }

    /// Executes at least one instruction, then on until an exit, a halt, or the instruction at one of these linear addresses
    /// is next.
    ///
    /// # Errors
    ///
    /// A pending read that has not been answered.
    pub fn run_to(&mut self, breakpoints: &[u64]) -> Result<Stop> {
        loop {
            let stop = self.step()?;
            if stop != Stop::Stepped {
                return Ok(stop);
            }
            if breakpoints.contains(&self.address()) {
                return Ok(Stop::Breakpoint);
            }
        }
    }

    /// From now on the host does not move the VM's clock.
    pub(super) fn leave_hosts_clock(&self) {
        self.platform.irqs.time.leave_host();
    }

    /// The linear address of the instruction that is next.
    pub fn address(&self) -> u64 {
        if self.state.mode.is_64_bit() {
            return self.state.regs.rip;
        }
        self.state.sregs.cs.base.wrapping_add(self.state.regs.rip) & self.state.mode.linear_mask()
    }

    /// Keeps the last `most` instructions from now on, for [`history`](Self::history).
    pub fn keep_history(&mut self, most: usize) {
        if let Program::Code(code) = &mut self.program {
            code.keep_history(most);
        }
    }

    /// The last instructions that were executed, the oldest first.
    pub fn history(&self) -> Vec<Executed> {
        match &self.program {
            Program::Code(code) => code.history(),
            Program::Script(_) => Vec::new(),
        }
    }

    /// What `run` does once inside: finishes, runs, or waits until it is kicked.
    fn run_inside(&mut self) -> Exit {
        if let Some(exit) = self.finish() {
            return exit;
        }
        loop {
            let wakes = self.intake.wakes();
            let progress = self.go_on();
            if let Progress::Exit(exit) = progress {
                return exit;
            }
            if self.kick_state.is_kicked() {
                self.platform.irqs.leave_idle(&self.intake);
                return Exit::Interrupted;
            }
            if let Progress::Idle = progress {
                self.waits = true;
                if !self.platform.irqs.idle(&self.intake, wakes) {
                    self.platform.irqs.wait(&self.intake);
                }
            }
        }
    }
}

impl Drop for SoftVcpu {
    fn drop(&mut self) {
        self.platform.irqs.retire(&self.intake);
    }
}

impl Vcpu for SoftVcpu {
    fn id(&self) -> VcpuId {
        self.id
    }

    fn kick_handle(&self) -> Kick {
        self.kick_state.kick_handle()
    }

    fn run(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        // A kick that is pending already is seen by `run_inside`, which looks at the kick_state itself.
        let _ = self.kick_state.enter();
        let exit = self.run_inside();
        self.kick_state.leave();
        if exit == Exit::Interrupted {
            self.kick_state.take();
        }
        self.pending.after(&exit);
        Ok(exit)
    }

    fn commit(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        let exit = self.finish().unwrap_or(Exit::Interrupted);
        self.pending.after(&exit);
        Ok(exit)
    }

    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.pending.take_answer(data.len())?;
        match &mut self.program {
            Program::Code(code) => code.answer(data),
            Program::Script(script) => script.answer(data),
        }
        Ok(())
    }

    fn access_data(&self) -> &[u8] {
        match &self.program {
            Program::Code(code) => code.access_data(),
            Program::Script(script) => script.access_data(),
        }
    }
}
