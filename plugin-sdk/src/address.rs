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
}
