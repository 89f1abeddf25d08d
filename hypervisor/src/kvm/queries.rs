//! What KVM says of the system.
#![allow(unsafe_code, reason = "kvm-ioctls' KVM_GET_MSR_INDEX_LIST has room for 256 MSRs only")]

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_cpuid_entry2, kvm_msr_list};
use kvm_ioctls::Kvm as KvmFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_iowr_nr;

use super::system;
use crate::Result;

ioctl_iowr_nr!(KVM_GET_MSR_INDEX_LIST, KVMIO, 0x02, kvm_msr_list);

/// All leaves that fit into what KVM takes at most, so that they do not come short.
pub(super) fn cpuid(
    what: &'static str,
    ask: impl FnOnce(usize) -> std::result::Result<CpuId, errno::Error>,
) -> Result<Vec<kvm_cpuid_entry2>> {
    Ok(ask(KVM_MAX_CPUID_ENTRIES).map_err(system(what))?.as_slice().to_vec())
}

/// All MSR indices. The kernel tells how many there are where the room was too small.
pub(super) fn msr_indices(kvm: &KvmFd) -> Result<Vec<u32>> {
    let mut room = 256;
    loop {
        // A `kvm_msr_list`: the count, then as many indices.
        let mut list = vec![0_u32; (room as usize).saturating_add(1)];
        if let Some(count) = list.first_mut() {
            *count = room;
        }
        // SAFETY: behind the count there is room for as many indices as it says.
        let result = unsafe { ioctl_with_mut_ptr(kvm, KVM_GET_MSR_INDEX_LIST(), list.as_mut_ptr()) };
        let error = (result < 0).then(errno::Error::last);
        let count = list.first().copied().unwrap_or(0);
        match error {
            None => return Ok(list.into_iter().skip(1).take(count as usize).collect()),
            Some(error) if error.errno() == libc::E2BIG && count > room => room = count,
            Some(error) => return Err(system("KVM_GET_MSR_INDEX_LIST")(error)),
        }
    }
}
