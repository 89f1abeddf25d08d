//! Which writes signal an eventfd instead of exiting.
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

use crate::AddressSpace;

/// The writes of an ioeventfd: to one address, all of them or those of one length, with any data or one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoEvent {
    space: AddressSpace,
    address: u64,
    len: u32,
    datamatch: Option<u64>,
}

impl IoEvent {
    /// Writes to `address` that are `len` bytes long: 1, 2, 4 or 8, or 0 for any length. Of `datamatch` the `len` low
    /// bytes count; `None` is any data. `None` is returned for another length, for data without a length, and for an end
    /// past 64 bits: what `KVM_IOEVENTFD` calls `EINVAL`.
    pub fn new(space: AddressSpace, address: u64, len: u32, datamatch: Option<u64>) -> Option<Self> {
        address.checked_add(u64::from(len))?;
        let mask = match len {
            0 if datamatch.is_some() => return None,
            0 | 8 => u64::MAX,
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => return None,
        };
        // The kernel compares the whole word with the bytes written, so surplus bytes would never match.
        Some(Self { space, address, len, datamatch: datamatch.map(|data| data & mask) })
    }

    /// Port or memory.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The address, exactly.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes; 0 for any.
    #[allow(clippy::len_without_is_empty, reason = "0 is no emptiness here")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The value, or any.
    pub fn datamatch(&self) -> Option<u64> {
        self.datamatch
    }

    /// Whether a write of `data`, up to 8 bytes, is one of these.
    pub fn matches(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        let mut word = [0; 8];
        let Some(low) = word.get_mut(..data.len()) else { return false };
        low.copy_from_slice(data);
        (space, address) == (self.space, self.address)
            && (self.len == 0
                || self.len as usize == data.len()
                    && self.datamatch.is_none_or(|value| value == u64::from_le_bytes(word)))
    }

    /// Whether some write is one of these and of `other`'s.
    pub fn collides(&self, other: &Self) -> bool {
        (self.space, self.address) == (other.space, other.address)
            && (self.len == 0
                || other.len == 0
                || self.len == other.len
                    && (self.datamatch.is_none() || other.datamatch.is_none() || self.datamatch == other.datamatch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_1000(len: u32, datamatch: Option<u64>) -> IoEvent {
        IoEvent::new(AddressSpace::Mmio, 0x1000, len, datamatch).unwrap()
    }

    #[test]
    fn lengths_are_those_of_registers_and_data_needs_one() {
        let new = |address, len, datamatch| IoEvent::new(AddressSpace::Pio, address, len, datamatch);
        for len in [3, 5, 6, 7, 9, 16, u32::MAX] {
            assert_eq!(new(0, len, None), None);
        }
        assert_eq!(new(0, 0, Some(1)), None);
        assert_eq!(new(u64::MAX, 1, None), None);
        assert!(new(u64::MAX, 0, None).is_some());
    }

    #[test]
    fn a_write_matches_by_address_length_and_the_low_bytes_of_the_data() {
        let matches = |event: IoEvent, data: &[u8]| event.matches(AddressSpace::Mmio, 0x1000, data);
        assert!(matches(at_1000(0, None), &[1]) && matches(at_1000(0, None), &[1, 2, 3]));
        assert!(matches(at_1000(2, None), &[1, 2]) && !matches(at_1000(2, None), &[1]));
        assert!(matches(at_1000(2, Some(0xffff_0201)), &[1, 2]));
        assert!(!matches(at_1000(2, Some(0x0201)), &[1, 3]));
        assert!(!at_1000(0, None).matches(AddressSpace::Pio, 0x1000, &[1]));
        assert!(!at_1000(0, None).matches(AddressSpace::Mmio, 0x1001, &[1]));
    }

    #[test]
    fn two_collide_where_one_write_could_be_both() {
        assert!(at_1000(0, None).collides(&at_1000(4, Some(1))));
        assert!(at_1000(4, None).collides(&at_1000(4, Some(1))));
        assert!(!at_1000(4, Some(2)).collides(&at_1000(4, Some(1))));
        assert!(!at_1000(2, None).collides(&at_1000(4, None)));
    }
}
