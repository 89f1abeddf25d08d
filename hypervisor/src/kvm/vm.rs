//! A VM on KVM.
#![allow(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION hands the kernel an address range")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm as KvmFd, VmFd};
use parking_lot::Mutex;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

use super::system;
use super::vcpu::KvmVcpu;
use crate::error::MemoryProblem;
use crate::{Error, GuestMemoryRegion, Result, SlotId, Vcpu, VcpuId, Vm};

/// A VM with the kernel's interrupt controllers and PIT.
pub(super) struct KvmVm {
    fd: VmFd,
    slots: Arc<Slots>,
    max_slots: u32,
}

/// The memory in use, by slot number. vCPUs share it: the kernel's slots point into the mappings for as long as one
/// vCPU lives, also after the VM was dropped here.
pub(super) type Slots = Mutex<BTreeMap<u32, Slot>>;

pub(super) struct Slot {
    start: u64,
    /// Keeps the memory mapped. It is never touched from here: a plugin can make that a SIGBUS.
    _mapping: MmapRegion,
}

impl KvmVm {
    pub(super) fn new(kvm: &KvmFd) -> Result<Self> {
        let fd = create_vm_retrying(kvm)?;
        fd.create_irq_chip().map_err(system("KVM_CREATE_IRQCHIP"))?;
        fd.create_pit2(kvm_pit_config::default()).map_err(system("KVM_CREATE_PIT2"))?;
        let max_slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX);
        Ok(Self { fd, slots: Arc::default(), max_slots })
    }

    fn set_region(&self, region: kvm_userspace_memory_region) -> std::result::Result<(), io::Error> {
        // SAFETY: the range is that of a mapping that `slots` keeps until the slot has been taken away.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(io::Error::from)
    }
}

/// `KVM_CREATE_VM` can be interrupted by a signal before it has done anything.
fn create_vm_retrying(kvm: &KvmFd) -> Result<VmFd> {
    loop {
        match kvm.create_vm() {
            Err(errno) if errno.errno() == libc::EINTR => {}
            other => return other.map_err(system("KVM_CREATE_VM")),
        }
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        let fd = self.fd.create_vcpu(u64::from(id.0)).map_err(system("KVM_CREATE_VCPU"))?;
        Ok(Box::new(KvmVcpu::new(id, fd, self.fd.run_size(), Arc::clone(&self.slots))?))
    }

    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        let (start, len) = (region.start().0, region.len());
        let error = |problem: MemoryProblem| Error::Memory { start, len, problem };
        let mut flags = 0;
        let mut prot = libc::PROT_READ;
        if region.is_read_only() {
            flags |= KVM_MEM_READONLY;
        } else {
            prot |= libc::PROT_WRITE;
        }
        if region.logs_dirty() {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        let (file_offset, size) = region.into_file_offset();
        let mapping = MmapRegionBuilder::new(size)
            .with_file_offset(file_offset)
            .with_mmap_prot(prot)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .build()
            .map_err(|source| error(MemoryProblem::System(mapping_error(source))))?;

        let mut slots = self.slots.lock();
        let slot = (0..self.max_slots).find(|slot| !slots.contains_key(slot));
        let slot = slot.ok_or_else(|| error(MemoryProblem::NoSlot))?;
        self.set_region(kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: mapping.as_ptr() as u64,
        })
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EEXIST) => error(MemoryProblem::Overlap),
            _ => error(MemoryProblem::System(source)),
        })?;
        slots.insert(slot, Slot { start, _mapping: mapping });
        Ok(SlotId(slot))
    }

    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        let mut slots = self.slots.lock();
        let Some(Slot { start, .. }) = slots.get(&slot.0) else {
            return Err(Error::Memory { start: 0, len: 0, problem: MemoryProblem::NotMapped });
        };
        self.set_region(kvm_userspace_memory_region { slot: slot.0, guest_phys_addr: *start, ..Default::default() })
            .map_err(|source| Error::System { what: "KVM_SET_USER_MEMORY_REGION of size 0", source })?;
        slots.remove(&slot.0);
        Ok(())
    }
}

fn mapping_error(error: vm_memory::mmap::MmapRegionError) -> io::Error {
    match error {
        vm_memory::mmap::MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other),
    }
}
