//! The mock's guest memory: slots that are mapped for real and touched by atomic accesses, as wide as the guest's own
//! where those are aligned, else byte by byte.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::fstatfs;
use vm_memory::MmapRegion;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};

use super::{atomic, refused};
use crate::error::MemoryProblem;
use crate::{Error, GuestMemoryRegion, PAGE_SIZE, Result, SlotId};

/// As many as KVM gives on x86-64 (`KVM_CAP_NR_MEMSLOTS`, less the kernel's own).
pub(super) const MAX_SLOTS: u32 = 32764;

/// `HUGETLBFS_MAGIC` of `linux/magic.h`.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

#[derive(Default)]
pub(super) struct Memory {
    slots: RwLock<Slots>,
}

/// The slots there are, while nobody may change them.
#[derive(Default)]
pub(super) struct Slots {
    by_start: BTreeMap<u64, Slot>,
    starts: BTreeMap<u32, u64>,
}

pub(super) struct Slot {
    id: u32,
    pub(super) start: u64,
    pub(super) len: u64,
    read_only: bool,
    mapping: MmapRegion,
    /// A bit for each page written, where writes are logged.
    dirty: Option<AtomicBitmap>,
}

impl Memory {
    pub(super) fn map(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        let filesystem = fstatfs(region.file()).map_err(|errno| region.problem(std::io::Error::from(errno)))?;
        if filesystem.f_type == HUGETLBFS_MAGIC {
            return Err(region.problem(MemoryProblem::Hugetlb));
        }
        let (start, len, read_only) = (region.start().0, region.len(), region.is_read_only());
        let page_size = NonZeroUsize::new(PAGE_SIZE as usize).filter(|_| region.logs_dirty());
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
        let dirty = page_size.map(|page_size| AtomicBitmap::new(size, page_size));
        slots.starts.insert(id, start);
        slots.by_start.insert(start, Slot { id, start, len, read_only, mapping, dirty });
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
        let dirty = slots.by_start.get(start).and_then(|slot| slot.dirty.as_ref());
        Ok(dirty.ok_or_else(|| refused("KVM_GET_DIRTY_LOG", libc::ENOENT))?.get_and_reset())
    }

    /// The slots, to look at. As long as they are held, none comes or goes.
    pub(super) fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read()
    }

    /// Reads within one page. `None` where no slot is.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> Option<()> {
        let slots = self.slots();
        let (slot, offset) = slots.find(address)?;
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = slot.load(offset + at, 1) as u8;
        }
        Some(())
    }

    /// Writes within one page. `None` where no slot is, or one that is read-only.
    pub(super) fn write(&self, address: u64, data: &[u8]) -> Option<()> {
        let slots = self.slots();
        let (slot, offset) = slots.find(address)?;
        if slot.read_only {
            return None;
        }
        for (at, &byte) in data.iter().enumerate() {
            slot.store(offset + at, 1, byte.into());
        }
        Some(())
    }
}

/// Accesses within a slot: whoever calls has found the slot by the address.
impl Slot {
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The `width` bytes at `offset`, 1 to 8.
    pub(super) fn load(&self, offset: usize, width: usize) -> u64 {
        atomic::load(&self.mapping, offset, width)
    }

    /// The 16 bytes at `offset`, lowest first; `None` too near to the slot's end.
    pub(super) fn load_16(&self, offset: usize) -> Option<u128> {
        atomic::load_16(&self.mapping, offset)
    }

    /// Stores the low `width` bytes of `value`, 1 to 8, at `offset`.
    pub(super) fn store(&self, offset: usize, width: usize, value: u64) {
        atomic::store(&self.mapping, offset, width, value);
        self.mark(offset, width);
    }

    /// Puts `new` in place of `old`; false where something else is there.
    pub(super) fn exchange(&self, offset: usize, width: usize, old: u64, new: u64) -> bool {
        let changed = atomic::exchange(&self.mapping, offset, width, old, new);
        if changed {
            self.mark(offset, width);
        }
        changed
    }

    fn mark(&self, offset: usize, width: usize) {
        if let Some(dirty) = &self.dirty {
            dirty.mark_dirty(offset, width);
        }
    }
}

fn not_mapped() -> Error {
    Error::Memory { start: 0, len: 0, problem: MemoryProblem::NotMapped }
}

impl Slots {
    fn overlaps(&self, start: u64, len: u64) -> bool {
        // A region's end is known not to overflow.
        let before_end = self.by_start.range(..start + len).next_back();
        before_end.is_some_and(|(&other, slot)| other + slot.len > start)
    }

    /// The slot an address lies in, and where in it.
    pub(super) fn find(&self, address: u64) -> Option<(&Slot, usize)> {
        let (start, slot) = self.by_start.range(..=address).next_back()?;
        let offset = address - start;
        debug_assert_eq!(self.starts.get(&slot.id), Some(start));
        (offset < slot.len).then_some((slot, offset as usize))
    }
}
