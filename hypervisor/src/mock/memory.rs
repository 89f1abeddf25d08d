//! The mock's guest memory: slots that are mapped for real and touched by atomic accesses, as wide as the guest's own
//! where those are aligned, else byte by byte.
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
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::fstatfs;
use vm_memory::MmapRegion;

use super::atomic::{PageAddress, Span};
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

/// The slots there are, while nobody may change them.
#[derive(Default)]
pub(super) struct Slots {
    by_start: BTreeMap<u64, Slot>,
    starts: BTreeMap<u32, u64>,
    /// Another number after each change, of any VM of this process. 0 has no slots.
    generation: u64,
}

/// The next [generation](Slots::generation).
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

pub(super) struct Slot {
    id: u32,
    pub(super) start: u64,
    pub(super) len: u64,
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
        slots.by_start.insert(start, Slot { id, start, len, read_only, mapping, dirty });
        slots.begin_generation();
        Ok(SlotId(id))
    }

    pub(super) fn unmap(&self, slot: SlotId) -> Result<()> {
        let mut slots = self.slots.write();
        let start = slots.starts.remove(&slot.0).ok_or_else(not_mapped)?;
        slots.by_start.remove(&start);
        slots.begin_generation();
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

    /// The slots, to look at. As long as they are held, none comes or goes.
    pub(super) fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read()
    }

    /// The slots, to look at while nobody else does: no other vCPU touches memory.
    pub(super) fn slots_alone(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write()
    }

    /// Reads within one page. `None` where no slot is.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> Option<()> {
        let slots = self.slots();
        let (slot, offset) = slots.find(address)?;
        for (at, byte) in (offset..).zip(data) {
            *byte = slot.load(at, 1) as u8;
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
        for (at, &byte) in (offset..).zip(data) {
            slot.store(at, 1, byte.into());
        }
        Some(())
    }
}

/// Accesses within a slot: the caller has found the slot by the address.
impl Slot {
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The `width` bytes at `offset`, 1 to 8.
    #[inline]
    pub(super) fn load(&self, offset: usize, width: usize) -> u64 {
        self.span().map_or(0, |span| span.load(offset, width))
    }

    /// The 16 bytes at `offset`, lowest first; `None` too near to the slot's end.
    #[inline]
    pub(super) fn load_16(&self, offset: usize) -> Option<u128> {
        self.span()?.load_16(offset)
    }

    /// Stores the low `width` bytes of `value`, 1 to 8, at `offset`.
    #[inline]
    pub(super) fn store(&self, offset: usize, width: usize, value: u64) {
        if let Some(span) = self.span() {
            span.store(offset, width, value);
            self.mark(offset, width);
        }
    }

    /// Puts `new` in place of `old`, within an aligned word of 8 bytes; false where something else is there.
    pub(super) fn exchange(&self, offset: usize, width: usize, old: u64, new: u64) -> bool {
        let changed = self.span().is_some_and(|span| span.exchange(offset, width, old, new));
        if changed {
            self.mark(offset, width);
        }
        changed
    }

    /// The same for 16 aligned bytes. `None` where the host's processor has no such step.
    pub(super) fn exchange_16(&self, offset: usize, old: u128, new: u128) -> Option<bool> {
        let changed = self.span()?.exchange_16(offset, old, new)?;
        if changed {
            self.mark(offset, 16);
        }
        Some(changed)
    }

    fn span(&self) -> Option<Span<'_>> {
        Span::of(&self.mapping)
    }

    /// Writes down the pages of a write, of which there are two at most.
    fn mark(&self, offset: usize, width: usize) {
        if let Some(dirty) = &self.dirty {
            let (first, last) = (offset as u64, offset.saturating_add(width).saturating_sub(1) as u64);
            dirty.lock().extend([first / PAGE_SIZE, last / PAGE_SIZE]);
        }
    }
}

fn not_mapped() -> Error {
    Error::Memory { start: 0, len: 0, problem: MemoryProblem::NotMapped }
}

impl Slots {
    /// A number that is another one after each change: what was found out about slots holds for slots of the same number.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn begin_generation(&mut self) {
        self.generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
    }

    /// The page of this process behind a physical address, and whether it may be written without more: it is neither
    /// read-only, nor are its writes logged.
    pub(super) fn host_page(&self, address: u64) -> Option<(PageAddress, bool)> {
        let (slot, offset) = self.find(address)?;
        let page = slot.span()?.page_address(offset)?;
        Some((page, !slot.read_only && slot.dirty.is_none()))
    }

    fn overlaps(&self, start: u64, len: u64) -> bool {
        // A region's end is known not to overflow.
        let before_end = self.by_start.range(..start.saturating_add(len)).next_back();
        before_end.is_some_and(|(&other, slot)| other.saturating_add(slot.len) > start)
    }

    /// The slot an address lies in, and where in it.
    pub(super) fn find(&self, address: u64) -> Option<(&Slot, usize)> {
        let (start, slot) = self.by_start.range(..=address).next_back()?;
        let offset = address.checked_sub(*start)?;
        debug_assert_eq!(self.starts.get(&slot.id), Some(start));
        (offset < slot.len).then_some((slot, offset as usize))
    }
}
