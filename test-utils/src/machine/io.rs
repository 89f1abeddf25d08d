//! What a guest asks of its devices.

use hypervisor::{Access, AddressSpace, Direction};

/// One access of a guest's to a device. A read's bytes are zeros until the device fills them in; values have their low
/// byte first.
///
/// There is more than one item in it only where a string instruction (`rep ins`, `rep outs`) moved them.
#[derive(Debug, PartialEq, Eq)]
pub enum Io<'a> {
    /// The guest reads a port.
    In(u16, &'a mut [u8]),
    /// The guest writes a port.
    Out(u16, &'a [u8]),
    /// The guest reads memory that is no RAM, at this guest-physical address.
    Load(u64, &'a mut [u8]),
    /// The guest writes memory that is no RAM.
    Store(u64, &'a [u8]),
}

impl<'a> Io<'a> {
    /// What `access` asks for: a write of `data`, or a read into `answer`.
    pub fn new(access: &Access, data: &'a [u8], answer: &'a mut [u8]) -> Self {
        let address = access.address();
        match (access.space(), access.direction()) {
            // There are 65536 ports.
            (AddressSpace::Pio, Direction::Read) => Self::In(address as u16, answer),
            (AddressSpace::Pio, Direction::Write) => Self::Out(address as u16, data),
            (AddressSpace::Mmio, Direction::Read) => Self::Load(address, answer),
            (AddressSpace::Mmio, Direction::Write) => Self::Store(address, data),
        }
    }
}
