//! The guest's memory: RAM, and the firmware at the ends of the first MiB and of the first 4 GiB.

use std::ops::Range;

use plugin_sdk::{Connection, Error, GuestMemory, MemoryFlags};

const KIB: u64 = 1 << 10;

/// The end of the memory that a processor reaches after reset in real mode; the firmware's last byte is below it.
const FIRST_MIB: u64 = 1 << 20;
/// Where a processor begins after reset: 16 bytes below. The firmware's last byte is here too.
const FIRST_4_GIB: u64 = 1 << 32;

/// Between the two parts of RAM a PC has its screen's memory, and so nothing here.
const SCREEN: Range<u64> = 640 * KIB..768 * KIB;

/// Gives the guest the RAM `memory`, with a copy of the firmware in it that can be written, and the firmware itself, which cannot.
///
/// A PC switches between the two at the same address, by its chip set. Firmware that finds no chip set writes where it lies.
pub(crate) fn map_firmware(connection: &mut Connection, memory: &GuestMemory, firmware: &[u8]) -> Result<(), Error> {
    let length = firmware.len() as u64;
    memory.write(FIRST_MIB - length, firmware)?;
    map_ram(connection, memory)?;
    let rom = GuestMemory::new(length)?;
    rom.write(0, firmware)?;
    let read_only = MemoryFlags { read_only: true, ..Default::default() };
    let _stays = connection.map_memory(&rom, 0..length, FIRST_4_GIB - length, read_only)?;
    Ok(())
}

/// Gives the guest the RAM `memory`.
pub(crate) fn map_ram(connection: &mut Connection, memory: &GuestMemory) -> Result<(), Error> {
    for part in [0..SCREEN.start, SCREEN.end..memory.size()] {
        let address = part.start;
        let _stays = connection.map_memory(memory, part, address, MemoryFlags::default())?;
    }
    Ok(())
}
