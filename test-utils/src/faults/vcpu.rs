//! A vCPU some of whose operations fail.

use hypervisor::{
    Capability, Exit, Kick, Result, Vcpu, VcpuId, VcpuState, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use super::Faults;

pub(super) struct FaultyVcpu {
    pub(super) inner: Box<dyn Vcpu>,
    pub(super) faults: Faults,
}

impl Vcpu for FaultyVcpu {
    fn id(&self) -> VcpuId {
        self.inner.id()
    }

    fn kick_handle(&self) -> Kick {
        self.inner.kick_handle()
    }

    fn run(&mut self) -> Result<Exit> {
        self.faults.ask("KVM_RUN")?;
        self.inner.run()
    }

    /// A run too, which does not get as far as the guest.
    fn commit(&mut self) -> Result<Exit> {
        self.faults.ask("KVM_RUN")?;
        self.inner.commit()
    }

    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.inner.answer(data)
    }

    fn access_data(&self) -> &[u8] {
        self.inner.access_data()
    }
}

impl VcpuState for FaultyVcpu {
    fn regs(&self) -> Result<kvm_regs> {
        self.faults.ask("KVM_GET_REGS")?;
        self.inner.regs()
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.faults.ask("KVM_SET_REGS")?;
        self.inner.set_regs(regs)
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        self.faults.ask("KVM_GET_SREGS")?;
        self.inner.sregs()
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.faults.ask("KVM_SET_SREGS")?;
        self.inner.set_sregs(sregs)
    }

    fn mp_state(&self) -> Result<kvm_mp_state> {
        self.faults.ask("KVM_GET_MP_STATE")?;
        self.inner.mp_state()
    }

    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        self.faults.ask("KVM_SET_MP_STATE")?;
        self.inner.set_mp_state(state)
    }

    fn fpu(&self) -> Result<kvm_fpu> {
        self.faults.ask("KVM_GET_FPU")?;
        self.inner.fpu()
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        self.faults.ask("KVM_SET_FPU")?;
        self.inner.set_fpu(fpu)
    }

    fn debug_regs(&self) -> Result<kvm_debugregs> {
        self.faults.ask("KVM_GET_DEBUGREGS")?;
        self.inner.debug_regs()
    }

    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        self.faults.ask("KVM_SET_DEBUGREGS")?;
        self.inner.set_debug_regs(regs)
    }

    fn lapic(&self) -> Result<kvm_lapic_state> {
        self.faults.ask("KVM_GET_LAPIC")?;
        self.inner.lapic()
    }

    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()> {
        self.faults.ask("KVM_SET_LAPIC")?;
        self.inner.set_lapic(lapic)
    }

    fn xcrs(&self) -> Result<kvm_xcrs> {
        self.faults.ask("KVM_GET_XCRS")?;
        self.inner.xcrs()
    }

    fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()> {
        self.faults.ask("KVM_SET_XCRS")?;
        self.inner.set_xcrs(xcrs)
    }

    fn vcpu_events(&self) -> Result<kvm_vcpu_events> {
        self.faults.ask("KVM_GET_VCPU_EVENTS")?;
        self.inner.vcpu_events()
    }

    fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        self.faults.ask("KVM_SET_VCPU_EVENTS")?;
        self.inner.set_vcpu_events(events)
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>> {
        self.faults.ask("KVM_GET_MSRS")?;
        self.inner.msrs(indices)
    }

    fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize> {
        self.faults.ask("KVM_SET_MSRS")?;
        self.inner.set_msrs(entries)
    }

    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        self.faults.ask("KVM_SET_CPUID2")?;
        self.inner.set_cpuid(entries)
    }

    fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.faults.ask("KVM_GET_SUPPORTED_HV_CPUID")?;
        self.inner.hyperv_cpuid()
    }

    fn enable_capability(&mut self, capability: Capability) -> Result<()> {
        self.faults.ask("KVM_ENABLE_CAP")?;
        self.inner.enable_capability(capability)
    }
}
