//! What the user says.

use std::path::PathBuf;

use clap::Parser;

/// A small PC, as a plugin of Outboard
///
/// The guest's serial port is standard input and output. What firmware writes to the debug port is logged.
#[derive(Debug, Parser)]
#[command(name = "pc")]
pub(crate) struct Options {
    /// The firmware: an image of SeaBIOS for QEMU, 64, 128 or 256 KiB
    ///
    /// In its jail the plugin sees what `outboard run --plugin-mount` shows it.
    #[arg(long, value_name = "FILE", default_value = "/usr/share/seabios/bios.bin")]
    pub(crate) bios: PathBuf,
    /// RAM in MiB, 8 to 3072
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = clap::value_parser!(u64).range(8..=3072))]
    pub(crate) memory: u64,
    /// A disk image to boot from, of whole sectors of 512 bytes; one that cannot be written is a disk that cannot
    ///
    /// In its jail the plugin sees what `outboard run --plugin-mount` shows it.
    #[arg(long, value_name = "FILE")]
    pub(crate) disk: Option<PathBuf>,
}
