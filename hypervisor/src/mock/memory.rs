//! The mock's guest memory: slots that are mapped for real and touched by volatile copies.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use rustix::fs::fstatfs;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::error::MemoryProblem;
use crate::{Error, GuestMemoryRegion, Result, SlotId};

/// As many as KVM gives on x86-64 (`KVM_CAP_NR_MEMSLOTS`, less the kernel's own).
const MAX_SLOTS: u32 = 32764;

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
}

impl Memory {
    pub(super) fn map(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        let filesystem = fstatfs(region.file()).map_err(|errno| region.problem(std::io::Error::from(errno)))?;
        if filesystem.f_type == HUGETLBFS_MAGIC {
            return Err(region.problem(MemoryProblem::Hugetlb));
        }
        let (start, len, read_only) = (region.start().0, region.len(), region.is_read_only());
        let error = |problem: MemoryProblem| Error::Memory { start, len, problem };

        let mut slots = self.slots.write();
        if slots.overlaps(start, len) {
            return Err(error(MemoryProblem::Overlap));
        }
        let id = (0..MAX_SLOTS).find(|id| !slots.starts.contains_key(id));
        let id = id.ok_or_else(|| error(MemoryProblem::NoSlot))?;
        let (file_offset, size) = region.into_file_offset();
        let mapping = MmapRegion::from_file(file_offset, size)
            .map_err(|source| error(MemoryProblem::System(std::io::Error::other(source))))?;
        slots.starts.insert(id, start);
        slots.by_start.insert(start, Slot { id, len, read_only, mapping });
        Ok(SlotId(id))
    }

    pub(super) fn unmap(&self, slot: SlotId) -> Result<()> {
        let mut slots = self.slots.write();
        let start = slots.starts.remove(&slot.0).ok_or(Error::Memory {
            start: 0,
            len: 0,
            problem: MemoryProblem::NotMapped,
        })?;
        slots.by_start.remove(&start);
        Ok(())
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
        slot.mapping.as_volatile_slice().write_slice(data, offset).ok()
    }
}

impl Slots {
    fn overlaps(&self, start: u64, len: u64) -> bool {
        // A region's end is known not to overflow.
        let before_end = self.by_start.range(..start + len).next_back();
        before_end.is_some_and(|(&other, slot)| other + slot.len > start)
    }

    fn find(&self, address: u64) -> Option<(&Slot, usize)> {
        let (start, slot) = self.by_start.range(..=address).next_back()?;
        let offset = address - start;
        debug_assert_eq!(self.starts.get(&slot.id), Some(start));
        (offset < slot.len).then_some((slot, offset as usize))
    }
}
