//! The traits a backend implements.

mod coalescing;
mod ids;
#[cfg(feature = "mockall")]
mod mocks;
mod vcpu;
mod vm;

use std::sync::Arc;

use kvm_bindings::kvm_cpuid_entry2;

pub use coalescing::Coalescing;
pub use ids::{Gsi, SlotId, VcpuId};
#[cfg(feature = "mockall")]
pub use mocks::{MockVcpu, MockVm};
pub use vcpu::{Capability, Vcpu, VcpuState};
pub use vm::{Irqs, Pic, Route, Vm, VmState};

use crate::Result;

/// A maker of virtual machines.
#[cfg_attr(feature = "mockall", mockall::automock)]
pub trait Hypervisor: Send + Sync {
    /// What people call it: `kvm`, `mock`.
    fn name(&self) -> &'static str;

    /// Makes a VM with an interrupt controller and a PIT, without memory, without vCPUs.
    fn create_vm(&self) -> Result<Arc<dyn Vm>>;

    /// The CPUID leaves a guest can be given (`KVM_GET_SUPPORTED_CPUID`).
    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;

    /// The CPUID leaves of features that are emulated, slowly (`KVM_GET_EMULATED_CPUID`).
    fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;

    /// The MSRs that make up a vCPU's state (`KVM_GET_MSR_INDEX_LIST`).
    fn msr_indices(&self) -> Result<Vec<u32>>;
}
