//! Writes of the guest that signal an eventfd instead of stopping the vCPU.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plugin_proto::messages;
use plugin_proto::messages::main_request::create::{Constructor, IoEvent as WireIoEvent};

use crate::connection::exactly;
use crate::objects::ObjectId;
use crate::{AddressSpace, Connection, Error, eventfd};

/// An eventfd that the guest signals by a write: an ioeventfd. The vCPU does not stop, and what was written is not told.
///
/// Dropping it closes this process's descriptor and leaves the event in the VM; [`Connection::destroy_io_event`] ends it.
#[derive(Debug)]
#[must_use = "without it the event cannot be destroyed"]
pub struct IoEvent {
    id: ObjectId,
    eventfd: OwnedFd,
}

/// Which writes to an address count: all of them, or those of one length that write one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMatch {
    /// Writes of any length and value.
    Any,
    /// This byte.
    U8(u8),
    /// These two bytes.
    U16(u16),
    /// These four bytes.
    U32(u32),
    /// These eight bytes.
    U64(u64),
}

impl WriteMatch {
    /// Bytes written, 0 for any number of them; and the value.
    fn to_wire(self) -> (u32, u64) {
        match self {
            Self::Any => (0, 0),
            Self::U8(value) => (1, value.into()),
            Self::U16(value) => (2, value.into()),
            Self::U32(value) => (4, value.into()),
            Self::U64(value) => (8, value),
        }
    }
}

impl Connection {
    /// Makes an event of the guest's writes to `address`. It needs no reservation; where there is one too, a write that
    /// matches signals the event and is no access any more.
    ///
    /// ```no_run
    /// # fn doorbell(connection: &mut plugin_sdk::Connection) -> Result<(), plugin_sdk::Error> {
    /// use plugin_sdk::{AddressSpace, WriteMatch};
    ///
    /// // A doorbell: four bytes, of value 1, at this address.
    /// let doorbell = connection.create_io_event(AddressSpace::Mmio, 0xd000_0050, WriteMatch::U32(1))?;
    /// std::thread::spawn(move || {
    ///     while let Ok(rings) = doorbell.wait() {
    ///         println!("rung {rings} times");
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`]: `EEXIST` when another event has such writes already, `ENOSPC` when the VM has as many events as a
    /// plugin may have.
    pub fn create_io_event(&mut self, space: AddressSpace, address: u64, writes: WriteMatch) -> Result<IoEvent, Error> {
        let space = messages::AddressSpace::from(space).into();
        let (length, datamatch) = writes.to_wire();
        let event = WireIoEvent { space, address, length, datamatch, ..Default::default() };
        let (id, fds) = self.create(Constructor::IoEvent(event), None)?;
        let [eventfd] = exactly(fds)?;
        Ok(IoEvent { id, eventfd })
    }

    /// Ends an event: the writes are accesses again.
    ///
    /// # Errors
    /// [`Error::Refused`]; the event is gone from the VMM's books all the same.
    pub fn destroy_io_event(&mut self, event: IoEvent) -> Result<(), Error> {
        self.destroy(event.id)
    }
}

impl IoEvent {
    /// Blocks until the guest has written: how often since the last look.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self) -> Result<u64, Error> {
        eventfd::wait(self.as_fd())
    }
}

/// The eventfd, for a loop that waits on many.
impl AsFd for IoEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
