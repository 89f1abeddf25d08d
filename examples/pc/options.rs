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
    /// A Linux kernel to start in place of the firmware: a bzImage, which distributions call vmlinuz
    #[arg(long, value_name = "FILE", conflicts_with = "bios")]
    pub(crate) kernel: Option<PathBuf>,
    /// The kernel's initial file system
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "console=ttyS0")]
    pub(crate) append: String,
    /// RAM in MiB, 8 to 3072; without it 64, and 256 with a kernel
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(8..=3072))]
    pub(crate) memory: Option<u64>,
    /// Take the time from the VM's clock, which begins in the year 2000 here, and not from the host's
    ///
    /// With `outboard run --mock-clock virtual`, one vCPU and no input, each run is then the same, instruction for instruction.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// A disk image to boot from, of whole sectors of 512 bytes; one that cannot be written is a disk that cannot
    ///
    /// In its jail the plugin sees what `outboard run --plugin-mount` shows it.
    #[arg(long, value_name = "FILE")]
    pub(crate) disk: Option<PathBuf>,
}

impl Options {
    /// RAM in bytes.
    pub(crate) fn ram(&self) -> u64 {
        self.memory.unwrap_or(if self.kernel.is_some() { 256 } else { 64 }) << 20
    }
}
