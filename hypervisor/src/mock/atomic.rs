//! Atomic accesses to a mapping that others change at any time: plugins, and the other vCPUs' threads.
#![allow(unsafe_code, reason = "an atomic reference into a mapping is made from its address")]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::MmapRegion;

macro_rules! atomic_at {
    ($name:ident: $atomic:ident of $width:literal) => {
        /// The aligned item at `offset`.
        ///
        /// # Panics
        ///
        /// If it is not aligned or does not lie within the mapping: its caller has found the mapping by the address.
        #[inline]
        fn $name(mapping: &MmapRegion, offset: usize) -> &$atomic {
            assert!(offset.is_multiple_of($width) && offset < mapping.size());
            // SAFETY: the mapping is whole pages, so an aligned item that begins in it lies in it; it is readable and
            // writable, and stays as long as it is borrowed. Nobody in this process touches it but by atomics.
            unsafe { $atomic::from_ptr(mapping.as_ptr().add(offset).cast()) }
        }
    };
}

atomic_at!(byte_at: AtomicU8 of 1);
atomic_at!(word_at: AtomicU16 of 2);
atomic_at!(dword_at: AtomicU32 of 4);
atomic_at!(qword_at: AtomicU64 of 8);

/// The `width` bytes at `offset`, 1 to 8: in one access where they are aligned, else byte by byte.
#[inline]
pub(super) fn load(mapping: &MmapRegion, offset: usize, width: usize) -> u64 {
    match width {
        1 => byte_at(mapping, offset).load(Ordering::Acquire).into(),
        2 if offset.is_multiple_of(2) => word_at(mapping, offset).load(Ordering::Acquire).into(),
        4 if offset.is_multiple_of(4) => dword_at(mapping, offset).load(Ordering::Acquire).into(),
        8 if offset.is_multiple_of(8) => qword_at(mapping, offset).load(Ordering::Acquire),
        _ => (0..width)
            .rev()
            .fold(0, |value, at| value << 8 | u64::from(byte_at(mapping, offset + at).load(Ordering::Acquire))),
    }
}

/// Stores the low `width` bytes of `value`, 1 to 8, at `offset`, in the same way.
#[inline]
pub(super) fn store(mapping: &MmapRegion, offset: usize, width: usize, value: u64) {
    match width {
        1 => byte_at(mapping, offset).store(value as u8, Ordering::Release),
        2 if offset.is_multiple_of(2) => word_at(mapping, offset).store(value as u16, Ordering::Release),
        4 if offset.is_multiple_of(4) => dword_at(mapping, offset).store(value as u32, Ordering::Release),
        8 if offset.is_multiple_of(8) => qword_at(mapping, offset).store(value, Ordering::Release),
        _ => {
            for (at, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
                byte_at(mapping, offset + at).store(byte, Ordering::Release);
            }
        }
    }
}

/// Whether `width` bytes at `offset` reach over the end of an aligned word of 8 bytes, so that no one step changes them all.
#[inline]
pub(super) fn is_split(offset: usize, width: usize) -> bool {
    offset % 8 + width > 8
}

/// Puts `new` in place of `old` in one atomic step; false where something else is there.
///
/// # Panics
///
/// If they are split: its caller knows another way then.
pub(super) fn exchange(mapping: &MmapRegion, offset: usize, width: usize, old: u64, new: u64) -> bool {
    assert!(!is_split(offset, width));
    let first = offset & !7;
    let shift = 8 * (offset - first) as u32;
    let mask = u64::MAX >> (64 - 8 * width as u32) << shift;
    let changed = qword_at(mapping, first).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |all| {
        (all & mask == old << shift).then_some(all & !mask | new << shift & mask)
    });
    changed.is_ok()
}

/// The 16 bytes at `offset`, lowest first; `None` too near to the mapping's end.
#[inline]
pub(super) fn load_16(mapping: &MmapRegion, offset: usize) -> Option<u128> {
    let first = offset & !7;
    if first + 24 > mapping.size() {
        return None;
    }
    let word = |at| u128::from(qword_at(mapping, at).load(Ordering::Acquire));
    let low = word(first) | word(first + 8) << 64;
    let skip = 8 * (offset - first) as u32;
    if skip == 0 {
        return Some(low);
    }
    Some(low >> skip | word(first + 16) << (128 - skip))
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
        for width in 1..=8 {
            for offset in 0..16 {
                let value = 0x1122_3344_5566_7788_u64 >> (64 - 8 * width);
                store(&mapping, offset, width, value);
                assert_eq!(load(&mapping, offset, width), value, "{width} bytes at {offset}");
                store(&mapping, offset, width, 0);
            }
        }
        assert_eq!(load_16(&mapping, 3), Some(0));
    }

    #[test]
    fn sixteen_bytes_are_loaded_in_their_order_and_not_past_the_end() {
        let mapping = mapping();
        for at in 0..32 {
            store(&mapping, at, 1, at as u64);
        }
        let expected: [u8; 16] = std::array::from_fn(|at| at as u8 + 5);
        assert_eq!(load_16(&mapping, 5).map(u128::to_le_bytes), Some(expected));
        assert_eq!(load_16(&mapping, 0xff8), None);
    }

    #[test]
    fn an_exchange_needs_the_old_value_and_leaves_its_neighbours() {
        let mapping = mapping();
        store(&mapping, 0, 8, u64::MAX);
        assert!(exchange(&mapping, 2, 2, 0xffff, 0x1234));
        assert!(!exchange(&mapping, 2, 2, 0xffff, 0));
        assert_eq!(load(&mapping, 0, 8), 0xffff_ffff_1234_ffff);
        assert!(exchange(&mapping, 4, 4, 0xffff_ffff, 0x5566_7788));
        assert_eq!(load(&mapping, 0, 8), 0x5566_7788_1234_ffff);
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
            for _ in 0..EACH {
                while {
                    let old = load(&mapping, 4, 4);
                    !exchange(&mapping, 4, 4, old, old + 1)
                } {}
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(count);
            scope.spawn(count);
        });
        assert_eq!(load(&mapping, 4, 4), 2 * EACH);
    }
}
