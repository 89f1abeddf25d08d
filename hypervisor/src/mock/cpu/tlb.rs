//! The translations that were found last, as a processor's TLB keeps them.
//!
//! An entry is for a page of 4 KiB, also where the guest's page is larger. Entries of pages that are not global belong to
//! an epoch, and a flush begins a new one.
#![allow(unsafe_code, reason = "an entry's page of this process is used while the slots are those it was made with")]

use crate::PAGE_SIZE;
use crate::mock::atomic::{PageAddress, Span};
use crate::mock::memory::Slots;

/// Entries, a power of two.
const ENTRIES: usize = 1024;
/// Epochs are counted in the bits of a tag that a page's number does not need.
const EPOCH_SHIFT: u32 = 52;
const LAST_EPOCH: u64 = (1 << (64 - EPOCH_SHIFT)) - 1;
/// The epoch of global pages. A tag of epoch 0 is nobody's.
const GLOBAL: u64 = 1;
const FIRST_EPOCH: u64 = 2;

/// What may be done to a page: who, and what. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mock) struct Right(pub(in crate::mock) u8);

impl Right {
    pub(super) const NONE: Self = Self(0);
    pub(super) const KERNEL_READ: Self = Self(1);
    pub(super) const KERNEL_WRITE: Self = Self(1 << 1);
    pub(super) const KERNEL_FETCH: Self = Self(1 << 2);
    pub(super) const USER_READ: Self = Self(1 << 3);
    pub(super) const USER_WRITE: Self = Self(1 << 4);
    pub(super) const USER_FETCH: Self = Self(1 << 5);
    /// The kernel's accesses that SMAP keeps from the user's pages, and those that the processor makes by itself.
    pub(super) const GUARDED_READ: Self = Self(1 << 6);
    pub(super) const GUARDED_WRITE: Self = Self(1 << 7);

    pub(super) const WRITES: Self = Self(Self::KERNEL_WRITE.0 | Self::USER_WRITE.0 | Self::GUARDED_WRITE.0);
    pub(super) const FETCHES: Self = Self(Self::KERNEL_FETCH.0 | Self::USER_FETCH.0);
    pub(super) const USERS: Self = Self(Self::USER_READ.0 | Self::USER_WRITE.0 | Self::USER_FETCH.0);
    pub(super) const ALL: Self = Self(0xff);

    #[inline]
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A translation of one page of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    /// Physical address of the page.
    pub(super) page: u64,
    pub(super) rights: Right,
    pub(super) is_global: bool,
    /// The guest's page is larger.
    pub(super) is_large: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Linear page number, and its epoch above.
    tag: u64,
    /// Where the page lies in this process, if it is memory.
    host: Option<PageAddress>,
    page: u64,
    rights: Right,
    /// The rights that can be used by way of `host`.
    direct: Right,
    is_large: bool,
}

const EMPTY: Entry = Entry { tag: 0, host: None, page: 0, rights: Right::NONE, direct: Right::NONE, is_large: false };

/// A vCPU's TLB.
pub(super) struct Tlb {
    entries: Box<[Entry; ENTRIES]>,
    epoch: u64,
    /// The generation of the memory slots that the entries were made with.
    generation: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Self { entries: Box::new([EMPTY; ENTRIES]), epoch: FIRST_EPOCH, generation: 0 }
    }
}

#[inline]
fn index(page: u64) -> usize {
    page as usize % ENTRIES
}

impl Tlb {
    /// Forgets all where the slots are not those that the entries were made with. To be called before anything is looked up
    /// under a new guard of the slots.
    #[inline]
    pub(super) fn attach(&mut self, slots: &Slots) {
        if self.generation != slots.generation() {
            self.generation = slots.generation();
            self.flush_all();
        }
    }

    /// Forgets all.
    pub(super) fn flush_all(&mut self) {
        self.entries.fill(EMPTY);
        self.epoch = FIRST_EPOCH;
    }

    /// Forgets all but global pages.
    pub(super) fn flush(&mut self) {
        if self.epoch == LAST_EPOCH {
            return self.flush_all();
        }
        self.epoch += 1;
    }

    /// Forgets the page of a linear address, global or not, with all of a large one.
    pub(super) fn flush_page(&mut self, linear: u64) {
        /// The largest page, which an entry may be a part of.
        const LARGEST: u64 = 1 << 30;
        let number = linear / PAGE_SIZE;
        let numbers = (1 << EPOCH_SHIFT) - 1;
        let is_near = |tag: u64| (tag & numbers) * PAGE_SIZE / LARGEST == linear / LARGEST;
        for entry in self.entries.iter_mut() {
            let is_it = entry.tag & numbers == number;
            if is_it || entry.is_large && is_near(entry.tag) {
                *entry = EMPTY;
            }
        }
    }

