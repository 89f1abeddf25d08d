//! The way to PCI's configuration space, with nothing behind it: an address at port 0xcf8, the data at 0xcfc to 0xcff.
//!
//! A bus without functions reads as ones, by which firmware knows that it has an ISA PC before it.

use std::ops::RangeInclusive;

/// The address, four bytes.
pub(crate) const ADDRESS: RangeInclusive<u16> = 0xcf8..=0xcfb;
/// The data of the register it names.
pub(crate) const DATA: RangeInclusive<u16> = 0xcfc..=0xcff;

/// The host's side of a bus.
#[derive(Debug, Default)]
pub(crate) struct Pci {
    address: [u8; 4],
}

impl Pci {
    /// Of one of the ports of [`ADDRESS`] and [`DATA`].
    pub(crate) fn read(&self, port: u16) -> u8 {
        // The address can be read back: so is found out whether there is a bus at all.
        match port.checked_sub(*ADDRESS.start()) {
            Some(byte @ 0..=3) => self.address[usize::from(byte)],
            _ => super::FLOATING,
        }
    }

    /// The address is written whole, by four bytes at once; other writes go nowhere.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) {
        if let (true, Ok(address)) = (port == *ADDRESS.start(), data.try_into()) {
            self.address = address;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_answers() {
        let mut pci = Pci::default();
        pci.write(0xcf8, &0x8000_0000u32.to_le_bytes());
        assert_eq!(DATA.map(|port| pci.read(port)).collect::<Vec<_>>(), [0xff; 4]);
        pci.write(0xcfc, &[0; 4]);
        assert_eq!(pci.read(0xcfc), 0xff);
    }

    #[test]
    fn the_address_is_read_back_and_written_by_four_bytes_alone() {
        let mut pci = Pci::default();
        pci.write(0xcf8, &[0x78, 0x56, 0x34, 0x12]);
        pci.write(0xcf8, &[1]);
        pci.write(0xcf9, &[2, 3]);
        assert_eq!(ADDRESS.map(|port| pci.read(port)).collect::<Vec<_>>(), [0x78, 0x56, 0x34, 0x12]);
    }
}
