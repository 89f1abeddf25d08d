//! Which addresses are the plugin's.

use plugin_proto::messages;
use plugin_proto::messages::main_request::ReserveRange;

use crate::connection::ask;
use crate::{AddressSpace, Connection, Error};

impl Connection {
    /// Reserves `length` addresses from `start` on: accesses there stop the vCPU and become events of this plugin.
    ///
    /// A `length` of 0 is [`release_range`](Self::release_range).
    ///
    /// # Errors
    /// [`Error::Refused`]: `EPERM` when part of the range is reserved already, `EINVAL` when it passes the last address,
    /// `ENOSPC` when the VM has as many reservations as a plugin may have.
    pub fn reserve_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, Kind::Synchronous)
    }

    /// Like [`reserve_range`](Self::reserve_range) for writes that the guest does not wait for: each comes as
    /// [`Event::Posted`](crate::Event::Posted). Reads of the range are not the plugin's.
    ///
    /// # Errors
    /// As for [`reserve_range`](Self::reserve_range).
    pub fn reserve_async_write_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, Kind::Posted)
    }

    /// Like [`reserve_async_write_range`](Self::reserve_async_write_range) for a device that is written to very often: writes
    /// are coalesced, so that many of them cost the guest less than one exit, and come some 10 ms late at most. Each still comes as
    /// [`Event::Posted`](crate::Event::Posted). With one vCPU they come in the guest's order, also with its other exits; with
    /// several no order is promised, and each may come on any vCPU. There should be no I/O event in such a range.
    ///
    /// A VMM that cannot coalesce posts them one by one.
    ///
    /// # Errors
    /// As for [`reserve_range`](Self::reserve_range).
    pub fn reserve_coalesced_write_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, Kind::Coalesced)
    }

    /// Ends the reservation that begins at `start`, of whichever kind.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when none begins there.
    pub fn release_range(&mut self, space: AddressSpace, start: u64) -> Result<(), Error> {
        self.reserve(space, start, 0, Kind::Synchronous)
    }

    fn reserve(&mut self, space: AddressSpace, start: u64, length: u64, kind: Kind) -> Result<(), Error> {
        let space = messages::AddressSpace::from(space).into();
        let (async_write, coalesce) = (kind != Kind::Synchronous, kind == Kind::Coalesced);
        let request = ReserveRange { space, start, length, async_write, coalesce, ..Default::default() };
        let name = if length == 0 { "release_range" } else { "reserve_range" };
        ask!(self, name, ReserveRange(request)).map(drop)
    }
}

/// How accesses to a range are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Synchronous,
    Posted,
    Coalesced,
}
