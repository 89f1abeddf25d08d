//! What the VMM keeps for a plugin under an id: mapped memory, I/O events, interrupt events.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use plugin_proto::messages::main_request::create::Constructor;
use plugin_proto::messages::main_request::{Create, Destroy};

use crate::connection::ask;
use crate::{Connection, Error};

/// The id of the next object. Ids belong to the VM, not to a connection, so all connections of the process draw from here.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// An object's id. There is no copy of it, so an object is destroyed at most once.
#[derive(Debug)]
pub(crate) struct ObjectId(u32);

impl ObjectId {
    pub(crate) fn number(&self) -> u32 {
        self.0
    }
}

impl Connection {
    /// Makes an object: its id and the descriptors that stand for it.
    pub(crate) fn create(
        &mut self,
        constructor: Constructor,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(ObjectId, Vec<OwnedFd>), Error> {
        let id = ObjectId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let name = match &constructor {
            Constructor::Memory(_) => "create_memory",
            Constructor::IoEvent(_) => "create_io_event",
            Constructor::IrqEvent(_) => "create_irq_event",
            _ => "create",
        };
        let request = Create { id: id.number(), constructor: Some(constructor), ..Default::default() };
        let (_, fds) = ask!(self, name, Create(request), fd)?;
        Ok((id, fds))
    }

    pub(crate) fn destroy(&mut self, id: ObjectId) -> Result<(), Error> {
        let request = Destroy { id: id.number(), ..Default::default() };
        ask!(self, "destroy", Destroy(request)).map(drop)
    }
}
