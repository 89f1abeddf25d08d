//! Which processor a thread runs on.
#![allow(
    unsafe_code,
    reason = "the C library knows it without a system call, which rustix may need; filters need not allow one"
)]

/// The number of the processor that the calling thread runs on. It may have moved by the time that this is looked at.
#[must_use]
pub fn current_processor() -> Option<u32> {
    // SAFETY: it takes nothing and changes nothing.
    u32::try_from(unsafe { libc::sched_getcpu() }).ok()
}
