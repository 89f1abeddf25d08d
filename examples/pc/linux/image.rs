//! The kernel's file, a bzImage, by its setup header.

use std::ops::Range;

/// Where the header is in the file, and in `boot_params`.
pub(crate) const HEADER: usize = 0x1f1;

/// The 64-bit entry, behind the beginning of the protected-mode code.
pub(crate) const ENTRY_64: u64 = 0x200;

/// Fields of the header, by their offset in the file.
mod field {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP_LENGTH: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const INITRD_MAX: usize = 0x22c;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const PREFERRED_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// The first byte behind those that are read here.
    pub(super) const END: usize = 0x264;
}

/// The protocol that has all those fields: 2.12, of Linux 3.8.
const VERSION: u16 = 0x020c;
/// The kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// What is wrong with the kernel, or with what belongs to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the kernel is no bzImage with a 64-bit entry: {0}")]
    NotAKernel(&'static str),
    #[error("the kernel and its initial file system need more than the {} MiB of RAM", ram >> 20)]
    TooLarge { ram: u64 },
    #[error("the command line has a NUL byte, or more than the {most} bytes that the kernel takes")]
    CommandLine { most: usize },
    #[error(transparent)]
    Memory(#[from] plugin_sdk::Error),
}

/// A bzImage whose header was checked.
#[derive(Debug)]
pub(crate) struct Kernel {
    image: Vec<u8>,
    /// Where the protected-mode code begins in it.
    code: usize,
    header: Range<usize>,
}

impl Kernel {
    /// # Errors
    /// [`Error::NotAKernel`], with what it lacks.
    pub(crate) fn new(image: Vec<u8>) -> Result<Self, Error> {
        let lacks = |what| Err(Error::NotAKernel(what));
        if image.len() < field::END || image[field::MAGIC..][..4] != *b"HdrS" {
            return lacks("it has no setup header");
        }
        if number(&image, field::BOOT_FLAG, 2) != 0xaa55 {
            return lacks("its boot flag is wrong");
        }
        let mut kernel = Self { image, code: 0, header: 0..0 };
        if kernel.field(field::VERSION, 2) < u64::from(VERSION) {
            return lacks("its boot protocol is older than 2.12");
        }
        if kernel.field(field::XLOADFLAGS, 2) & u64::from(XLF_KERNEL_64) == 0 {
            return lacks("it has no 64-bit entry");
        }
        if kernel.field(field::RELOCATABLE, 1) == 0 {
            return lacks("it is not relocatable");
        }
        let sectors = match kernel.image[field::SETUP_SECTORS] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        kernel.code = (sectors + 1) * 512;
        // The end of the header is told by the jump over it.
        kernel.header = HEADER..field::MAGIC + usize::from(kernel.image[field::JUMP_LENGTH]);
        if kernel.image.len() <= kernel.code + ENTRY_64 as usize || kernel.header.end < field::END {
            return lacks("it is cut off");
        }
        Ok(kernel)
    }

    /// The setup header.
    pub(crate) fn header(&self) -> &[u8] {
        &self.image[self.header.clone()]
    }

    /// The protected-mode code.
    pub(crate) fn code(&self) -> &[u8] {
        &self.image[self.code..]
    }

    /// The most bytes of a command line, without the NUL at its end.
    pub(crate) fn command_line_size(&self) -> usize {
        // Beyond is the memory that PCs have their screen in.
        (self.field(field::COMMAND_LINE_SIZE, 4) as usize).min(0x1_0000)
    }

    /// The end of the memory that an initial file system may be in.
    pub(crate) fn initrd_end(&self) -> u32 {
        (self.field(field::INITRD_MAX, 4) as u32).saturating_add(1)
    }

    /// The end of the memory that the kernel uses before it reads the map of it.
    pub(crate) fn end(&self) -> u64 {
        let loaded = super::place::KERNEL + self.code().len() as u64;
        loaded.max(self.field(field::PREFERRED_ADDRESS, 8).saturating_add(self.field(field::INIT_SIZE, 4)))
    }

    fn field(&self, offset: usize, width: usize) -> u64 {
        number(&self.image, offset, width)
    }
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8], offset: usize, width: usize) -> u64 {
    bytes[offset..][..width].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        for (offset, bytes) in [
            (field::SETUP_SECTORS, &[1u8][..]),
            (field::BOOT_FLAG, &[0x55, 0xaa]),
            (field::JUMP_LENGTH, &[0x6a]),
            (field::MAGIC, b"HdrS"),
            (field::VERSION, &[0x0f, 0x02]),
            (field::INITRD_MAX, &[0xff, 0xff, 0xff, 0x7f]),
            (field::RELOCATABLE, &[1]),
            (field::XLOADFLAGS, &[1, 0]),
            (field::COMMAND_LINE_SIZE, &[0xff, 0x07, 0, 0]),
            (field::PREFERRED_ADDRESS, &[0, 0, 0, 1]),
            (field::INIT_SIZE, &[0, 0, 0x10, 0]),
            (0x400, b"code"),
        ] {
            image[offset..][..bytes.len()].copy_from_slice(bytes);
        }
        image
    }

    #[test]
    fn a_header_says_where_code_and_limits_are() {
        let kernel = Kernel::new(image()).unwrap();
        assert!(kernel.code().starts_with(b"code"));
        assert_eq!(kernel.header().len(), 0x7b);
        assert_eq!(kernel.command_line_size(), 0x7ff);
        assert_eq!(kernel.initrd_end(), 0x8000_0000);
        assert_eq!(kernel.end(), 0x0110_0000);
    }

    #[test]
    fn a_file_of_any_length_that_is_cut_off_is_refused() {
        let whole = image();
        for length in 0..=0x600 {
            Kernel::new(whole[..length].to_vec()).unwrap_err();
        }
    }

    #[test]
    fn a_kernel_without_what_the_loader_needs_is_refused() {
        for (offset, value) in [
            (field::MAGIC, 0),
            (field::BOOT_FLAG, 0),
            (field::VERSION, 0x0b),
            (field::XLOADFLAGS, 0),
            (field::RELOCATABLE, 0),
        ] {
            let mut image = image();
            image[offset] = value;
            let refused = Kernel::new(image);
            assert!(matches!(refused, Err(Error::NotAKernel(_))), "{offset:#x}");
        }
    }
}
