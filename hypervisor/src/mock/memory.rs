//! The mock's guest memory: slots that are mapped for real and touched by volatile copies.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use parking_lot::{Mutex, RwLock};
use rustix::fs::fstatfs;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::refused;
use crate::error::MemoryProblem;
use crate::memory::lowest_free;
use crate::{Error, GuestMemoryRegion, PAGE_SIZE, Result, SlotId};

/// As many as KVM gives on x86-64 (`KVM_CAP_NR_MEMSLOTS`, less the kernel's own).
pub(super) const MAX_SLOTS: u32 = 32764;

/// `KVM_MEM_MAX_NR_PAGES`: pages of one slot.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// `HUGETLBFS_MAGIC` of `linux/magic.h`.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

#[derive(Default)]
pub(super) struct Memory {
    slots: RwLock<Slots>,
}

#[derive(Default)]
struct Slots {
    by_start: BTreeMap<u64, Slot>,
    starts: BTreeMap<u32, u64>,
}

struct Slot {
    id: u32,
    len: u64,
    read_only: bool,
    mapping: MmapRegion,
    /// The pages written, where writes are logged: few, however large the slot.
    dirty: Option<Mutex<BTreeSet<u64>>>,
}

impl Memory {
    pub(super) fn map(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        let filesystem = fstatfs(region.file()).map_err(|errno| region.problem(io::Error::from(errno)))?;
        if filesystem.f_type == HUGETLBFS_MAGIC {
            return Err(region.problem(MemoryProblem::Hugetlb));
        }
        let (start, len, read_only) = (region.start().0, region.len(), region.is_read_only());
        if len / PAGE_SIZE > MAX_PAGES {
            return Err(region.problem(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let dirty = region.logs_dirty().then(Mutex::default);
        let error = |problem: MemoryProblem| Error::Memory { start, len, problem };

        let mut slots = self.slots.write();
        if slots.overlaps(start, len) {
            return Err(error(MemoryProblem::Overlap));
        }
        let id = lowest_free(slots.starts.keys(), MAX_SLOTS);
        let id = id.ok_or_else(|| error(MemoryProblem::NoSlot))?;
        let mapping = region.map()?;
        slots.starts.insert(id, start);
        slots.by_start.insert(start, Slot { id, len, read_only, mapping, dirty });
        Ok(SlotId(id))
    }

    pub(super) fn unmap(&self, slot: SlotId) -> Result<()> {
        let mut slots = self.slots.write();
        let start = slots.starts.remove(&slot.0).ok_or_else(not_mapped)?;
        slots.by_start.remove(&start);
        Ok(())
    }

    /// The log of the pages written, which begins anew.
    pub(super) fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>> {
        let slots = self.slots.read();
        let start = slots.starts.get(&slot.0).ok_or_else(not_mapped)?;
        let (len, dirty) = slots
            .by_start
            .get(start)
            .and_then(|slot| Some((slot.len, slot.dirty.as_ref()?)))
            .ok_or_else(|| refused("KVM_GET_DIRTY_LOG", libc::ENOENT))?;
        let mut bitmap = vec![0; (len / PAGE_SIZE).div_ceil(64) as usize];
        for page in std::mem::take(&mut *dirty.lock()) {
            if let Some(word) = bitmap.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
        Ok(bitmap)
    }

    /// Reads within one page. `None` where no slot is.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> Option<()> {
        let slots = self.slots.read();
        let (slot, offset) = slots.find(address)?;
        slot.mapping.as_volatile_slice().read_slice(data, offset).ok()
    }

    /// Writes within one page. `None` where no slot is, or one that is read-only.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> Option<()> {
        let slots = self.slots.read();
        let (slot, offset) = slots.find(address)?;
        if slot.read_only {
            return None;
        }
        slot.mapping.as_volatile_slice().write_slice(data, offset).ok()?;
        if let Some(dirty) = &slot.dirty {
            // No write reaches across the end of its page.
            dirty.lock().insert(offset as u64 / PAGE_SIZE);
        }
        Some(())
    }
}

fn not_mapped() -> Error {
    Error::Memory { start: 0, len: 0, problem: MemoryProblem::NotMapped }
}

impl Slots {
    fn overlaps(&self, start: u64, len: u64) -> bool {
        // A region's end is known not to overflow.
        let before_end = self.by_start.range(..start.saturating_add(len)).next_back();
        before_end.is_some_and(|(&other, slot)| other.saturating_add(slot.len) > start)
    }

    fn find(&self, address: u64) -> Option<(&Slot, usize)> {
        let (start, slot) = self.by_start.range(..=address).next_back()?;
        let offset = address.checked_sub(*start)?;
        debug_assert_eq!(self.starts.get(&slot.id), Some(start));
        (offset < slot.len).then_some((slot, offset as usize))
    }
}
