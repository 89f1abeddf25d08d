//! A processor in 64-bit mode with the first 4 GiB mapped to themselves, as the kernel's 64-bit entry has it.

use plugin_sdk::{kvm_segment, kvm_sregs};

/// Selectors, `__BOOT_CS` and `__BOOT_DS` of the boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// Descriptors of flat segments with all rights: 64-bit code, data.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PRESENT_WRITABLE: u64 = 3;
/// In a directory: this is a page of 2 MiB.
const LARGE: u64 = 1 << 7;

const PAGE: u64 = 0x1000;
const GIB: u64 = 1 << 30;

/// The global descriptor table.
pub(super) fn gdt() -> Vec<u8> {
    bytes(DESCRIPTORS)
}

/// Six pages of page tables, to be at `address`.
pub(super) fn page_tables(address: u64) -> Vec<u8> {
    let table = |entries: Vec<u64>| entries.into_iter().chain(std::iter::repeat(0)).take(512);
    let top = table(vec![(address + PAGE) | PRESENT_WRITABLE]);
    let pointers = table((0..4).map(|gib| (address + (2 + gib) * PAGE) | PRESENT_WRITABLE).collect());
    let directories = (0..4 * GIB).step_by(2 << 20).map(|page| page | PRESENT_WRITABLE | LARGE);
    bytes(top.chain(pointers).chain(directories))
}

/// Sets the registers; the tables are at the addresses.
pub(super) fn set(sregs: &mut kvm_sregs, gdt: u64, page_tables: u64) {
    let code =
        kvm_segment { limit: u32::MAX, selector: CODE, type_: 0xb, present: 1, s: 1, l: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: DATA, type_: 3, l: 0, db: 1, ..code };
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.gdt.base = gdt;
    sregs.gdt.limit = (size_of_val(&DESCRIPTORS) - 1) as u16;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    sregs.cr3 = page_tables;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

fn bytes(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}
