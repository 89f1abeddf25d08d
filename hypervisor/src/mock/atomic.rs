//! Atomic accesses to a mapping that others change at any time: plugins, and the other vCPUs' threads.
#![allow(unsafe_code, reason = "an atomic reference into a mapping is made from its address")]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::MmapRegion;

use crate::PAGE_SIZE;

/// Bytes of a mapping, or of one page of it, that are touched by atomic accesses alone.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    start: NonNull<u8>,
    len: usize,
    mapping: PhantomData<&'a MmapRegion>,
}

/// Where a page lies, for who proves otherwise that its mapping is still there.
#[derive(Clone, Copy)]
pub(super) struct PageAddress(NonNull<u8>);

// SAFETY: it is a number; what makes a span of it has the duty to prove that it may.
unsafe impl Send for PageAddress {}

macro_rules! atomic_at {
    ($name:ident: $atomic:ident of $width:literal) => {
        /// The aligned item at `offset`.
        ///
        /// # Panics
        ///
        /// If it is not aligned or does not lie within the span: its caller has found the span by the address.
        #[inline]
        fn $name(self, offset: usize) -> &'a $atomic {
            assert!(offset.is_multiple_of($width) && offset < self.len);
            // SAFETY: a span is whole pages of a mapping, so an aligned item that begins in it lies in it; it is readable and
            // writable, and stays for 'a. Nobody in this process touches it but by atomics.
            unsafe { $atomic::from_ptr(self.start.as_ptr().add(offset).cast()) }
        }
    };
}

impl<'a> Span<'a> {
    /// All of a mapping. `None` where it is none.
    pub(super) fn of(mapping: &'a MmapRegion) -> Option<Self> {
        let start = NonNull::new(mapping.as_ptr())?;
        Some(Self { start, len: mapping.size(), mapping: PhantomData })
    }

    /// One page again.
    ///
    /// # Safety
    ///
    /// The mapping that the page was taken from must stay mapped for `'a`.
    #[inline]
    pub(super) unsafe fn of_page(PageAddress(start): PageAddress) -> Self {
        Self { start, len: PAGE_SIZE as usize, mapping: PhantomData }
    }

    /// The page that `offset` lies in.
    pub(super) fn page_address(self, offset: usize) -> Option<PageAddress> {
        let first = offset & !(PAGE_SIZE as usize - 1);
        if first + PAGE_SIZE as usize > self.len {
            return None;
        }
        // SAFETY: the page lies within the span.
        Some(PageAddress(unsafe { self.start.add(first) }))
    }

    atomic_at!(byte_at: AtomicU8 of 1);
    atomic_at!(word_at: AtomicU16 of 2);
    atomic_at!(dword_at: AtomicU32 of 4);
    atomic_at!(qword_at: AtomicU64 of 8);

    /// The `width` bytes at `offset`, 1 to 8: in one access where they lie in an aligned word of 8 bytes, else byte by byte.
    #[inline]
    pub(super) fn load(self, offset: usize, width: usize) -> u64 {
        match width {
            1 => self.byte_at(offset).load(Ordering::Acquire).into(),
            2 if offset.is_multiple_of(2) => self.word_at(offset).load(Ordering::Acquire).into(),
            4 if offset.is_multiple_of(4) => self.dword_at(offset).load(Ordering::Acquire).into(),
            8 if offset.is_multiple_of(8) => self.qword_at(offset).load(Ordering::Acquire),
            _ => self.load_misaligned(offset, width),
        }
    }

    #[inline(never)]
    fn load_misaligned(self, offset: usize, width: usize) -> u64 {
        if !is_split(offset, width) {
            let first = offset & !7;
            return self.qword_at(first).load(Ordering::Acquire) >> (8 * (offset - first))
                & u64::MAX >> (64 - 8 * width);
        }
        let byte = |at| u64::from(self.byte_at(offset + at).load(Ordering::Acquire));
        (0..width).rev().fold(0, |value, at| value << 8 | byte(at))
    }

    /// Stores the low `width` bytes of `value`, 1 to 8, at `offset`: in one access where they are aligned, else byte by byte.
    #[inline]
    pub(super) fn store(self, offset: usize, width: usize, value: u64) {
        match width {
            1 => self.byte_at(offset).store(value as u8, Ordering::Release),
            2 if offset.is_multiple_of(2) => self.word_at(offset).store(value as u16, Ordering::Release),
            4 if offset.is_multiple_of(4) => self.dword_at(offset).store(value as u32, Ordering::Release),
            8 if offset.is_multiple_of(8) => self.qword_at(offset).store(value, Ordering::Release),
            _ => self.store_misaligned(offset, width, value),
        }
    }

    #[inline(never)]
    fn store_misaligned(self, offset: usize, width: usize, value: u64) {
        for (at, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
            self.byte_at(offset + at).store(byte, Ordering::Release);
        }
    }

