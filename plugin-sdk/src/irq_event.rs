//! Interrupts that an eventfd raises.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plugin_proto::messages::main_request::create::{Constructor, IrqEvent as WireIrqEvent};

use crate::connection::exactly;
use crate::objects::ObjectId;
use crate::{Connection, Error, eventfd};

/// An interrupt line behind two eventfds: an irqfd. A write to the first raises the line; the kernel lowers it when the
/// guest has acknowledged the interrupt, and signals the second.
///
/// Raising needs no connection, so it may be done from any thread. Dropping it closes this process's descriptors and leaves the event
/// in the VM; [`Connection::destroy_irq_event`] ends it.
#[derive(Debug)]
#[must_use = "without it the event cannot be destroyed"]
pub struct IrqEvent {
    id: ObjectId,
    trigger: OwnedFd,
    resample: OwnedFd,
}

impl Connection {
    /// Makes an event that raises the line `gsi`.
    ///
    /// ```no_run
    /// # fn timer(connection: &mut plugin_sdk::Connection) -> Result<(), plugin_sdk::Error> {
    /// let irq = connection.create_irq_event(10)?;
    /// std::thread::spawn(move || -> Result<(), plugin_sdk::Error> {
    ///     loop {
    ///         irq.raise()?;
    ///         // The line is low again when the guest has acknowledged.
    ///         irq.wait_resample()?;
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says. A second event of the same line is made; the VMM warns of it, since what the
    /// guest acknowledges is then reported to both.
    pub fn create_irq_event(&mut self, gsi: u32) -> Result<IrqEvent, Error> {
        // The VMM always makes both eventfds, whatever is asked for.
        let event = WireIrqEvent { irq_id: gsi, resample: true, ..Default::default() };
        let (id, fds) = self.create(Constructor::IrqEvent(event), None)?;
        let [trigger, resample] = exactly(fds)?;
        Ok(IrqEvent { id, trigger, resample })
    }

    /// Ends an event.
    ///
    /// # Errors
    /// [`Error::Refused`]; the event is gone from the VMM's books all the same.
    pub fn destroy_irq_event(&mut self, event: IrqEvent) -> Result<(), Error> {
        self.destroy(event.id)
    }
}

impl IrqEvent {
    /// Raises the line.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn raise(&self) -> Result<(), Error> {
        eventfd::signal(self.trigger())
    }

    /// Blocks until the guest has acknowledged an interrupt. A device whose reason to interrupt has not gone raises
    /// again.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait_resample(&self) -> Result<(), Error> {
        eventfd::wait(self.resample()).map(drop)
    }

    /// The eventfd to write.
    #[must_use]
    pub fn trigger(&self) -> BorrowedFd<'_> {
        self.trigger.as_fd()
    }

    /// The eventfd to read.
    #[must_use]
    pub fn resample(&self) -> BorrowedFd<'_> {
        self.resample.as_fd()
    }
}
