//! Eventfds that somebody else reads and writes too, touched without waiting.
#![allow(
    unsafe_code,
    reason = "asynchronous I/O has no wrapper, and vmm-sys-util's EventFd lends out only a raw descriptor"
)]

use std::ffi::{c_long, c_ulong};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::EventFd;

pub(in crate::mock) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the event is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Adds 1, unless the counter is full, which is as good as signalled.
///
/// A write to a full counter waits, and the plugin can fill it at any moment. Only the kernel itself adds without
/// waiting: for KVM, and at the end of an asynchronous operation. So this is the end of one that does nothing.
pub(in crate::mock) fn signal(event: &EventFd) {
    let signalled = QUEUE.with(|queue| queue.as_ref().is_some_and(|queue| queue.finish_nothing(event).is_ok()));
    if !signalled {
        signal_unless_full(event);
    }
}

/// The next best thing: one whose counter is filled between look and write waits until it is read.
fn signal_unless_full(event: &EventFd) {
    let mut writable = [PollFd::from_borrowed_fd(borrow(event), PollFlags::OUT)];
    if poll(&mut writable, Some(&Timespec::default())) == Ok(1) {
        // Nothing can be done about an event that cannot be signalled, as in the kernel.
        let _ = event.write(1);
    }
}

thread_local! {
    /// `None` where the kernel has no asynchronous I/O, or no more of it.
    static QUEUE: Option<Queue> = Queue::new().ok();
}

/// Asynchronous operations, one at a time (`io_setup(2)`).
struct Queue(c_ulong);

/// `struct iocb` of `linux/aio_abi.h`, on a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct Operation {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: i32,
}

/// `struct io_event`.
type Outcome = [u64; 4];

const PREAD: u16 = 0;
const SIGNAL_EVENT: u32 = 1;

impl Queue {
    fn new() -> io::Result<Self> {
        let mut context = 0;
        // SAFETY: the kernel writes the context's number.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
        Ok(Self(context))
    }

    /// Reads no bytes from the event, which ends at once, refused, and signals it.
    fn finish_nothing(&self, event: &EventFd) -> io::Result<()> {
        let fd = event.as_raw_fd();
        let mut operation = Operation { opcode: PREAD, fd, flags: SIGNAL_EVENT, event: fd, ..Default::default() };
        let operations = [&raw mut operation];
        // SAFETY: one operation, without a buffer, whose structure the kernel only reads.
        checked(unsafe { libc::syscall(libc::SYS_io_submit, self.0, 1, operations.as_ptr()) })?;
        let mut outcome = Outcome::default();
        let forever = std::ptr::null::<libc::timespec>();
        // SAFETY: there is room for one outcome. It is there already, so this does not wait.
        checked(unsafe { libc::syscall(libc::SYS_io_getevents, self.0, 1, 1, &raw mut outcome, forever) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the context is this one's own, and nothing is under way in it.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn checked(returned: c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether it was signalled; it is not any more.
pub(in crate::mock) fn take(event: &EventFd) -> bool {
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
    fn a_counter_that_is_filled_at_any_moment_holds_nobody_up() {
        let event = EventFd::new(EFD_CLOEXEC).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    take(&event);
                    let _ = event.write(u64::MAX - 1);
                }
            });
            for _ in 0..100_000 {
                signal(&event);
                take(&event);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            take(&event);
        });
    }

    #[test]
    fn a_full_counter_takes_what_the_kernels_signal_adds_and_no_more() {
        let event = EventFd::new(EFD_CLOEXEC).unwrap();
        event.write(u64::MAX - 1).unwrap();
        signal(&event);
        signal(&event);
        assert_eq!(event.read().unwrap(), u64::MAX);
    }

    #[test]
    fn without_asynchronous_operations_a_full_counter_is_left_as_it_is() {
        let event = EventFd::new(EFD_CLOEXEC).unwrap();
        signal_unless_full(&event);
        event.write(u64::MAX - 2).unwrap();
        signal_unless_full(&event);
        assert_eq!(event.read().unwrap(), u64::MAX - 1);
    }
}