    /// Puts `new` in place of `old` in one atomic step; false where something else is there.
    ///
    /// # Panics
    ///
    /// If they are split: its caller knows another way then.
    pub(super) fn exchange(self, offset: usize, width: usize, old: u64, new: u64) -> bool {
        assert!(!is_split(offset, width));
        let first = offset & !7;
        let shift = 8 * (offset - first) as u32;
        let mask = u64::MAX >> (64 - 8 * width as u32) << shift;
        let changed = self.qword_at(first).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |all| {
            (all & mask == old << shift).then_some(all & !mask | new << shift & mask)
        });
        changed.is_ok()
    }

    /// The same for 16 bytes, which must be aligned. `None` where the host's processor has no such step.
    pub(super) fn exchange_16(self, offset: usize, old: u128, new: u128) -> Option<bool> {
        assert!(offset.is_multiple_of(16) && offset < self.len);
        if !std::arch::is_x86_feature_detected!("cmpxchg16b") {
            return None;
        }
        let (mut low, mut high) = (old as u64, (old >> 64) as u64);
        // SAFETY: the item is aligned and lies within the span, as for smaller ones; the processor has the instruction; RBX,
        // which the compiler keeps for itself, is put back.
        unsafe {
            std::arch::asm!(
                "xchg rsi, rbx",
                "lock cmpxchg16b [rdi]",
                "mov rbx, rsi",
                in("rdi") self.start.as_ptr().add(offset),
                inout("rsi") new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        let found = u128::from(high) << 64 | u128::from(low);
        Some(found == old)
    }

    /// The 16 bytes at `offset`, lowest first; `None` too near to the span's end.
    #[inline]
    pub(super) fn load_16(self, offset: usize) -> Option<u128> {
        let first = offset & !7;
        if first + 24 > self.len {
            return None;
        }
        let word = |at| u128::from(self.qword_at(at).load(Ordering::Acquire));
        let low = word(first) | word(first + 8) << 64;
        let skip = 8 * (offset - first) as u32;
        if skip == 0 {
            return Some(low);
        }
        Some(low >> skip | word(first + 16) << (128 - skip))
    }
}

/// Whether `width` bytes at `offset` reach over the end of an aligned word of 8 bytes, so that no one step changes them all.
#[inline]
pub(super) fn is_split(offset: usize, width: usize) -> bool {
    offset % 8 + width > 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> MmapRegion {
        MmapRegion::new(0x1000).unwrap()
    }

    #[test]
    fn aligned_or_not_what_was_stored_is_loaded() {
        let mapping = mapping();
        let span = Span::of(&mapping).unwrap();
        for width in 1..=8 {
            for offset in 0..16 {
                let value = 0x1122_3344_5566_7788_u64 >> (64 - 8 * width);
                span.store(offset, width, value);
                assert_eq!(span.load(offset, width), value, "{width} bytes at {offset}");
                span.store(offset, width, 0);
            }
        }
        assert_eq!(span.load_16(3), Some(0));
    }

    #[test]
    fn sixteen_bytes_are_loaded_in_their_order_and_not_past_the_end() {
        let mapping = mapping();
        let span = Span::of(&mapping).unwrap();
        for at in 0..32 {
            span.store(at, 1, at as u64);
        }
        let expected: [u8; 16] = std::array::from_fn(|at| at as u8 + 5);
        assert_eq!(span.load_16(5).map(u128::to_le_bytes), Some(expected));
        assert_eq!(span.load_16(0xff8), None);
    }

    #[test]
    fn an_exchange_needs_the_old_value_and_leaves_its_neighbours() {
        let mapping = mapping();
        let span = Span::of(&mapping).unwrap();
        span.store(0, 8, u64::MAX);
        assert!(span.exchange(2, 2, 0xffff, 0x1234));
        assert!(!span.exchange(2, 2, 0xffff, 0));
        assert_eq!(span.load(0, 8), 0xffff_ffff_1234_ffff);
        assert!(span.exchange(4, 4, 0xffff_ffff, 0x5566_7788));
        assert_eq!(span.load(0, 8), 0x5566_7788_1234_ffff);
    }

    #[test]
    fn an_exchange_of_sixteen_bytes_needs_them_all() {
        let mapping = mapping();
        let span = Span::of(&mapping).unwrap();
        span.store(0x18, 8, 5);
        let old = 5 << 64;
        if span.exchange_16(0x10, old, 7 << 64 | 9) == Some(true) {
            assert_eq!((span.load(0x10, 8), span.load(0x18, 8)), (9, 7));
            assert_eq!(span.exchange_16(0x10, old, 0), Some(false));
        }
    }

    #[test]
    fn what_reaches_over_a_word_is_split() {
        assert!(!is_split(0, 8) && !is_split(12, 4) && !is_split(7, 1));
        assert!(is_split(1, 8) && is_split(13, 4) && is_split(0xfff, 2));
    }

    #[test]
    fn increments_of_two_threads_are_all_counted() {
        const EACH: u64 = 10_000;
        let mapping = mapping();
        let count = || {
            let span = Span::of(&mapping).unwrap();
            for _ in 0..EACH {
                while {
                    let old = span.load(4, 4);
                    !span.exchange(4, 4, old, old + 1)
                } {}
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(count);
            scope.spawn(count);
        });
        assert_eq!(Span::of(&mapping).unwrap().load(4, 4), 2 * EACH);
    }
}
