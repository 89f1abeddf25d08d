//! Where a guest's access goes.

use plugin_proto::messages;

use crate::Error;

/// One of the two spaces of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// Port I/O: `in` and `out`, addresses below 0x10000.
    Pio,
    /// Guest-physical memory.
    Mmio,
}

impl From<AddressSpace> for messages::AddressSpace {
    fn from(space: AddressSpace) -> Self {
        match space {
            AddressSpace::Pio => Self::IOPORT,
            AddressSpace::Mmio => Self::MMIO,
        }
    }
}

/// An access of the guest to a range the plugin has reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The space.
    pub space: AddressSpace,
    /// Its first byte. Only that is sure to be in the reservation.
    pub address: u64,
    /// Bytes: 1 to 8, since an access that straddles two pages comes in two parts; or up to 4096 when a string instruction
    /// moves many units at once.
    pub length: usize,
}

impl Access {
    /// The access in a wait response.
    pub(crate) fn of(io: &messages::vcpu_response::wait::Io) -> Result<Self, Error> {
        let space = match io.space.enum_value() {
            Ok(messages::AddressSpace::IOPORT) => AddressSpace::Pio,
            Ok(messages::AddressSpace::MMIO) => AddressSpace::Mmio,
            Err(number) => {
                return Err(Error::unexpected(format!("address space {number}")));
            }
        };
        Ok(Self { space, address: io.address, length: io.data.len() })
    }

    /// Bytes of one of the access's items, at least 1, from the width that the VMM reports: 0 where it reports none.
    pub(crate) fn item_width(&self, reported: u32) -> Result<usize, Error> {
        match reported {
            0 if self.length <= MAX_ITEM => Ok(self.length.max(1)),
            0 => Ok(1),
            width => usize::try_from(width)
                .ok()
                .filter(|width| *width <= MAX_ITEM && self.length.is_multiple_of(*width))
                .ok_or_else(|| Error::unexpected(format!("{} bytes of items of {width}", self.length))),
        }
    }
}

/// Most bytes of one item: what longer accesses carry are several.
const MAX_ITEM: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_width_is_as_reported_or_guessed_and_divides_the_length() {
        let width =
            |length, reported| Access { space: AddressSpace::Pio, address: 0, length }.item_width(reported).ok();
        for (length, reported, expected) in [
            (2, 1, Some(1)),
            (2, 2, Some(2)),
            (4096, 4, Some(4)),
            // An older VMM.
            (1, 0, Some(1)),
            (8, 0, Some(8)),
            (9, 0, Some(1)),
            (4096, 0, Some(1)),
            // Nonsense.
            (0, 0, Some(1)),
            (3, 2, None),
            (16, 16, None),
            (16, u32::MAX, None),
        ] {
            assert_eq!(width(length, reported), expected, "{length} bytes, reported {reported}");
        }
    }
}
