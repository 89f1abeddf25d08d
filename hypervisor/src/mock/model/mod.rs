//! What the mock offers: capabilities, the processor's CPUID and MSRs, the paravirtual clock.

pub(super) mod capabilities;
pub(super) mod cpuid;
pub(super) mod kvmclock;
pub(super) mod msrs;
