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
        self.reserve(space, start, length, false)
    }

    /// Like [`reserve_range`](Self::reserve_range) for writes that the guest does not wait for: each comes as
    /// [`Event::Posted`](crate::Event::Posted). Reads of the range are not the plugin's.
    ///
    /// # Errors
    /// As for [`reserve_range`](Self::reserve_range).
    pub fn reserve_async_write_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, true)
    }

    /// Ends the reservation that begins at `start`, of whichever kind.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when none begins there.
    pub fn release_range(&mut self, space: AddressSpace, start: u64) -> Result<(), Error> {
        self.reserve(space, start, 0, false)
    }

    fn reserve(&mut self, space: AddressSpace, start: u64, length: u64, async_write: bool) -> Result<(), Error> {
        let space = messages::AddressSpace::from(space).into();
        let request = ReserveRange { space, start, length, async_write, ..Default::default() };
        ask!(self, "reserve_range", ReserveRange(request)).map(drop)
    }
}
