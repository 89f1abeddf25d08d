//! What wakes a vCPU that has nothing to do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{read, write};

use crate::Result;
use crate::mock::refused;

/// A vCPU's. Once rung, the next wait ends at once.
pub(in crate::mock) struct Waker(OwnedFd);

impl Waker {
    pub(in crate::mock) fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        event.map(Self).map_err(|errno| refused("eventfd2", errno.raw_os_error()))
    }

    pub(in crate::mock) fn wake(&self) {
        // Only a full counter refuses it, which has rung already.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Waits until it is rung, or `other` can be read, or as long as `timeout` says. May end for no reason.
    pub(in crate::mock) fn wait(&self, other: BorrowedFd<'_>, timeout: Option<Duration>) {
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        // One of more than 200 years is none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // A signal ends it too.
        let _ = poll(&mut [watched(self.0.as_fd()), watched(other)], timeout.as_ref());
        let _ = read(&self.0, &mut [0; 8]);
    }
}
