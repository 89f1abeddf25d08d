//! A piece of guest memory before it is mapped.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use crate::error::{Error, MemoryProblem, Result};

/// Bytes of a page, the grain of guest memory.
pub const PAGE_SIZE: u64 = 4096;

/// Part of a memfd that is to become guest memory.
///
/// It exists only if it can be mapped safely: start, offset and length are whole pages, it lies within the file, and
/// the file cannot shrink.
#[derive(Debug)]
pub struct GuestMemoryRegion {
    start: GuestAddress,
    file: File,
    offset: u64,
    len: u64,
    read_only: bool,
    log_dirty: bool,
}

impl GuestMemoryRegion {
    /// `[offset, offset + len)` of `memfd`, to be mapped at guest-physical `start`.
    pub fn new(start: GuestAddress, memfd: OwnedFd, offset: u64, len: u64) -> Result<Self> {
        let file = File::from(memfd);
        match check(start.0, &file, offset, len) {
            Ok(()) => Ok(Self { start, file, offset, len, read_only: false, log_dirty: false }),
            Err(problem) => Err(Error::Memory { start: start.0, len, problem }),
        }
    }

    /// Guest writes exit as MMIO instead of changing the memory.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The backend keeps a log of the pages the guest writes.
    pub fn log_dirty(mut self, log_dirty: bool) -> Self {
        self.log_dirty = log_dirty;
        self
    }

    /// Guest-physical start.
    pub fn start(&self) -> GuestAddress {
        self.start
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether guest writes exit.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether guest writes are logged.
    pub fn logs_dirty(&self) -> bool {
        self.log_dirty
    }

    /// The file whose bytes it is.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Maps it into this process, as a backend does. Not for writing where it is read-only: a file sealed against writes is no
    /// less good for that.
    ///
    /// # Errors
    /// [`Error::Memory`]: the kernel does not map it.
    pub fn map(self) -> Result<MmapRegion> {
        let (start, len) = (self.start.0, self.len);
        let prot = if self.read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        // u64 is usize on x86-64.
        MmapRegionBuilder::new(len as usize)
            .with_file_offset(FileOffset::new(self.file, self.offset))
            .with_mmap_prot(prot)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .build()
            .map_err(|source| Error::Memory { start, len, problem: MemoryProblem::System(mapping_error(source)) })
    }

    /// An error about this region.
    pub(crate) fn problem(&self, problem: impl Into<MemoryProblem>) -> Error {
        Error::Memory { start: self.start.0, len: self.len, problem: problem.into() }
    }
}

/// The lowest number below `most` that is not among `used`, which come in order.
pub(crate) fn lowest_free<'a>(used: impl IntoIterator<Item = &'a u32>, most: u32) -> Option<u32> {
    let mut used = used.into_iter();
    (0..most).find(|number| used.next() != Some(number))
}

fn mapping_error(error: MmapRegionError) -> io::Error {
    match error {
        MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other),
    }
}

fn check(start: u64, file: &File, offset: u64, len: u64) -> std::result::Result<(), MemoryProblem> {
    if len == 0 {
        return Err(MemoryProblem::Empty);
    }
    start.checked_add(len).ok_or(MemoryProblem::Overflow)?;
    let end = offset.checked_add(len).ok_or(MemoryProblem::Overflow)?;
    if [start, offset, len].iter().any(|n| !n.is_multiple_of(PAGE_SIZE)) {
        return Err(MemoryProblem::Unaligned);
    }
    let seals = fcntl_get_seals(file).map_err(io::Error::from)?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(MemoryProblem::NotSealed);
    }
    // A file's size is never negative; a nonsense one is too small for anything.
    let size = u64::try_from(fstat(file).map_err(io::Error::from)?.st_size).unwrap_or(0);
    if end > size {
        return Err(MemoryProblem::PastEnd { size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    const LAST_PAGE: u64 = u64::MAX - 0xfff;

    fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
        let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, len).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    fn problem(start: u64, memfd: OwnedFd, offset: u64, len: u64) -> String {
        match GuestMemoryRegion::new(GuestAddress(start), memfd, offset, len) {
            Err(Error::Memory { problem, .. }) => format!("{problem:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_region_is_whole_pages_within_a_file_that_cannot_shrink() {
        let sealed = || memfd(0x3000, SealFlags::SHRINK);
        assert_eq!(problem(0, sealed(), 0, 0), "Empty");
        assert_eq!(problem(1, sealed(), 0, 0x1000), "Unaligned");
        assert_eq!(problem(0, sealed(), 0x800, 0x1000), "Unaligned");
        assert_eq!(problem(0, sealed(), 0, 0x1001), "Unaligned");
        assert_eq!(problem(0, sealed(), 0x1000, 0x3000), "PastEnd { size: 12288 }");
        assert_eq!(problem(0, sealed(), LAST_PAGE, 0x1000), "Overflow");
        assert_eq!(problem(LAST_PAGE, sealed(), 0, 0x1000), "Overflow");
        assert_eq!(problem(0, memfd(0x3000, SealFlags::GROW), 0, 0x1000), "NotSealed");
        GuestMemoryRegion::new(GuestAddress(0x1000), sealed(), 0x1000, 0x2000).unwrap();
    }

    #[test]
    fn the_lowest_slot_that_is_free_is_taken() {
        assert_eq!(lowest_free(&[], 3), Some(0));
        assert_eq!(lowest_free(&[1, 2], 3), Some(0));
        assert_eq!(lowest_free(&[0, 2], 3), Some(1));
        assert_eq!(lowest_free(&[0, 1], 3), Some(2));
        assert_eq!(lowest_free(&[0, 1, 2], 3), None);
    }

    #[test]
    fn what_is_no_memfd_is_refused() {
        let pipe = rustix::pipe::pipe().unwrap().0;
        assert!(problem(0, pipe, 0, 0x1000).starts_with("System"));
    }
}
