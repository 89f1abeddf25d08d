//! Memory that the plugin and its guest share.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::Error;

/// The size of a page in bytes, the unit in which memory is given to the guest.
pub const PAGE_SIZE: u64 = 4096;

/// Memory for a guest: a sealed memfd, mapped into this process.
///
/// [`Connection::map_memory`](crate::Connection::map_memory) shows it, or parts of it, to the guest. The guest, and
/// devices outside this process, may change it at any time, so there is no `&[u8]` over it: bytes are copied out and in.
/// When the guest writes while a copy is under way, the copy may hold some bytes from before and some from after.
///
/// The seals `F_SEAL_SHRINK` and `F_SEAL_GROW` keep its size as it is; the VMM takes no memfd that could shrink.
#[derive(Debug)]
pub struct GuestMemory {
    region: MmapRegion,
    memfd: File,
}

impl GuestMemory {
    /// Makes `length` bytes of memory, all zero.
    ///
    /// # Errors
    /// [`Error::NotPages`], or [`Error::System`] when the system gives no such memory.
    ///
    /// ```
    /// let memory = plugin_sdk::GuestMemory::new(0x10000)?;
    /// memory.write(0xfff0, b"jump")?;
    /// let mut bytes = [0; 4];
    /// memory.read(0xfff0, &mut bytes)?;
    /// assert_eq!(&bytes, b"jump");
    /// # Ok::<(), plugin_sdk::Error>(())
    /// ```
    pub fn new(length: u64) -> Result<Self, Error> {
        check_pages(length)?;
        if length == 0 {
            return Err(Error::NotPages { value: 0 });
        }
        let failed = |errno| Error::system("making guest memory", errno);
        let memfd = memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(failed)?;
        ftruncate(&memfd, length).map_err(failed)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW).map_err(failed)?;

        let memfd = File::from(memfd);
        let mapped = || {
            let size = usize::try_from(length).map_err(io::Error::other)?;
            let file = FileOffset::new(memfd.try_clone()?, 0);
            MmapRegion::from_file(file, size).map_err(io::Error::other)
        };
        let region = mapped().map_err(|source| Error::system("mapping guest memory", source))?;
        Ok(Self { region, memfd })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.region.size() as u64
    }

    /// Copies the bytes at `offset` into `bytes`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; then nothing is copied.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.slice(offset, bytes.len())?.copy_to(bytes);
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; then nothing is copied.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.slice(offset, bytes.len())?.copy_from(bytes);
        Ok(())
    }

    /// Checks that `length` bytes at `offset` are whole pages of it.
    pub(crate) fn check_part(&self, offset: u64, length: u64) -> Result<(), Error> {
        check_pages(offset)?;
        check_pages(length)?;
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(self.out_of_bounds(offset, length)),
        }
    }

    fn slice(&self, offset: u64, length: usize) -> Result<VolatileSlice<'_>, Error> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.region.get_slice(start, length).ok())
            .ok_or_else(|| self.out_of_bounds(offset, length as u64))
    }

    fn out_of_bounds(&self, offset: u64, length: u64) -> Error {
        Error::OutOfBounds { offset, length, size: self.size() }
    }
}

/// The memfd.
impl AsFd for GuestMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

pub(crate) fn check_pages(value: u64) -> Result<(), Error> {
    if value.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(Error::NotPages { value }) }
}

#[cfg(test)]
mod tests {
    use rustix::fs::fcntl_get_seals;

    use super::*;

    #[test]
    fn only_whole_pages_and_at_least_one_make_memory() {
        for length in [0, 1, 4095, 4097] {
            let made = GuestMemory::new(length);
            assert!(matches!(made, Err(Error::NotPages { value }) if value == length));
        }
        assert_eq!(GuestMemory::new(8192).unwrap().size(), 8192);
    }

    #[test]
    fn the_memfd_is_sealed_in_its_size() {
        let memory = GuestMemory::new(4096).unwrap();
        let seals = fcntl_get_seals(&memory).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW));
        assert!(ftruncate(&memory, 0).is_err());
        assert!(ftruncate(&memory, 8192).is_err());
    }

    #[test]
    fn bytes_written_are_read_again_up_to_the_last() {
        let memory = GuestMemory::new(4096).unwrap();
        memory.write(4092, &[1, 2, 3, 4]).unwrap();
        let mut bytes = [0; 6];
        memory.read(4090, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4]);
        memory.read(4096, &mut []).unwrap();
    }

    #[test]
    fn accesses_past_the_end_change_nothing() {
        let memory = GuestMemory::new(4096).unwrap();
        for offset in [4094, 4096, 4097, u64::MAX] {
            let mut bytes = [7; 3];
            assert!(matches!(memory.read(offset, &mut bytes), Err(Error::OutOfBounds { length: 3, size: 4096, .. })));
            assert_eq!(bytes, [7; 3]);
            assert!(memory.write(offset, &bytes).is_err());
        }
        let mut end = [0; 2];
        memory.read(4094, &mut end).unwrap();
        assert_eq!(end, [0; 2]);
    }

    #[test]
    fn a_part_is_whole_pages_inside_the_memory() {
        let memory = GuestMemory::new(0x4000).unwrap();
        memory.check_part(0x1000, 0x3000).unwrap();
        assert!(matches!(memory.check_part(0x800, 0x1000), Err(Error::NotPages { .. })));
        assert!(matches!(memory.check_part(0, 0x800), Err(Error::NotPages { .. })));
        assert!(matches!(memory.check_part(0x1000, 0x4000), Err(Error::OutOfBounds { .. })));
        assert!(matches!(memory.check_part(u64::MAX - 0xfff, 0x1000), Err(Error::OutOfBounds { .. })));
    }
}
