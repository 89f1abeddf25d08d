//! A request that is refused: the errno for the plugin, and the reason for the log.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::thread;
use std::time::Instant;

use hypervisor::Error as BackendError;
use vmm_core::Error as MachineError;

use crate::errno::Errno;
use crate::log_budget::{Admission, LogBudget};

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    why: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, why: impl Into<Cow<'static, str>>) -> Self {
        Self { errno, why: why.into() }
    }

    fn of<E: fmt::Display>(error: &E) -> Self
    where
        for<'e> Errno: From<&'e E>,
    {
        Self { errno: Errno::from(error), why: error.to_string().into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<&io::Error> for Refusal {
    fn from(error: &io::Error) -> Self {
        Self::of(error)
    }
}

impl From<&BackendError> for Refusal {
    fn from(error: &BackendError) -> Self {
        Self::of(error)
    }
}

impl From<&MachineError> for Refusal {
    fn from(error: &MachineError) -> Self {
        Self::of(error)
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(errno: rustix::io::Errno) -> Self {
        Self { errno: errno.into(), why: errno.to_string().into() }
    }
}

thread_local! {
    /// Of each vCPU's thread, and of the one that serves the main requests.
    static BUDGET: RefCell<LogBudget> = RefCell::new(LogBudget::new());
}

/// Logs at `debug` what was refused, and why. Lines beyond a thread's budget are counted.
#[cold]
pub(crate) fn log(what: fmt::Arguments<'_>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let Admission::Log { dropped } = BUDGET.with_borrow_mut(|budget| budget.admit(Instant::now())) else { return };
    let thread = thread::current();
    let vcpu = thread.name().and_then(|name| name.strip_prefix("vcpu")?.parse::<u32>().ok());
    tracing::debug!(vcpu, dropped, "{what}");
}

#[cfg(test)]
mod tests {
    use hypervisor::{GuestAddress, GuestMemoryRegion};

    use super::*;

    #[test]
    fn a_refusal_keeps_the_errors_words_and_the_protocols_errno() {
        let memfd = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memfd, 0x1000).unwrap();
        let error = GuestMemoryRegion::new(GuestAddress(0), memfd, 0, 0x1000).unwrap_err();
        let refusal = Refusal::from(&error);
        assert_eq!(refusal.errno, Errno(libc::EPERM));
        let expected = "guest memory at 0x0, 0x1000 bytes: the memfd is not sealed against shrinking (F_SEAL_SHRINK)";
        assert_eq!(refusal.to_string(), expected);
    }
}
