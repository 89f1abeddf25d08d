//! Paging: from linear to physical addresses (Intel SDM volume 3, chapter 5).
//!
//! Tables lie in memory slots. An entry where no slot is counts as one that is not present, as in KVM; in a read-only slot
//! its accessed and dirty bits stay as they are.

use super::Exec;
use super::exception::{Fault, Result};
use super::mode::{CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_NXE};
use super::tlb::{Right, Translation};
use crate::PAGE_SIZE;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// The entry is of a large page.
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// Bits of a page fault's error code (Intel SDM volume 3, section 5.7).
const ERROR_PRESENT: u16 = 1;
const ERROR_WRITE: u16 = 1 << 1;
const ERROR_USER: u16 = 1 << 2;
const ERROR_RESERVED: u16 = 1 << 3;
const ERROR_FETCH: u16 = 1 << 4;

/// The address in an entry of 8 bytes, before reserved bits are taken away.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks of one access that others may spoil by changing entries meanwhile.
const ATTEMPTS: u32 = 64;

/// How a mode's tables look.
#[derive(Clone, Copy)]
struct Format {
    /// Levels of tables.
    levels: u32,
    /// Bytes of an entry.
    entry: u32,
    /// Bits of a linear address that a level translates.
    index_bits: u32,
    /// NX is a permission; else it is reserved where entries have 8 bytes.
    no_execute: bool,
    /// Entries of 4 bytes may be of large pages.
    large: bool,
}

/// What the walk has found: an entry at the end of the way.
struct Leaf {
    /// Physical address of the entry, and the entry.
    address: u64,
    entry: u64,
    /// Bits of the linear address within the page.
    shift: u32,
    /// WRITABLE and USER of all levels, and NO_EXECUTE of any.
    allows: u64,
    forbids: u64,
    /// The entries on the way that are not accessed yet, from the root on, by their addresses.
    fresh: [Option<(u64, u64)>; 3],
}

