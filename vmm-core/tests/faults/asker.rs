//! A handler that gets all state of a stopped vCPU, and sets it as it was.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hypervisor::{Capability, Direction, kvm_mp_state};
use vmm_core::{
    Action, CallResult, Exchange, ExitHandler, LinkError, PostedWrite, State, StateKind, StoppedVcpu, VcpuExit,
};

/// What was told to owners and callers.
#[derive(Default)]
pub(crate) struct Told {
    complaints: Mutex<Vec<String>>,
    initialisations: AtomicUsize,
}

impl Told {
    /// Something failed, in these words.
    pub(crate) fn complain(&self, error: &dyn Display) {
        self.complaints.lock().unwrap().push(error.to_string());
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    /// How many vCPUs were given to how many owners to initialise.
    pub(crate) fn initialisations(&self) -> usize {
        self.initialisations.load(Ordering::SeqCst)
    }
}

const KINDS: [StateKind; 8] = [
    StateKind::Regs,
    StateKind::Sregs,
    StateKind::Fpu,
    StateKind::DebugRegs,
    StateKind::Lapic,
    StateKind::MpState,
    StateKind::Xcrs,
    StateKind::Events,
];

/// An MSR that every backend has: `IA32_SYSENTER_CS`.
const MSR: u32 = 0x174;

pub(crate) struct Asker {
    told: Arc<Told>,
}

impl Asker {
    pub(crate) fn new(told: &Arc<Told>) -> Self {
        Self { told: Arc::clone(told) }
    }

    /// The value of a call; a failure of the backend is noted.
    fn check<T>(&self, result: CallResult<T>) -> Result<Option<T>, LinkError> {
        Ok(result?.map_err(|error| self.told.complain(&error)).ok())
    }

    fn init(&self, vcpu: &mut StoppedVcpu<'_>) -> Result<(), LinkError> {
        self.told.initialisations.fetch_add(1, Ordering::SeqCst);
        self.check(vcpu.set(State::MpState(kvm_mp_state { mp_state: 0 })))?;
        self.check(vcpu.set_cpuid(Vec::new()))?;
        self.check(vcpu.msrs(vec![MSR]))?;
        self.check(vcpu.set_msrs(vec![hypervisor::kvm_msr_entry { index: MSR, ..Default::default() }]))?;
        self.check(vcpu.hyperv_cpuid())?;
        self.check(vcpu.enable_capability(Capability::HypervSynic))?;
        Ok(())
    }

    /// Gets all state and sets it as it was.
    fn set_back(&self, vcpu: &mut StoppedVcpu<'_>) -> Result<(), LinkError> {
        for kind in KINDS {
            if let Some(state) = self.check(vcpu.get(kind))? {
                self.check(vcpu.set(state))?;
            }
        }
        Ok(())
    }
}

impl ExitHandler for Asker {
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        match exit {
            VcpuExit::Init => self.init(vcpu)?,
            VcpuExit::Access { access, exchange } => {
                self.set_back(vcpu)?;
                let mut resume = match access.direction() {
                    Direction::Read => Exchange::read_data(&vec![7; access.len()]),
                    Direction::Write => Box::default(),
                };
                // The resume sets them once more.
                if access.direction() == Direction::Write {
                    resume.set = exchange.attached.clone();
                }
                return Ok(Action::Resume(resume));
            }
            VcpuExit::Paused { .. } => drop(self.check(vcpu.get(StateKind::Regs))?),
            VcpuExit::HypervCall { .. } | VcpuExit::HypervSynic(_) => {}
        }
        Ok(Action::resume())
    }

    fn post(&mut self, _: PostedWrite, _: Option<Instant>) -> Result<(), LinkError> {
        Ok(())
    }
}
