//! Which memory the guest has.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use plugin_proto::messages::main_request::MemoryDirtyLog;
use plugin_proto::messages::main_request::create::{Constructor, Memory};

use crate::connection::{ask, exactly};
use crate::memory::check_pages;
use crate::objects::ObjectId;
use crate::{Connection, Error, GuestMemory};

/// Memory of the guest, until it is given to [`Connection::unmap`]. Dropping it leaves the memory where it is.
#[derive(Debug)]
#[must_use = "without it the memory cannot be unmapped"]
pub struct MappedMemory {
    id: ObjectId,
}

/// How the guest may use memory and what is remembered of it. By default it reads and writes, and nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFlags {
    /// The guest's writes do not reach the memory but are MMIO accesses.
    pub read_only: bool,
    /// Which pages the guest writes is tracked: [`Connection::dirty_log`].
    pub dirty_log: bool,
}

impl Connection {
    /// Shows the bytes `part` of `memory` to the guest, from the guest-physical `address` on. Offsets, length and address are
    /// multiples of [`PAGE_SIZE`](crate::PAGE_SIZE). The VMM holds the memory by itself: dropping `memory` takes nothing
    /// from the guest.
    ///
    /// # Errors
    /// [`Error::NotPages`] or [`Error::OutOfBounds`] for a `part` that is no part of `memory`. [`Error::Refused`]:
    /// `EEXIST` when the guest has memory there already, `ENOSPC` when the VM has as many objects as a plugin may have.
    pub fn map_memory(
        &mut self,
        memory: &GuestMemory,
        part: Range<u64>,
        address: u64,
        flags: MemoryFlags,
    ) -> Result<MappedMemory, Error> {
        memory.check_part(part.start, part.end.saturating_sub(part.start))?;
        self.map_fd(memory.as_fd(), part, address, flags)
    }

    /// [`map_memory`](Self::map_memory) for memory that came from elsewhere: a memfd with the seal `F_SEAL_SHRINK`.
    ///
    /// # Errors
    /// [`Error::NotPages`]. [`Error::Refused`]: `EPERM` when the descriptor is no memfd with that seal, `EINVAL` when `part`
    /// is empty or ends past the memfd, and as for [`map_memory`](Self::map_memory).
    pub fn map_fd(
        &mut self,
        memfd: BorrowedFd<'_>,
        part: Range<u64>,
        address: u64,
        flags: MemoryFlags,
    ) -> Result<MappedMemory, Error> {
        let length = part.end.saturating_sub(part.start);
        check_pages(part.start)?;
        check_pages(length)?;
        let constructor = Constructor::Memory(Memory {
            offset: part.start,
            start: address,
            length,
            read_only: flags.read_only,
            dirty_log: flags.dirty_log,
            ..Default::default()
        });
        let (id, fds) = self.create(constructor, Some(memfd))?;
        let [] = exactly(fds)?;
        Ok(MappedMemory { id })
    }

    /// Takes memory away from the guest.
    ///
    /// # Errors
    /// [`Error::Refused`]; the memory is gone from the VMM's books all the same.
    pub fn unmap(&mut self, memory: MappedMemory) -> Result<(), Error> {
        self.destroy(memory.id)
    }

    /// Which pages of `memory` the guest has written since the last call, one bit a page: page n is bit n % 8 of byte n / 8.
    /// There are as many bytes as the pages fill.
    ///
    /// ```no_run
    /// # fn log(
    /// #     connection: &mut plugin_sdk::Connection,
    /// #     memory: &plugin_sdk::MappedMemory,
    /// # ) -> Result<(), plugin_sdk::Error> {
    /// let log = connection.dirty_log(memory)?;
    /// let written = (0..log.len() * 8).filter(|page| log[page / 8] >> (page % 8) & 1 == 1);
    /// println!("pages {:?}", written.collect::<Vec<_>>());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when it was not mapped with [`MemoryFlags::dirty_log`].
    pub fn dirty_log(&mut self, memory: &MappedMemory) -> Result<Vec<u8>, Error> {
        let request = MemoryDirtyLog { id: memory.id.number(), ..Default::default() };
        ask!(self, "dirty_log", DirtyLog(request)).map(|(answer, _)| answer.bitmap)
    }
}
