//! Eventfds that somebody else reads and writes too, touched without waiting.
#![allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::EventFd;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the event is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Adds 1, unless the counter is full, which is as good as signalled. There is no write that cannot wait: one whose
/// counter is filled between look and write waits until it is read.
pub(super) fn signal(event: &EventFd) {
    let mut writable = [PollFd::from_borrowed_fd(borrow(event), PollFlags::OUT)];
    if poll(&mut writable, Some(&AT_ONCE)) == Ok(1) {
        // Nothing can be done about an event that cannot be signalled, as in the kernel.
        let _ = event.write(1);
    }
}

/// Whether it was signalled; it is not any more.
pub(super) fn take(event: &EventFd) -> bool {
    let mut counter = [0; 8];
    // u64::MAX is the current position, which is the only one there is.
    let read = preadv2(borrow(event), &mut [IoSliceMut::new(&mut counter)], u64::MAX, ReadWriteFlags::NOWAIT);
    read == Ok(counter.len())
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_CLOEXEC;

    use super::*;

    #[test]
    fn a_signal_is_taken_once_and_neither_waits() {
        let event = EventFd::new(EFD_CLOEXEC).unwrap();
        assert!(!take(&event));
        signal(&event);
        signal(&event);
        assert!(take(&event));
        assert!(!take(&event));
    }

    #[test]
    fn a_full_counter_is_left_as_it_is() {
        let event = EventFd::new(EFD_CLOEXEC).unwrap();
        event.write(u64::MAX - 1).unwrap();
        signal(&event);
        assert_eq!(event.read().unwrap(), u64::MAX - 1);
    }
}
