//! The mock's guest memory: slots that are mapped for real and touched by atomic accesses, as wide as the guest's own
//! where those are aligned, else byte by byte.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::fstatfs;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{MmapRegion, VolatileMemory};

use super::refused;
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

/// Accesses within a slot: whoever calls has found the slot by the address. A slot's length is a multiple of 8, so a word
/// around an address in it lies in it.
impl Slot {
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The `width` bytes at `offset`, 1 to 8.
    pub(super) fn load(&self, offset: usize, width: usize) -> u64 {
        match width {
            1 => self.mapping.get_atomic_ref::<AtomicU8>(offset).map_or(0, |at| at.load(Ordering::Acquire).into()),
            2 if offset.is_multiple_of(2) => {
                self.mapping.get_atomic_ref::<AtomicU16>(offset).map_or(0, |at| at.load(Ordering::Acquire).into())
            }
            4 if offset.is_multiple_of(4) => {
                self.mapping.get_atomic_ref::<AtomicU32>(offset).map_or(0, |at| at.load(Ordering::Acquire).into())
            }
            8 if offset.is_multiple_of(8) => self.word(offset),
            _ => (0..width).rev().fold(0, |value, at| value << 8 | self.load(offset + at, 1)),
        }
    }

    /// The aligned 8 bytes at `offset`.
    fn word(&self, offset: usize) -> u64 {
        self.mapping.get_atomic_ref::<AtomicU64>(offset).map_or(0, |at| at.load(Ordering::Acquire))
    }

    /// The 16 bytes at `offset`, lowest first; `None` too near to the slot's end.
    pub(super) fn load_16(&self, offset: usize) -> Option<u128> {
        let first = offset & !7;
        if first + 24 > self.len as usize {
            return None;
        }
        let low = u128::from(self.word(first)) | u128::from(self.word(first + 8)) << 64;
        let skip = 8 * (offset - first) as u32;
        if skip == 0 {
            return Some(low);
        }
        Some(low >> skip | u128::from(self.word(first + 16)) << (128 - skip))
    }

    /// Stores the low `width` bytes of `value`, 1 to 8, at `offset`.
    pub(super) fn store(&self, offset: usize, width: usize, value: u64) {
        // The only error is an offset outside of the mapping or unaligned, and neither comes here.
        match width {
            1 => {
                let _ =
                    self.mapping.get_atomic_ref::<AtomicU8>(offset).map(|at| at.store(value as u8, Ordering::Release));
            }
            2 if offset.is_multiple_of(2) => {
                let at = self.mapping.get_atomic_ref::<AtomicU16>(offset);
                let _ = at.map(|at| at.store(value as u16, Ordering::Release));
            }
            4 if offset.is_multiple_of(4) => {
                let at = self.mapping.get_atomic_ref::<AtomicU32>(offset);
                let _ = at.map(|at| at.store(value as u32, Ordering::Release));
            }
            8 if offset.is_multiple_of(8) => {
                let at = self.mapping.get_atomic_ref::<AtomicU64>(offset);
                let _ = at.map(|at| at.store(value, Ordering::Release));
            }
            _ => {
                for (at, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
                    self.store(offset + at, 1, byte.into());
                }
                return;
            }
        }
        self.mark(offset, width);
    }

    /// Puts `new` in place of `old` in one atomic step; false where something else is there. An access that reaches over
    /// an aligned word of 8 bytes is not atomic.
    pub(super) fn exchange(&self, offset: usize, width: usize, old: u64, new: u64) -> bool {
        let first = offset & !7;
        if offset - first + width > 8 {
            let same = self.load(offset, width) == old;
            if same {
                self.store(offset, width, new);
            }
            return same;
        }
        let Ok(word) = self.mapping.get_atomic_ref::<AtomicU64>(first) else { return true };
        let shift = 8 * (offset - first) as u32;
        let mask = u64::MAX >> (64 - 8 * width as u32) << shift;
        let changed = word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |all| {
            (all & mask == old << shift).then_some(all & !mask | new << shift & mask)
        });
        self.mark(offset, width);
        changed.is_ok()
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
