//! A backend some of whose operations fail.

use std::sync::Arc;

use hypervisor::{Hypervisor, Result, Vm, kvm_cpuid_entry2};

use super::Faults;
use super::vm::FaultyVm;

/// A backend around another, which does what that does, but for the operation that [`Faults`] has fail.
///
/// An operation that fails is not passed on: nothing has changed, as where the kernel refuses a call.
#[derive(Debug)]
pub struct Faulty<H> {
    inner: H,
    faults: Faults,
}

impl<H: Hypervisor> Faulty<H> {
    /// `inner`, with faults.
    pub fn new(inner: H, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

impl<H: Hypervisor> Hypervisor for Faulty<H> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        self.faults.ask("KVM_CREATE_VM")?;
        Ok(Arc::new(FaultyVm { inner: self.inner.create_vm()?, faults: self.faults.clone() }))
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.faults.ask("KVM_GET_SUPPORTED_CPUID")?;
        self.inner.supported_cpuid()
    }

    fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.faults.ask("KVM_GET_EMULATED_CPUID")?;
        self.inner.emulated_cpuid()
    }

    fn msr_indices(&self) -> Result<Vec<u32>> {
        self.faults.ask("KVM_GET_MSR_INDEX_LIST")?;
        self.inner.msr_indices()
    }
}
