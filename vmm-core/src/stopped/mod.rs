//! A stopped vCPU, as its handler has it: the one place through which state of a vCPU is read and set while it is stopped.

mod deferred_regs;
mod local;
mod remote;

use std::time::Instant;

use hypervisor::{Capability, Result, kvm_cpuid_entry2, kvm_msr_entry, kvm_regs};

pub(crate) use deferred_regs::DeferredRegs;
pub(crate) use local::LocalVcpu;
pub(crate) use remote::{RemoteVcpu, Reply};

use crate::error::LinkError;
use crate::state::{State, StateKind};
use crate::stop_signal::StopSignal;

/// The result of a call on a stopped vCPU: the outer error ends the handling of the exit, the inner one is the backend's.
pub type CallResult<T> = std::result::Result<Result<T>, LinkError>;

/// A vCPU that waits for its [`ExitHandler`](crate::ExitHandler).
///
/// On the vCPU's own thread a call is a call on the vCPU itself; from another thread it is sent to that thread and the result
/// is waited for. Every call fails with [`LinkError::Stopped`] once the machine stops, and with [`LinkError::TimedOut`] after the
/// deadline.
pub struct StoppedVcpu<'a>(Place<'a>);

enum Place<'a> {
    Local { vcpu: LocalVcpu<'a>, stop: &'a StopSignal, deadline: Option<Instant> },
    Remote(&'a RemoteVcpu),
}

impl<'a> StoppedVcpu<'a> {
    #[inline]
    pub(crate) fn local(vcpu: LocalVcpu<'a>, stop: &'a StopSignal, deadline: Option<Instant>) -> Self {
        Self(Place::Local { vcpu, stop, deadline })
    }

    pub(crate) fn remote(vcpu: &'a RemoteVcpu) -> Self {
        Self(Place::Remote(vcpu))
    }

    /// When the exit must be handled; `None` for no limit, and on another thread, where the vCPU checks the time itself.
    #[must_use]
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.0 {
            Place::Local { deadline, .. } => *deadline,
            Place::Remote(_) => None,
        }
    }

    /// Fails where the vCPU must not wait any longer. For a handler that works long without a call.
    ///
    /// # Errors
    ///
    /// [`LinkError::Stopped`], [`LinkError::TimedOut`].
    pub fn check_wait(&self) -> std::result::Result<(), LinkError> {
        match &self.0 {
            Place::Local { stop, deadline, .. } => stop.check_wait(*deadline),
            Place::Remote(_) => Ok(()),
        }
    }

    fn call<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut LocalVcpu<'_>) -> T + Send + 'static,
    ) -> std::result::Result<T, LinkError> {
        self.check_wait()?;
        match &mut self.0 {
            Place::Local { vcpu, .. } => Ok(call(vcpu)),
            Place::Remote(vcpu) => vcpu.call(call),
        }
    }

    /// Returns state. Registers that were set within this exit are returned as they were set.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn get(&mut self, kind: StateKind) -> CallResult<State> {
        self.call(move |vcpu| vcpu.get(kind))
    }

    /// Sets state. Within the exit of a read, registers take effect with the resume.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn set(&mut self, state: State) -> CallResult<()> {
        self.call(move |vcpu| vcpu.set(state))
    }

    /// Returns the general registers.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn regs(&mut self) -> CallResult<kvm_regs> {
        self.call(|vcpu| vcpu.regs())
    }

    /// Returns the values of MSRs, up to the first that cannot be read.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn msrs(&mut self, indices: Vec<u32>) -> CallResult<Vec<u64>> {
        self.call(move |vcpu| vcpu.vcpu.msrs(&indices))
    }

    /// Sets MSRs, up to the first that cannot be set. Returns how many were set.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn set_msrs(&mut self, entries: Vec<kvm_msr_entry>) -> CallResult<usize> {
        self.call(move |vcpu| vcpu.vcpu.set_msrs(&entries))
    }

    /// Sets what `cpuid` returns to the guest.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn set_cpuid(&mut self, entries: Vec<kvm_cpuid_entry2>) -> CallResult<()> {
        self.call(move |vcpu| vcpu.vcpu.set_cpuid(&entries))
    }

    /// Returns the CPUID leaves of the Hyper-V features there are.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn hyperv_cpuid(&mut self) -> CallResult<Vec<kvm_cpuid_entry2>> {
        self.call(|vcpu| vcpu.vcpu.hyperv_cpuid())
    }

    /// Turns on a feature.
    ///
    /// # Errors
    ///
    /// As those of the backend.
    pub fn enable_capability(&mut self, capability: Capability) -> CallResult<()> {
        self.call(move |vcpu| vcpu.vcpu.enable_capability(capability))
    }
}
