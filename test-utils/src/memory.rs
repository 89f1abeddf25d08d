//! Guest memory for tests.

use std::os::fd::OwnedFd;

use hypervisor::{GuestAddress, GuestMemoryRegion};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// A memfd of `len` zero bytes that cannot shrink.
///
/// # Panics
///
/// If the kernel gives none.
pub fn sealed_memfd(len: u64) -> OwnedFd {
    let memfd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd_create");
    ftruncate(&memfd, len).expect("ftruncate");
    fcntl_add_seals(&memfd, SealFlags::SHRINK).expect("sealing");
    memfd
}

/// All of a fresh memfd of `len` bytes, to be mapped at `start`, and a second descriptor to look into it.
///
/// # Panics
///
/// If it cannot be made.
pub fn region(start: u64, len: u64) -> (GuestMemoryRegion, OwnedFd) {
    let memfd = sealed_memfd(len);
    let twin = memfd.try_clone().expect("dup");
    (GuestMemoryRegion::new(GuestAddress(start), memfd, 0, len).expect("region"), twin)
}

/// Writes all of `data` at `offset`.
///
/// # Panics
///
/// If the kernel takes less.
pub fn write_at(memfd: &OwnedFd, offset: u64, data: &[u8]) {
    assert_eq!(rustix::io::pwrite(memfd, data, offset).expect("pwrite"), data.len());
}

/// Reads `len` bytes at `offset`.
///
/// # Panics
///
/// If the kernel gives less.
pub fn read_at(memfd: &OwnedFd, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    assert_eq!(rustix::io::pread(memfd, &mut data[..], offset).expect("pread"), len);
    data
}
