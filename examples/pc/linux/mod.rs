//! A Linux kernel that is started without firmware: the loader does what firmware and boot loader do on a PC, by the x86 boot
//! protocol (the kernel's Documentation/arch/x86/boot.rst).

mod acpi;
mod boot_params;
pub(crate) mod image;
mod long_mode;

use plugin_sdk::{GuestMemory, State};

pub(crate) use image::{Error, Kernel};

/// Guest-physical addresses of what the loader writes. All are RAM that the kernel leaves alone until it has read them.
mod place {
    pub(super) const GDT: u64 = 0x500;
    pub(super) const BOOT_PARAMS: u64 = 0x7000;
    /// Six pages.
    pub(super) const PAGE_TABLES: u64 = 0x9000;
    pub(super) const STACK: u64 = 0x1_f000;
    pub(super) const COMMAND_LINE: u64 = 0x2_0000;
    /// Up to 1 MiB; the kernel also searches here for ACPI's root pointer.
    pub(super) const ACPI: u64 = 0xe_0000;
    pub(super) const KERNEL: u64 = 0x10_0000;
}

/// What the user wants booted.
#[derive(Debug)]
pub(crate) struct Linux {
    pub(crate) kernel: Kernel,
    /// The initial file system; empty for none.
    pub(crate) initrd: Vec<u8>,
    pub(crate) command_line: String,
}

impl Linux {
    /// Writes kernel, initial file system, tables and parameters into RAM, for `cpus` processors.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::CommandLine`], or the memory's.
    pub(crate) fn load(&self, memory: &GuestMemory, cpus: u8) -> Result<(), Error> {
        let initrd = self.place_initrd(memory.size())?;
        memory.write(place::KERNEL, self.kernel.code())?;
        memory.write(initrd, &self.initrd)?;
        let text = self.command_line.as_bytes();
        if text.len() > self.kernel.command_line_size() || text.contains(&0) {
            return Err(Error::CommandLine { most: self.kernel.command_line_size() });
        }
        memory.write(place::COMMAND_LINE, text)?;
        memory.write(place::COMMAND_LINE + text.len() as u64, &[0])?;
        memory.write(place::ACPI, &acpi::tables(place::ACPI, cpus))?;
        // Both fit below 4 GiB, as RAM does.
        let initrd = (initrd as u32, self.initrd.len() as u32);
        memory.write(place::BOOT_PARAMS, &boot_params::page(&self.kernel, initrd, memory.size()))?;
        memory.write(place::GDT, &long_mode::gdt())?;
        memory.write(place::PAGE_TABLES, &long_mode::page_tables(place::PAGE_TABLES))?;
        Ok(())
    }

    /// As high as it fits, where the kernel's decompression does not reach.
    fn place_initrd(&self, ram: u64) -> Result<u64, Error> {
        let length = self.initrd.len() as u64;
        let too_large = Error::TooLarge { ram };
        let end = ram.min(u64::from(self.kernel.initrd_end()));
        let start = end.checked_sub(length).ok_or(too_large)? & !0xfff;
        if start < self.kernel.end() {
            return Err(Error::TooLarge { ram });
        }
        Ok(start)
    }
}

/// Puts the first processor to the kernel's 64-bit entry.
///
/// # Errors
/// The vCPU's.
pub(crate) fn enter(state: &mut State<'_>) -> Result<(), plugin_sdk::Error> {
    let mut sregs = state.sregs()?;
    long_mode::set(&mut sregs, place::GDT, place::PAGE_TABLES);
    state.set_sregs(&sregs);
    state.set_regs(&plugin_sdk::kvm_regs {
        rip: place::KERNEL + image::ENTRY_64,
        rsi: place::BOOT_PARAMS,
        rsp: place::STACK,
        rflags: 2,
        ..Default::default()
    });
    Ok(())
}
