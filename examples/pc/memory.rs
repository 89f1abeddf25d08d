//! The guest's memory: RAM, and the firmware at the ends of the first MiB and of the first 4 GiB.

use std::fs;
use std::path::{Path, PathBuf};

use plugin_sdk::{Connection, GuestMemory, MemoryFlags};

const KIB: u64 = 1 << 10;

/// The end of the memory that a processor reaches after reset in real mode; the firmware's last byte is below it.
const FIRST_MIB: u64 = 1 << 20;
/// Where a processor begins after reset: 16 bytes below. The firmware's last byte is here too.
const FIRST_4_GIB: u64 = 1 << 32;

/// Between the two parts of RAM a PC has its screen's memory, and so nothing here.
const SCREEN: std::ops::Range<u64> = 640 * KIB..768 * KIB;

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "cannot read the firmware {}: {source}; say where it is by --bios, and show it to the plugin in its jail, for example by \
         `outboard run --plugin-mount {}`",
        path.display(), folder(path).display()
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the firmware {} has {length} bytes; 64, 128 or 256 KiB were expected", path.display())]
    Size { path: PathBuf, length: usize },
    #[error(transparent)]
    Vmm(#[from] plugin_sdk::Error),
}

/// What is to be shown for `path` to be seen.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Reads the firmware.
pub(crate) fn firmware(path: &Path) -> Result<Vec<u8>, Error> {
    let image = fs::read(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
    match image.len() {
        0x10000 | 0x20000 | 0x40000 => Ok(image),
        length => Err(Error::Size { path: path.into(), length }),
    }
}

/// Gives the guest `ram` bytes of RAM, with a copy of the firmware in it that can be written, and the firmware itself, which
/// cannot.
///
/// A PC switches between the two at the same address, by its chip set. Firmware that finds no chip set writes where it lies.
pub(crate) fn map(connection: &mut Connection, ram: u64, firmware: &[u8]) -> Result<(), Error> {
    let length = firmware.len() as u64;
    let memory = GuestMemory::new(ram)?;
    memory.write(FIRST_MIB - length, firmware)?;
    for part in [0..SCREEN.start, SCREEN.end..ram] {
        let address = part.start;
        let _stays = connection.map_memory(&memory, part, address, MemoryFlags::default())?;
    }
    let rom = GuestMemory::new(length)?;
    rom.write(0, firmware)?;
    let read_only = MemoryFlags { read_only: true, ..Default::default() };
    let _stays = connection.map_memory(&rom, 0..length, FIRST_4_GIB - length, read_only)?;
    Ok(())
}
