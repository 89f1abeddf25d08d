//! A virtual CPU: running it, and its state.

use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use super::VcpuId;
use crate::{Exit, Kick, Result};

/// A virtual CPU, driven by one thread at a time. Its registers and the like are in its supertrait.
///
/// # The rules of an access
///
/// * [`run`](Self::run) that returned an [`Exit::Access`] has left the access unfinished; the next `run` or
///   [`commit`](Self::commit) finishes it first.
/// * A read must be given its data by [`answer`](Self::answer) before that; `run` on an unanswered read is an error.
///   [`Exit::HypervCall`] is a read of 8 bytes, the call's result.
/// * Registers must not be set between a read's exit and its `commit`: KVM would drop the data. The setters of
///   general, segment and control registers refuse. Within a write's exit they may be set.
/// * Finishing one access may give the next fragment of the same instruction, an access like any other.
///   Only [`Exit::Interrupted`] says that the instruction is done and the state whole.
pub trait Vcpu: VcpuState + Send {
    /// Its number.
    fn id(&self) -> VcpuId;

    /// A handle by which any thread can make the current or the next [`run`](Self::run) return
    /// [`Exit::Interrupted`].
    fn kick_handle(&self) -> Kick;

    /// Finishes a pending access, enters the guest, and returns at its next exit. An `Interrupted` that nobody
    /// asked for is legal; a kick outlives exits of other kinds until an `Interrupted` was returned for it.
    fn run(&mut self) -> Result<Exit>;

    /// Finishes a pending access without running the guest: `Interrupted` when all is done, or the next fragment.
    /// A kick that comes meanwhile is kept for the next [`run`](Self::run).
    fn commit(&mut self) -> Result<Exit>;

    /// Gives the data of the pending read: exactly as many bytes as the access is long.
    fn answer(&mut self, data: &[u8]) -> Result<()>;

    /// The bytes of the pending write; empty where there is none.
    fn access_data(&self) -> &[u8];
}

/// A vCPU's state, as the kernel's structures have it. What a setter refuses is the kernel's `EINVAL`, unless said
/// otherwise.
pub trait VcpuState {
    /// The general registers. Within an exit: as the kernel shows them there. Right after a run they cost nothing.
    fn regs(&self) -> Result<kvm_regs>;
    /// Sets the general registers.
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()>;
    /// Segment and control registers.
    fn sregs(&self) -> Result<kvm_sregs>;
    /// Sets segment and control registers.
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()>;
    /// Whether the vCPU runs, halts, or waits for a start-up interrupt (`KVM_MP_STATE_*`).
    fn mp_state(&self) -> Result<kvm_mp_state>;
    /// Sets the MP state.
    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()>;
    /// The x87 and SSE registers, without MXCSR: KVM gives it as 0 and does not take it.
    fn fpu(&self) -> Result<kvm_fpu>;
    /// Sets the x87 and SSE registers.
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()>;
    /// The debug registers.
    fn debug_regs(&self) -> Result<kvm_debugregs>;
    /// Sets the debug registers. The upper halves of DR6 and DR7, and the flags, must be 0.
    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()>;
    /// The local APIC's register page.
    fn lapic(&self) -> Result<kvm_lapic_state>;
    /// Sets the local APIC.
    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()>;
    /// The extended control registers.
    fn xcrs(&self) -> Result<kvm_xcrs>;
    /// Sets the extended control registers: at most 16, no flags; XCR0 as far as the CPUID allows.
    fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()>;
    /// Exceptions, interrupts and the like that are under way.
    fn vcpu_events(&self) -> Result<kvm_vcpu_events>;
    /// Sets what is under way.
    fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()>;

    /// The values of MSRs, in order, up to the first that cannot be read. `E2BIG` for more than 256.
    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>>;
    /// Sets MSRs in order, up to the first that cannot be set: how many were. `E2BIG` for more than 256.
    fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize>;
    /// Sets what `cpuid` tells the guest. Not to be changed after the first run. `E2BIG` for more than 256 leaves.
    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()>;
    /// The CPUID leaves of the Hyper-V features there are (`KVM_GET_SUPPORTED_HV_CPUID`).
    fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;
    /// Turns a feature on for this vCPU (`KVM_ENABLE_CAP`).
    fn enable_capability(&mut self, capability: Capability) -> Result<()>;
}

/// A feature that is off until a vCPU asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Hyper-V's synthetic interrupt controller (`KVM_CAP_HYPERV_SYNIC`, 123).
    HypervSynic,
    /// The same, with its pages left as the guest has them (`KVM_CAP_HYPERV_SYNIC2`, 148).
    HypervSynic2,
}

impl Capability {
    /// The capability the kernel has under `number`, if it is one of these.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            KVM_CAP_HYPERV_SYNIC => Some(Self::HypervSynic),
            KVM_CAP_HYPERV_SYNIC2 => Some(Self::HypervSynic2),
            _ => None,
        }
    }

    /// The kernel's number.
    pub fn number(self) -> u32 {
        match self {
            Self::HypervSynic => KVM_CAP_HYPERV_SYNIC,
            Self::HypervSynic2 => KVM_CAP_HYPERV_SYNIC2,
        }
    }
}
