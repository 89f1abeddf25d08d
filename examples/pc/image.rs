//! The files that the user names: firmware and disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::devices::ata::{Disk, MAX_SECTORS, SECTOR};
use crate::linux::{self, Kernel, Linux};
use crate::options::Options;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "cannot open the {what} {}: {source}; say where it is by {option}, and show it to the plugin in its jail by \
         `outboard run --plugin-mount {}`",
        path.display(), path.parent().unwrap_or(path).display()
    )]
    Unreadable { what: &'static str, option: &'static str, path: PathBuf, source: io::Error },
    #[error("the firmware {} has {length} bytes; 64, 128 or 256 KiB were expected", path.display())]
    FirmwareSize { path: PathBuf, length: usize },
    #[error("the disk {} has {length} bytes; whole sectors of {SECTOR} were expected, from 1 to {MAX_SECTORS}", path.display())]
    DiskSize { path: PathBuf, length: u64 },
    #[error("{}: {source}", path.display())]
    Kernel { path: PathBuf, source: linux::Error },
}

/// Reads firmware.
fn firmware(path: &Path) -> Result<Vec<u8>, Error> {
    let image = fs::read(path).map_err(|source| unreadable("firmware", "--bios", path, source))?;
    match image.len() {
        0x10000 | 0x20000 | 0x40000 => Ok(image),
        length => Err(Error::FirmwareSize { path: path.into(), length }),
    }
}

/// What the processor begins with.
#[derive(Debug)]
pub(crate) enum Boot {
    /// Firmware, after a reset.
    Firmware(Vec<u8>),
    /// A kernel.
    Linux(Linux),
}

/// Reads firmware or kernel.
pub(crate) fn boot(options: &Options) -> Result<Boot, Error> {
    let Some(path) = &options.kernel else { return firmware(&options.bios).map(Boot::Firmware) };
    let image = fs::read(path).map_err(|source| unreadable("kernel", "--kernel", path, source))?;
    let kernel = Kernel::new(image).map_err(|source| Error::Kernel { path: path.clone(), source })?;
    let initrd = options.initrd.as_deref().map_or(Ok(Vec::new()), |path| {
        fs::read(path).map_err(|source| unreadable("initial file system", "--initrd", path, source))
    })?;
    Ok(Boot::Linux(Linux { kernel, initrd, command_line: options.append.clone() }))
}

/// Opens a disk, for writing too where that is allowed.
pub(crate) fn disk(path: &Path) -> Result<Disk<File>, Error> {
    let failed = |source| unreadable("disk", "--disk", path, source);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)
        }
        file => file,
    };
    let file = file.map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let sectors = length / SECTOR as u64;
    if !length.is_multiple_of(SECTOR as u64) || !(1..=MAX_SECTORS).contains(&sectors) {
        return Err(Error::DiskSize { path: path.into(), length });
    }
    Disk::new(file).map_err(failed)
}

fn unreadable(what: &'static str, option: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Unreadable { what, option, path: path.into(), source }
}
