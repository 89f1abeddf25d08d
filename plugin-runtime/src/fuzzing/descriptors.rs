//! Descriptors of all kinds, as a plugin could send them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::pipe::pipe;

/// Bytes of each memfd.
pub(super) const MEMORY_LEN: u64 = 0x1_0000;

/// One descriptor of each kind. The first is memory as it should be.
pub(super) struct Descriptors([OwnedFd; 8]);

impl Descriptors {
    pub(super) fn new() -> Self {
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let directory: OwnedFd = File::open("/").unwrap().into();
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (pipe, _) = pipe().unwrap();
        Self([
            memfd(MEMORY_LEN, SealFlags::SHRINK),
            memfd(MEMORY_LEN, SealFlags::empty()),
            memfd(MEMORY_LEN, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL),
            memfd(1, SealFlags::SHRINK),
            null,
            directory,
            event,
            pipe,
        ])
    }

    /// The memory as it should be.
    pub(super) fn memory(&self) -> &OwnedFd {
        &self.0[0]
    }

    /// As many as the high bits of `choice` say, up to 3; the low bits choose the first.
    pub(super) fn chosen(&self, choice: u8) -> Vec<BorrowedFd<'_>> {
        let first = usize::from(choice) % self.0.len();
        self.0.iter().cycle().skip(first).take(usize::from(choice >> 6)).map(AsFd::as_fd).collect()
    }
}

fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, len).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}
