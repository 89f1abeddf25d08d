//! A VM's memory on KVM.
#![allow(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION hands the kernel an address range")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use rustix::mm::{Advice, madvise};
use vm_memory::MmapRegion;

use super::{refused, system};
use crate::error::MemoryProblem;
use crate::memory::lowest_free;
use crate::{Error, GuestMemoryRegion, Result, SlotId};

/// The memory in use, by slot number. vCPUs share it: the kernel's slots point into the mappings for as long as one
/// vCPU lives, also after the VM was dropped here.
pub(super) type Slots = Mutex<BTreeMap<u32, Slot>>;

pub(super) struct Slot {
    start: u64,
    len: usize,
    logs_dirty: bool,
    /// Keeps the memory mapped. It is never touched from here: a plugin can make that a SIGBUS.
    _mapping: MmapRegion,
}

pub(super) struct Memory {
    pub(super) slots: Arc<Slots>,
    max_slots: u32,
    huge_pages: bool,
}

impl Memory {
    pub(super) fn new(max_slots: u32, huge_pages: bool) -> Self {
        Self { slots: Arc::default(), max_slots, huge_pages }
    }

    pub(super) fn map(&self, vm: &VmFd, region: GuestMemoryRegion) -> Result<SlotId> {
        let (start, len, logs_dirty) = (region.start().0, region.len(), region.logs_dirty());
        let error = |problem: MemoryProblem| Error::Memory { start, len, problem };
        let mut flags = 0;
        if region.is_read_only() {
            flags |= KVM_MEM_READONLY;
        }
        if logs_dirty {
            flags |= KVM_MEM_LOG_DIRTY_PAGES;
        }
        let mapping = region.map()?;

        if self.huge_pages {
            advise_huge_pages(&mapping);
        }

        let mut slots = self.slots.lock();
        let slot = lowest_free(slots.keys(), self.max_slots);
        let slot = slot.ok_or_else(|| error(MemoryProblem::NoSlot))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: mapping.as_ptr() as u64,
        };
        set_region(vm, region).map_err(|source| match source.raw_os_error() {
            Some(libc::EEXIST) => error(MemoryProblem::Overlap),
            _ => error(MemoryProblem::System(source)),
        })?;
        slots.insert(slot, Slot { start, len: mapping.size(), logs_dirty, _mapping: mapping });
        Ok(SlotId(slot))
    }

    pub(super) fn unmap(&self, vm: &VmFd, slot: SlotId) -> Result<()> {
        let mut slots = self.slots.lock();
        let Slot { start, .. } = slots.get(&slot.0).ok_or_else(not_mapped)?;
        set_region(vm, kvm_userspace_memory_region { slot: slot.0, guest_phys_addr: *start, ..Default::default() })
            .map_err(|source| Error::System { what: "KVM_SET_USER_MEMORY_REGION of size 0", source })?;
        slots.remove(&slot.0);
        Ok(())
    }

    pub(super) fn dirty_log(&self, vm: &VmFd, slot: SlotId) -> Result<Vec<u64>> {
        const CALL: &str = "KVM_GET_DIRTY_LOG";
        let slots = self.slots.lock();
        let Slot { len, logs_dirty, .. } = slots.get(&slot.0).ok_or_else(not_mapped)?;
        if !logs_dirty {
            return Err(refused(CALL, libc::ENOENT));
        }
        vm.get_dirty_log(slot.0, *len).map_err(system(CALL))
    }
}

fn advise_huge_pages(mapping: &MmapRegion) {
    // It is advice only: a kernel that has no huge pages refuses it, and the memory is as good without.
    // SAFETY: the range is the mapping's own, and the advice changes nothing of what is in it.
    let _ = unsafe { madvise(mapping.as_ptr().cast(), mapping.size(), Advice::LinuxHugepage) };
}

fn set_region(vm: &VmFd, region: kvm_userspace_memory_region) -> std::result::Result<(), io::Error> {
    // SAFETY: the range is that of a mapping that `slots` keeps until the slot has been taken away.
    unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)
}

fn not_mapped() -> Error {
    Error::Memory { start: 0, len: 0, problem: MemoryProblem::NotMapped }
}