impl Exec<'_> {
    /// The physical address of a linear one, for an access with this right. An access does not cross the end of a page.
    #[inline]
    pub(super) fn translate(&mut self, linear: u64, right: Right) -> Result<u64> {
        match self.bus.tlb.physical(linear, right) {
            Some(physical) => Ok(physical),
            None => self.translate_by_tables(linear, right),
        }
    }

    #[cold]
    fn translate_by_tables(&mut self, linear: u64, right: Right) -> Result<u64> {
        let translation = if self.state.mode.is_paged {
            self.walk(linear, right)?
        } else {
            let page = linear & 0xffff_f000;
            Translation { page, rights: Right::ALL, is_global: true, is_large: false }
        };
        self.bus.keep_translation(linear, &translation);
        Ok(translation.page | (linear % PAGE_SIZE))
    }

    fn format(&self) -> Format {
        let sregs = &self.state.sregs;
        let no_execute = sregs.efer & EFER_NXE != 0;
        if self.state.mode.is_long {
            Format { levels: 4, entry: 8, index_bits: 9, no_execute, large: true }
        } else if sregs.cr4 & CR4_PAE != 0 {
            Format { levels: 2, entry: 8, index_bits: 9, no_execute, large: true }
        } else {
            let large = sregs.cr4 & CR4_PSE != 0;
            Format { levels: 2, entry: 4, index_bits: 10, no_execute: false, large }
        }
    }

    /// Walks the tables for one access, and sets the accessed and dirty bits that it makes true.
    fn walk(&mut self, linear: u64, right: Right) -> Result<Translation> {
        let format = self.format();
        for _ in 0..ATTEMPTS {
            let leaf = self.find_leaf(linear, right, format)?;
            let rights = self.rights(&leaf, format);
            if !rights.meets(right) {
                return Err(self.page_fault(linear, right, ERROR_PRESENT, format));
            }
            if !self.mark_way(&leaf, format) {
                continue;
            }
            let wanted = leaf.entry | ACCESSED | if right.meets(Right::WRITES) { DIRTY } else { 0 };
            if wanted != leaf.entry && !self.bus.exchange_entry(leaf.address, format.entry, leaf.entry, wanted) {
                continue;
            }
            let offset = linear & ((1 << leaf.shift) - 1) & !(PAGE_SIZE - 1);
            let is_large = leaf.shift > PAGE_SIZE.trailing_zeros();
            // A write through a page that is not dirty yet must come here again.
            let rights = if wanted & DIRTY != 0 { rights } else { rights.without(Right::WRITES) };
            let is_global = wanted & GLOBAL != 0 && self.state.sregs.cr4 & CR4_PGE != 0;
            let page = page_address(wanted, leaf.shift, format) | offset;
            return Ok(Translation { page, rights, is_global, is_large });
        }
        // A fault that the tables do not explain: the guest tries again.
        Err(self.page_fault(linear, right, 0, format))
    }

    /// Marks the entries on the way to a leaf as accessed; false where someone else changed one meanwhile. As in KVM a walk that
    /// faults marks none.
    fn mark_way(&mut self, leaf: &Leaf, format: Format) -> bool {
        leaf.fresh
            .into_iter()
            .flatten()
            .all(|(address, entry)| self.bus.exchange_entry(address, format.entry, entry, entry | ACCESSED))
    }

    /// Goes down to the entry of the page.
    fn find_leaf(&mut self, linear: u64, right: Right, format: Format) -> Result<Leaf> {
        let sregs = &self.state.sregs;
        let physical = self.state.features.physical_mask();
        let (mut table, mut allows, mut forbids) = (sregs.cr3 & ADDRESS & physical, WRITABLE | USER, 0);
        if format.entry == 4 {
            table = sregs.cr3 & 0xffff_f000;
        } else if format.levels == 2 {
            // The four entries of the page-directory-pointer table are registers.
            let pointer = self.state.pdptrs.get((linear >> 30 & 3) as usize).copied().unwrap_or_default();
            if pointer & PRESENT == 0 {
                return Err(self.page_fault(linear, right, 0, format));
            }
            table = pointer & ADDRESS & physical;
        }
        let mut fresh = [None; 3];
        for level in (1..=format.levels).rev() {
            let shift = PAGE_SIZE.trailing_zeros() + (level - 1) * format.index_bits;
            let index = linear >> shift & ((1 << format.index_bits) - 1);
            let address = table + index * u64::from(format.entry);
            let Some(entry) = self.bus.load_entry(address, format.entry) else {
                return Err(self.page_fault(linear, right, 0, format));
            };
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, right, 0, format));
            }
            let is_leaf = level == 1 || entry & LARGE != 0 && level < 4 && format.large;
            if entry & self.reserved(level, is_leaf, entry, format) != 0 {
                return Err(self.page_fault(linear, right, ERROR_PRESENT | ERROR_RESERVED, format));
            }
            allows &= entry;
            forbids |= entry & NO_EXECUTE;
            if is_leaf {
                return Ok(Leaf { address, entry, shift, allows, forbids, fresh });
            }
            if entry & ACCESSED == 0
                && let Some(place) = fresh.iter_mut().find(|place| place.is_none())
            {
                *place = Some((address, entry));
            }
            table = entry & if format.entry == 4 { 0xffff_f000 } else { ADDRESS & physical };
        }
        // The last level is a leaf always.
        Err(Fault::Unknown)
    }

    /// The bits that must be 0 in an entry that is present (Intel SDM volume 3, tables 5-4 and following).
    fn reserved(&self, level: u32, is_leaf: bool, entry: u64, format: Format) -> u64 {
        let is_large = is_leaf && level > 1;
        if format.entry == 4 {
            // PSE-36: bits 13 to 20 are the address's from 32 on, as far as there are such.
            let high = self.state.features.physical_mask() >> 32 & 0xff;
            return if is_large { (0xff & !high) << 13 | 1 << 21 } else { 0 };
        }
        let beyond = ADDRESS & !self.state.features.physical_mask();
        let no_execute = if format.no_execute { 0 } else { NO_EXECUTE };
        // PAE paging has no bits above 51 that are free but NX.
        let upper = if format.levels == 2 { 0x7ff0_0000_0000_0000 } else { 0 };
        let large_address =
            if is_large { ((1 << (PAGE_SIZE.trailing_zeros() + (level - 1) * 9)) - 1) & !0x1fff } else { 0 };
        let no_large = level == 4 || level == 3 && !self.has_huge_pages();
        let page_size = if no_large && entry & LARGE != 0 { LARGE } else { 0 };
        beyond | no_execute | upper | large_address | page_size
    }

    fn has_huge_pages(&self) -> bool {
        self.state.features.has(super::features::Features::PAGE1GB)
    }

    /// What the entries on the way allow to whom (Intel SDM volume 3, section 5.6.1).
    fn rights(&self, leaf: &Leaf, format: Format) -> Right {
        let sregs = &self.state.sregs;
        let (is_user, is_writable) = (leaf.allows & USER != 0, leaf.allows & WRITABLE != 0);
        let may_execute = !format.no_execute || leaf.forbids & NO_EXECUTE == 0;
        let mut rights = Right::ALL;
        if !is_user {
            rights = rights.without(Right::USERS);
        }
        if !is_writable {
            let kernel_may = sregs.cr0 & CR0_WP == 0;
            rights = rights.without(if kernel_may { Right::USER_WRITE } else { Right::WRITES });
        }
        if !may_execute {
            rights = rights.without(Right::FETCHES);
        }
        if is_user && sregs.cr4 & CR4_SMEP != 0 {
            rights = rights.without(Right::KERNEL_FETCH);
        }
        if is_user && sregs.cr4 & CR4_SMAP != 0 {
            rights = rights.without(Right::GUARDED_READ.or(Right::GUARDED_WRITE));
        }
        rights
    }

    /// The page fault of an access, with what its kind adds to the error code.
    fn page_fault(&self, linear: u64, right: Right, error: u16, format: Format) -> Fault {
        let fetches_are_told = format.no_execute || self.state.sregs.cr4 & CR4_SMEP != 0;
        let bit = |on, bit| if on { bit } else { 0 };
        let kind = bit(right.meets(Right::WRITES), ERROR_WRITE)
            | bit(right.meets(Right::USERS), ERROR_USER)
            | bit(right.meets(Right::FETCHES) && fetches_are_told, ERROR_FETCH);
        Fault::page(linear, error | kind)
    }

    /// Loads the page-directory-pointer table of PAE paging, as a load of CR3 does. #GP(0) where an entry has reserved bits
    /// set; then nothing was changed.
    pub(super) fn load_pdptrs(&mut self, cr3: u64) -> Result<()> {
        let reserved = 0x1e6 | !self.state.features.physical_mask();
        let mut pdptrs = [0; 4];
        for (address, pdptr) in (cr3 & 0xffff_ffe0..).step_by(8).zip(&mut pdptrs) {
            *pdptr = self.bus.load_entry(address, 8).unwrap_or(0);
            if *pdptr & PRESENT != 0 && *pdptr & reserved != 0 {
                return Err(Fault::protection(0));
            }
        }
        self.state.pdptrs = pdptrs;
        Ok(())
    }
}

/// The address of the page that a leaf maps, of whatever size.
fn page_address(entry: u64, shift: u32, format: Format) -> u64 {
    let within = (1 << shift) - 1;
    if format.entry == 4 {
        let high = if shift > PAGE_SIZE.trailing_zeros() { (entry >> 13 & 0xff) << 32 } else { 0 };
        return entry & 0xffff_f000 & !within | high;
    }
    entry & ADDRESS & !within
}
