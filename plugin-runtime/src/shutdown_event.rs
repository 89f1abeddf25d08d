//! The eventfd by which a plugin is told to exit.
//!
//! The plugin holds the same open file, so it must stay blocking, and the VMM must not read it. But a plugin can fill
//! its counter, and a write to a full one blocks: so it is written from a thread that may block, and that the run's end
//! sets free. The thread waits from the beginning, since at the end there may be none to be had.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::io::{ReadWriteFlags, preadv2};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::error::{Error, Result};

pub(crate) struct ShutdownEvent {
    event: Arc<EventFd>,
    /// Tells the writer to write; dropped, to end.
    writer_waits: Option<Sender<()>>,
    writer: Option<JoinHandle<()>>,
}

impl ShutdownEvent {
    pub(crate) fn new() -> Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC).map_err(Error::set_up("making the shutdown event"))?;
        let event = Arc::new(event);
        let (sender, told) = channel();
        let writers = Arc::clone(&event);
        let writer = thread::Builder::new().name("shutdown".into()).spawn(move || {
            if told.recv().is_ok() {
                // An event that cannot be written is full, and the plugin sees it as fired.
                let _ = writers.write(1);
            }
        });
        let writer = writer.map_err(Error::set_up("starting the thread that tells the plugin to exit"))?;
        Ok(Self { event, writer_waits: Some(sender), writer: Some(writer) })
    }

    /// A descriptor of it for the plugin.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.borrow().try_clone_to_owned()
    }

    /// Tells the plugin to exit, once.
    pub(crate) fn fire(&mut self) {
        if let Some(writer) = self.writer_waits.take() {
            // It is there, waiting for this.
            let _ = writer.send(());
        }
    }

    #[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
    fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// Empties the counter. It never waits: a child of the plugin's may still be there, and read it too.
    fn empty(&self) {
        let mut counter = [0; 8];
        // u64::MAX is the current position, which is the only one there is.
        let _ = preadv2(self.borrow(), &mut [IoSliceMut::new(&mut counter)], u64::MAX, ReadWriteFlags::NOWAIT);
    }
}

impl Drop for ShutdownEvent {
    /// The plugin is gone by now, so reading takes nothing from it.
    fn drop(&mut self) {
        self.writer_waits = None;
        let Some(writer) = self.writer.take() else { return };
        while !writer.is_finished() {
            self.empty();
            thread::yield_now();
        }
        // It cannot have panicked: it only writes.
        let _ = writer.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(event: &ShutdownEvent) -> bool {
        test_utils::raw::readable_within(event.borrow(), std::time::Duration::from_secs(5))
    }

    #[test]
    fn an_event_that_the_plugin_filled_blocks_nobody() {
        let mut event = ShutdownEvent::new().unwrap();
        event.event.write(u64::MAX - 1).unwrap();
        event.fire();
        event.fire();
        assert!(is_readable(&event));
        drop(event);
    }

    #[test]
    fn it_is_readable_for_the_plugin_after_it_was_fired() {
        let mut event = ShutdownEvent::new().unwrap();
        let plugins = event.descriptor().unwrap();
        event.fire();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&plugins, &mut count).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    #[test]
    fn one_that_was_not_fired_is_not_written_at_the_end() {
        let event = ShutdownEvent::new().unwrap();
        let plugins = event.descriptor().unwrap();
        drop(event);
        assert!(!test_utils::raw::readable_within(&plugins, std::time::Duration::ZERO));
    }
}
