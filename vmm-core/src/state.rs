//! The state of a vCPU that its owners get and set.

use hypervisor::{
    Result, Vcpu, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

/// Which state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// General registers.
    Regs,
    /// Segment and control registers.
    Sregs,
    /// x87 and SSE registers.
    Fpu,
    /// Debug registers.
    DebugRegs,
    /// The local APIC.
    Lapic,
    /// Whether it runs or waits.
    MpState,
    /// Extended control registers.
    Xcrs,
    /// Exceptions and interrupts under way.
    Events,
}

/// State of a vCPU.
#[derive(Clone, Debug)]
pub enum State {
    /// General registers.
    Regs(Box<kvm_regs>),
    /// Segment and control registers.
    Sregs(Box<kvm_sregs>),
    /// x87 and SSE registers.
    Fpu(Box<kvm_fpu>),
    /// Debug registers.
    DebugRegs(Box<kvm_debugregs>),
    /// The local APIC.
    Lapic(Box<kvm_lapic_state>),
    /// Whether it runs or waits.
    MpState(kvm_mp_state),
    /// Extended control registers.
    Xcrs(Box<kvm_xcrs>),
    /// Exceptions and interrupts under way.
    Events(Box<kvm_vcpu_events>),
}

impl State {
    /// The state of this kind that `vcpu` has now.
    pub(crate) fn of(vcpu: &dyn Vcpu, kind: StateKind) -> Result<Self> {
        Ok(match kind {
            StateKind::Regs => Self::Regs(Box::new(vcpu.regs()?)),
            StateKind::Sregs => Self::Sregs(Box::new(vcpu.sregs()?)),
            StateKind::DebugRegs => Self::DebugRegs(Box::new(vcpu.debug_regs()?)),
            StateKind::Fpu => Self::Fpu(Box::new(vcpu.fpu()?)),
            StateKind::Lapic => Self::Lapic(Box::new(vcpu.lapic()?)),
            StateKind::MpState => Self::MpState(vcpu.mp_state()?),
            StateKind::Xcrs => Self::Xcrs(Box::new(vcpu.xcrs()?)),
            StateKind::Events => Self::Events(Box::new(vcpu.vcpu_events()?)),
        })
    }

    /// Sets it on `vcpu`.
    pub(crate) fn apply(&self, vcpu: &mut dyn Vcpu) -> Result<()> {
        match self {
            Self::Regs(regs) => vcpu.set_regs(regs),
            Self::Sregs(sregs) => vcpu.set_sregs(sregs),
            Self::Fpu(fpu) => vcpu.set_fpu(fpu),
            Self::DebugRegs(debug_regs) => vcpu.set_debug_regs(debug_regs),
            Self::Lapic(lapic) => vcpu.set_lapic(lapic),
            Self::MpState(mp_state) => vcpu.set_mp_state(mp_state),
            Self::Xcrs(xcrs) => vcpu.set_xcrs(xcrs),
            Self::Events(events) => vcpu.set_vcpu_events(events),
        }
    }
}
