//! The signal that makes every thread of a machine end.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use rustix::thread::futex;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::{Error, LinkError, Result};

/// The signal that makes the threads of a machine end. A thread polls it, or waits for it on a channel, on a descriptor or on a
/// word. It is set once and never cleared.
#[derive(Clone, Debug)]
pub struct StopSignal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// 0, and then 1.
    set: AtomicU32,
    /// Dropped to close the channel.
    keep_open: Mutex<Option<Sender<Infallible>>>,
    channel: Receiver<Infallible>,
    /// Written once and never read, so that it stays readable.
    event: EventFd,
}

impl StopSignal {
    pub(crate) fn new() -> Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|source| Error::EventFd { purpose: "stopping a machine", source })?;
        let (sender, channel) = crossbeam_channel::bounded(0);
        let shared = Shared { set: AtomicU32::new(0), keep_open: Mutex::new(Some(sender)), channel, event };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether the machine ends.
    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::SeqCst) != 0
    }

    /// Fails where a vCPU must not wait any longer: the machine ends, or the deadline has passed.
    #[inline]
    pub(crate) fn check_wait(&self, deadline: Option<Instant>) -> std::result::Result<(), LinkError> {
        if self.is_set() {
            return Err(LinkError::Stopped);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(LinkError::TimedOut);
        }
        Ok(())
    }

    pub(crate) fn set(&self) {
        self.shared.set.store(1, Ordering::SeqCst);
        // The word is there, so this cannot fail.
        let _ = futex::wake(&self.shared.set, futex::Flags::PRIVATE, i32::MAX as u32);
        self.shared.keep_open.lock().take();
        // An eventfd that is full already is readable, which is all that is wanted.
        let _ = self.shared.event.write(1);
    }

    /// A word that is 0 until the signal is set, when those who wait on it by a private futex are woken.
    pub fn word(&self) -> &AtomicU32 {
        &self.shared.set
    }

    /// A channel that carries nothing and is closed by the signal.
    pub(crate) fn channel(&self) -> &Receiver<Infallible> {
        &self.shared.channel
    }
}

impl AsFd for StopSignal {
    /// Readable once the signal is set. It must not be read.
    #[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.shared.event.as_raw_fd()) }
    }
}
