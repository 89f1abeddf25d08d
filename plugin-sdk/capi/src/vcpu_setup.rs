//! A vCPU's MSRs, CPUID and capabilities.

use std::sync::Mutex;

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry};
use plugin_sdk::Capability;

use crate::errno::{Errno, Result};
use crate::export::export;
use crate::lists;
use crate::pointers::{Handle, In, Out, Room};
use crate::vcpu::Vcpu;

export! {
    fn crosvm_vcpu_get_msrs(
        vcpu: Handle<Mutex<Vcpu>>,
        count: u32,
        entries: Room<kvm_msr_entry>,
        out_count: Out<u32>,
    ) -> Result<()> {
        let out_count = out_count.check_count()?;
        let mut wanted = entries.read_all(count)?;
        let indices: Vec<_> = wanted.iter().map(|entry| entry.index).collect();
        let values = vcpu.lock()?.with_state(|state| state.msrs(&indices))?;
        wanted.truncate(values.len());
        for (entry, value) in wanted.iter_mut().zip(values) {
            entry.data = value;
        }
        lists::give(&wanted, count, &entries, &out_count)
    }

    fn crosvm_vcpu_set_msrs(vcpu: Handle<Mutex<Vcpu>>, count: u32, entries: In<kvm_msr_entry>) -> Result<()> {
        let entries = entries.read_all(count)?;
        vcpu.lock()?.with_state(|state| state.set_msrs(&entries))
    }

    fn crosvm_vcpu_set_cpuid(vcpu: Handle<Mutex<Vcpu>>, count: u32, entries: In<kvm_cpuid_entry2>) -> Result<()> {
        let entries = entries.read_all(count)?;
        vcpu.lock()?.with_state(|state| state.set_cpuid(&entries))
    }

    fn crosvm_get_hyperv_cpuid(
        vcpu: Handle<Mutex<Vcpu>>,
        count: u32,
        entries: Room<kvm_cpuid_entry2>,
        out_count: Out<u32>,
    ) -> Result<()> {
        let out_count = out_count.check_count()?;
        entries.check(count)?;
        let found = vcpu.lock()?.with_state(|state| state.hyperv_cpuid())?;
        lists::give(&found, count, &entries, &out_count)
    }

    fn crosvm_vcpu_enable_capability(
        vcpu: Handle<Mutex<Vcpu>>,
        capability: u32,
        flags: u32,
        args: In<u64>,
    ) -> Result<()> {
        let args = args.read_all(4)?;
        let capability = Capability::try_from(capability)?;
        if flags != 0 || args.iter().any(|&arg| arg != 0) {
            return Err(Errno::INVAL);
        }
        vcpu.lock()?.with_state(|state| state.enable_capability(capability))
    }
}
