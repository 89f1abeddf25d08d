//! ACPI's tables: what processors and interrupt controllers there are, and how the PC is switched off and reset.

use acpi_tables::aml::{Name, Package};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use crate::devices::power;
use crate::devices::reset::{RESET, RESET_CONTROL};

const OEM: [u8; 6] = *b"OUTBRD";
const TABLE: [u8; 8] = *b"EXAMPLEC";

/// The interrupt of ACPI itself, which nothing raises here.
const SCI: u8 = 9;
/// Level-triggered, active high.
const SCI_FLAGS: u16 = 0x0d;

const LOCAL_APICS: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// All tables one behind the other, to be at `address`; the root pointer is the first.
pub(super) fn tables(address: u64, cpus: u8) -> Vec<u8> {
    let mut tables = Tables { address, bytes: vec![0; Rsdp::len()] };
    let facs = tables.add(&facs());
    let dsdt = tables.add(dsdt().as_slice());
    let fadt = tables.add(&bytes_of(&fadt(facs, dsdt)));
    let madt = tables.add(madt(cpus).as_slice());
    let mut xsdt = Sdt::new(*b"XSDT", 36, 1, OEM, TABLE, 1);
    xsdt.append_slice(&[fadt, madt].map(u64::to_le_bytes).concat());
    let xsdt = tables.add(xsdt.as_slice());
    tables.bytes[..Rsdp::len()].copy_from_slice(&bytes_of(&Rsdp::new(OEM, xsdt)));
    tables.bytes
}

struct Tables {
    address: u64,
    bytes: Vec<u8>,
}

impl Tables {
    /// Returns the table's address, a multiple of 64 as the FACS asks for.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        self.address + offset
    }
}

struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes_of(item: &dyn Aml) -> Vec<u8> {
    let mut bytes = Bytes(Vec::new());
    item.to_aml_bytes(&mut bytes);
    bytes.0
}

/// The firmware's control structure: nothing but its head.
fn facs() -> [u8; 64] {
    let mut facs = [0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs
}

/// What is written to switch off: `\_S5`, the type of that sleep for both control registers.
fn dsdt() -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    let off = Package::new(vec![&power::OFF, &power::OFF, &0u8, &0u8]);
    dsdt.append_slice(&bytes_of(&Name::new("_S5_".into(), &off)));
    dsdt
}

/// The fixed registers.
fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup)
        // No buttons among the fixed registers, and no alarm of the clock.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(power::EVENTS).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::CONTROL).into();
    fadt.pm1_cnt_len = 2;
    // "Not supported", in words of the specification: longer than 100 and 1000 µs.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.century = 0x32;
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, RESET_CONTROL.into());
    fadt.reset_value = RESET;
    fadt.finalize()
}

/// The interrupt controllers.
fn madt(cpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 3, OEM, TABLE, 1);
    madt.append_slice(&LOCAL_APICS.to_le_bytes());
    // There are two PICs too.
    madt.append_slice(&1u32.to_le_bytes());
    for cpu in 0..cpus {
        madt.append_slice(&[0, 8, cpu, cpu, 1, 0, 0, 0]);
    }
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&IO_APIC.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // An override: of the ISA bus, the line, its GSI, how it interrupts.
    madt.append_slice(&[2, 10, 0, SCI, SCI, 0, 0, 0]);
    madt.append_slice(&SCI_FLAGS.to_le_bytes());
    // The NMI's line of all processors is LINT1.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<const N: usize>(tables: &[u8], offset: usize) -> [u8; N] {
        tables[offset..][..N].try_into().unwrap()
    }

    #[test]
    fn tables_are_found_from_the_root_and_their_sums_are_0() {
        let base = 0xe0000;
        let tables = tables(base, 2);
        assert_eq!(&tables[..8], b"RSD PTR ");
        let offset = |address: u64| (address - base) as usize;
        let sums_to_0 = |table: usize| {
            let length = u32::from_le_bytes(at(&tables, table + 4)) as usize;
            tables[table..][..length].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
        };
        let xsdt = offset(u64::from_le_bytes(at(&tables, 24)));
        let [fadt, madt] = [36, 44].map(|entry| offset(u64::from_le_bytes(at(&tables, xsdt + entry))));
        let dsdt = offset(u64::from_le_bytes(at(&tables, fadt + 140)));
        for (table, name) in [(xsdt, b"XSDT"), (fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!(at(&tables, table), *name);
            assert!(sums_to_0(table), "{}", String::from_utf8_lossy(name));
        }
        let facs = offset(u32::from_le_bytes(at(&tables, fadt + 36)).into());
        assert_eq!((at(&tables, facs), facs % 64), (*b"FACS", 0));
        assert!(tables.len() < 0x1000);
    }
}
