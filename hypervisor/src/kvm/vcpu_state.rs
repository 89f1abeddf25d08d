//! A vCPU's state on KVM, an ioctl each.
#![allow(unsafe_code, reason = "KVM_GET_SUPPORTED_HV_CPUID has no wrapper")]

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVMIO, Msrs, kvm_cpuid_entry2, kvm_cpuid2, kvm_debugregs, kvm_enable_cap, kvm_fpu,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_iowr_nr;

use super::vcpu::KvmVcpu;
use super::{refused, system};
use crate::{Capability, Result, VcpuState};

ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);

impl VcpuState for KvmVcpu {
    fn regs(&self) -> Result<kvm_regs> {
        self.current_regs()
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.pending.check_set()?;
        self.change_regs(regs)
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        self.fd.get_sregs().map_err(system("KVM_GET_SREGS"))
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.pending.check_set()?;
        self.hand_over_regs()?;
        self.fd.set_sregs(sregs).map_err(system("KVM_SET_SREGS"))
    }

    fn mp_state(&self) -> Result<kvm_mp_state> {
        self.fd.get_mp_state().map_err(system("KVM_GET_MP_STATE"))
    }

    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        self.fd.set_mp_state(*state).map_err(system("KVM_SET_MP_STATE"))
    }

    fn fpu(&self) -> Result<kvm_fpu> {
        self.fd.get_fpu().map_err(system("KVM_GET_FPU"))
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        self.fd.set_fpu(fpu).map_err(system("KVM_SET_FPU"))
    }

    fn debug_regs(&self) -> Result<kvm_debugregs> {
        self.fd.get_debug_regs().map_err(system("KVM_GET_DEBUGREGS"))
    }

    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        self.fd.set_debug_regs(regs).map_err(system("KVM_SET_DEBUGREGS"))
    }

    fn lapic(&self) -> Result<kvm_lapic_state> {
        self.fd.get_lapic().map_err(system("KVM_GET_LAPIC"))
    }

    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()> {
        self.fd.set_lapic(lapic).map_err(system("KVM_SET_LAPIC"))
    }

    fn xcrs(&self) -> Result<kvm_xcrs> {
        self.fd.get_xcrs().map_err(system("KVM_GET_XCRS"))
    }

    fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()> {
        self.fd.set_xcrs(xcrs).map_err(system("KVM_SET_XCRS"))
    }

    fn vcpu_events(&self) -> Result<kvm_vcpu_events> {
        self.hand_over_regs()?;
        self.fd.get_vcpu_events().map_err(system("KVM_GET_VCPU_EVENTS"))
    }

    fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        // Registers that are set take back an exception that waits.
        self.hand_over_regs()?;
        self.fd.set_vcpu_events(events).map_err(system("KVM_SET_VCPU_EVENTS"))
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>> {
        let entries: Vec<_> = indices.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| refused("KVM_GET_MSRS", libc::E2BIG))?;
        let known = self.fd.get_msrs(&mut msrs).map_err(system("KVM_GET_MSRS"))?;
        Ok(msrs.as_slice().iter().take(known).map(|entry| entry.data).collect())
    }

    fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize> {
        let msrs = Msrs::from_entries(entries).map_err(|_| refused("KVM_SET_MSRS", libc::E2BIG))?;
        self.fd.set_msrs(&msrs).map_err(system("KVM_SET_MSRS"))
    }

    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        let cpuid = CpuId::from_entries(entries).map_err(|_| refused("KVM_SET_CPUID2", libc::E2BIG))?;
        self.fd.set_cpuid2(&cpuid).map_err(system("KVM_SET_CPUID2"))
    }

    fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        const CALL: &str = "KVM_GET_SUPPORTED_HV_CPUID";
        let mut cpuid = CpuId::new(KVM_MAX_CPUID_ENTRIES).map_err(|_| refused(CALL, libc::ENOMEM))?;
        // SAFETY: the structure has room for as many entries as it says.
        let result =
            unsafe { ioctl_with_mut_ptr(&self.fd, KVM_GET_SUPPORTED_HV_CPUID(), cpuid.as_mut_fam_struct_ptr()) };
        if result < 0 {
            return Err(system(CALL)(errno::Error::last()));
        }
        Ok(cpuid.as_slice().to_vec())
    }

    fn enable_capability(&mut self, capability: Capability) -> Result<()> {
        let cap = kvm_enable_cap { cap: capability.number(), ..Default::default() };
        self.fd.enable_cap(&cap).map_err(system("KVM_ENABLE_CAP"))
    }
}
