//! `struct boot_params`, the page by which the kernel learns what it was loaded with.

use super::image::{HEADER, Kernel};
use super::place;

const KIB: u64 = 1 << 10;

/// Offsets of fields.
mod field {
    pub(super) const ACPI_RSDP: usize = 0x070;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const E820_TABLE: usize = 0x2d0;
}

/// A loader without a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;

/// Types of memory in an e820 map.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// The page, with the initial file system at address and length `initrd` and `ram` bytes of RAM.
pub(super) fn page(kernel: &Kernel, initrd: (u32, u32), ram: u64) -> [u8; 0x1000] {
    let mut page = [0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| page[offset..][..bytes.len()].copy_from_slice(bytes);
    put(HEADER, kernel.header());
    put(field::ACPI_RSDP, &place::ACPI.to_le_bytes());
    put(field::TYPE_OF_LOADER, &[UNKNOWN_LOADER]);
    put(field::CODE32_START, &(place::KERNEL as u32).to_le_bytes());
    put(field::RAMDISK_IMAGE, &initrd.0.to_le_bytes());
    put(field::RAMDISK_SIZE, &initrd.1.to_le_bytes());
    put(field::COMMAND_LINE, &(place::COMMAND_LINE as u32).to_le_bytes());
    let map = [
        (0, 640 * KIB, RAM),
        (place::ACPI, place::KERNEL - place::ACPI, RESERVED),
        (place::KERNEL, ram - place::KERNEL, RAM),
    ];
    put(field::E820_ENTRIES, &[map.len() as u8]);
    for (number, (address, length, kind)) in map.into_iter().enumerate() {
        let entry = field::E820_TABLE + 20 * number;
        put(entry, &address.to_le_bytes());
        put(entry + 8, &length.to_le_bytes());
        put(entry + 16, &kind.to_le_bytes());
    }
    page
}