    #[inline]
    fn find(&self, linear: u64) -> Option<&Entry> {
        let page = linear / PAGE_SIZE;
        // The index is below the number of entries.
        let entry = self.entries.get(index(page))?;
        let is_it = entry.tag == page | self.epoch << EPOCH_SHIFT || entry.tag == page | GLOBAL << EPOCH_SHIFT;
        is_it.then_some(entry)
    }

    /// The physical address, if this right to the page is known.
    #[inline]
    pub(super) fn physical(&self, linear: u64, right: Right) -> Option<u64> {
        let entry = self.find(linear)?;
        entry.rights.meets(right).then_some(entry.page | (linear % PAGE_SIZE))
    }

    /// The page in this process, if this right to it is known and it is memory that can be used without further ado; and its
    /// physical address.
    #[inline]
    pub(super) fn host<'a>(&self, linear: u64, right: Right, slots: &'a Slots) -> Option<(Span<'a>, u64)> {
        let entry = self.find(linear)?;
        if !entry.direct.meets(right) || self.generation != slots.generation() {
            return None;
        }
        // SAFETY: the entry was made with slots of this generation, so the slot of its page is still there, and stays as long
        // as the slots are borrowed.
        entry.host.map(|host| (unsafe { Span::of_page(host) }, entry.page))
    }

    /// Keeps a translation, where the TLB is [attached](Self::attach) to these slots.
    pub(super) fn insert(&mut self, linear: u64, translation: &Translation, slots: &Slots) {
        self.attach(slots);
        let Translation { page, rights, is_global, is_large } = *translation;
        let number = linear / PAGE_SIZE;
        let epoch = if is_global { GLOBAL } else { self.epoch };
        let (host, direct) = match slots.host_page(page) {
            Some((host, true)) => (Some(host), rights),
            Some((host, false)) => (Some(host), rights.without(Right::WRITES)),
            None => (None, Right::NONE),
        };
        if let Some(entry) = self.entries.get_mut(index(number)) {
            *entry = Entry { tag: number | epoch << EPOCH_SHIFT, host, page, rights, direct, is_large };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAR: u64 = 0xffff_8000_1234_5000;

    fn translation(page: u64, is_global: bool, is_large: bool) -> Translation {
        Translation { page, rights: Right::KERNEL_READ.or(Right::KERNEL_WRITE), is_global, is_large }
    }

    #[test]
    fn a_translation_is_found_with_its_rights_alone() {
        let (mut tlb, slots) = (Tlb::default(), Slots::default());
        tlb.insert(LINEAR, &translation(0x7000, false, false), &slots);
        assert_eq!(tlb.physical(LINEAR | 0x123, Right::KERNEL_READ), Some(0x7123));
        assert_eq!(tlb.physical(LINEAR, Right::USER_READ), None);
        assert_eq!(tlb.physical(LINEAR & 0x7fff_ffff_ffff, Right::KERNEL_READ), None, "another address");
        assert!(tlb.host(LINEAR, Right::KERNEL_READ, &slots).is_none(), "no memory");
    }

    #[test]
    fn a_flush_leaves_global_pages_and_a_flush_of_all_does_not() {
        let (mut tlb, slots) = (Tlb::default(), Slots::default());
        tlb.insert(LINEAR, &translation(0x7000, true, false), &slots);
        tlb.insert(0x1000, &translation(0x8000, false, false), &slots);
        tlb.flush();
        assert_eq!(tlb.physical(LINEAR, Right::KERNEL_READ), Some(0x7000));
        assert_eq!(tlb.physical(0x1000, Right::KERNEL_READ), None);
        tlb.flush_all();
        assert_eq!(tlb.physical(LINEAR, Right::KERNEL_READ), None);
    }

    #[test]
    fn a_flush_of_a_page_takes_all_parts_of_a_large_one() {
        let (mut tlb, slots) = (Tlb::default(), Slots::default());
        tlb.insert(0x20_1000, &translation(0x1000, true, true), &slots);
        tlb.insert(0x20_2000, &translation(0x2000, true, true), &slots);
        tlb.insert(0x20_3000, &translation(0x3000, false, false), &slots);
        tlb.flush_page(0x20_1000);
        let found = [0x20_1000, 0x20_2000, 0x20_3000].map(|linear| tlb.physical(linear, Right::KERNEL_READ));
        assert_eq!(found, [None, None, Some(0x3000)]);
    }

    #[test]
    fn no_number_of_flushes_brings_a_translation_back() {
        let (mut tlb, slots) = (Tlb::default(), Slots::default());
        tlb.insert(LINEAR, &translation(0x7000, false, false), &slots);
        for _ in 0..3 * LAST_EPOCH {
            tlb.flush();
            assert_eq!(tlb.physical(LINEAR, Right::KERNEL_READ), None);
        }
    }
}
