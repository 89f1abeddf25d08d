//! Eventfds as counters of events: a `write` adds, a `read` waits for more than zero and takes all.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::retry_on_intr;

use crate::Error;

/// Adds one event.
pub(crate) fn signal(eventfd: BorrowedFd<'_>) -> Result<(), Error> {
    let written = retry_on_intr(|| rustix::io::write(eventfd, &1u64.to_ne_bytes()));
    check(written, "signalling an eventfd")
}

/// Waits until there is an event: how many there were.
pub(crate) fn wait(eventfd: BorrowedFd<'_>) -> Result<u64, Error> {
    let mut count = [0; 8];
    let read = retry_on_intr(|| rustix::io::read(eventfd, &mut count));
    check(read, "waiting for an eventfd")?;
    Ok(u64::from_ne_bytes(count))
}

/// All 8 bytes must have been moved: that is how one knows an eventfd.
fn check(moved: rustix::io::Result<usize>, doing: &'static str) -> Result<(), Error> {
    match moved {
        Ok(8) => Ok(()),
        Ok(_) => Err(Error::System { doing, source: io::ErrorKind::UnexpectedEof.into() }),
        Err(errno) => Err(Error::System { doing, source: errno.into() }),
    }
}
