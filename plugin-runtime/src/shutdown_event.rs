//! The eventfd by which a plugin is told to exit.
//!
//! The plugin holds the same open file, so it must stay blocking, and the VMM must not read it. But a plugin can fill
//! its counter, and a write to a full one blocks: so it is written from a thread that may block, and that the run's end
//! sets free.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use crate::error::{Error, Result};

pub(crate) struct ShutdownEvent {
    event: Arc<EventFd>,
    writer: Option<JoinHandle<()>>,
}

impl ShutdownEvent {
    pub(crate) fn new() -> Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC).map_err(Error::set_up("making the shutdown event"))?;
        Ok(Self { event: Arc::new(event), writer: None })
    }

    /// A descriptor of it for the plugin.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.borrow().try_clone_to_owned()
    }

    /// Tells the plugin to exit, once.
    pub(crate) fn fire(&mut self) -> Result<()> {
        if self.writer.is_some() {
            return Ok(());
        }
        let event = Arc::clone(&self.event);
        let writer = thread::Builder::new().name("shutdown".into()).spawn(move || {
            // An event that cannot be written is full, and the plugin sees it as fired.
            let _ = event.write(1);
        });
        self.writer = Some(writer.map_err(Error::set_up("starting the thread that tells the plugin to exit"))?);
        Ok(())
    }

    #[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
    fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    fn is_readable(&self) -> bool {
        let borrowed = self.borrow();
        let mut fds = [rustix::event::PollFd::new(&borrowed, rustix::event::PollFlags::IN)];
        matches!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())), Ok(1..))
    }
}

impl Drop for ShutdownEvent {
    /// The plugin is gone by now, so reading takes nothing from it.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        while !writer.is_finished() {
            if self.is_readable() {
                let _ = self.event.read();
            }
            thread::yield_now();
        }
        // It cannot have panicked: it only writes.
        let _ = writer.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_the_plugin_filled_blocks_nobody() {
        let mut event = ShutdownEvent::new().unwrap();
        event.event.write(u64::MAX - 1).unwrap();
        event.fire().unwrap();
        event.fire().unwrap();
        assert!(event.is_readable());
        drop(event);
    }

    #[test]
    fn it_is_readable_for_the_plugin_after_it_was_fired() {
        let mut event = ShutdownEvent::new().unwrap();
        let plugins = event.descriptor().unwrap();
        assert!(!event.is_readable());
        event.fire().unwrap();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&plugins, &mut count).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
