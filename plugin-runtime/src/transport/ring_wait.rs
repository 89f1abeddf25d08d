//! Waiting on a ring: for its word, which the plugin can write, and for the machine's stop signal, which it cannot.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use plugin_proto::ring::{self, Waiter};
use rustix::io::Errno as OsErrno;
use rustix::thread::{ClockId, futex};
use rustix::time::{Timespec, clock_gettime};
use vmm_core::{LinkError, StopSignal};

use super::message::Fault;
use crate::polling::Budget;

/// How long a wait lasts at most where the kernel cannot wait on two words: a stop is noticed that late at most.
const BOUND: Duration = Duration::from_millis(50);

/// Why a wait failed.
pub(super) enum WaitError {
    Link(LinkError),
    Ring(ring::Fault),
}

impl From<ring::Fault> for WaitError {
    fn from(fault: ring::Fault) -> Self {
        Self::Ring(fault)
    }
}

impl WaitError {
    #[cold]
    pub(super) fn into_link_error(self) -> LinkError {
        match self {
            Self::Link(error) => error,
            Self::Ring(ring::Fault::Closed) => LinkError::Disconnected,
            Self::Ring(fault) => Fault::Ring(fault).into(),
        }
    }
}

/// One wait of a vCPU for its plugin.
pub(super) struct Wait<'a> {
    stop: &'a StopSignal,
    budget: &'a mut Budget,
    deadline: Option<Instant>,
    pub(super) slept: bool,
    /// Polls after the first.
    pub(super) polls: u32,
}

impl<'a> Wait<'a> {
    #[inline]
    pub(super) fn new(stop: &'a StopSignal, budget: &'a mut Budget, deadline: Option<Instant>) -> Self {
        Self { stop, budget, deadline, slept: false, polls: 0 }
    }

    /// The time left to wait; `None` for no limit.
    fn time_left(&self) -> Result<Option<Duration>, WaitError> {
        if self.stop.is_set() {
            return Err(WaitError::Link(LinkError::Stopped));
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(WaitError::Link(LinkError::TimedOut)),
            left => Ok(left),
        }
    }
}

/// Set where the kernel cannot wait on two words (before Linux 5.16).
static ONE_WORD_ONLY: AtomicBool = AtomicBool::new(false);

impl Waiter for Wait<'_> {
    type Error = WaitError;

    fn spins(&mut self) -> u32 {
        self.budget.spins()
    }

    fn relax(&mut self, polls: u32) -> Result<(), WaitError> {
        self.polls = polls.saturating_add(1);
        if self.budget.relax(polls) { self.time_left().map(drop) } else { Ok(()) }
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), WaitError> {
        self.slept = true;
        let left = self.time_left()?;
        let slept = if ONE_WORD_ONLY.load(Ordering::Relaxed) {
            let bound = left.map_or(BOUND, |left| left.min(BOUND));
            // It fits.
            let bound = Timespec::try_from(bound).ok();
            futex::wait(word, futex::Flags::empty(), expected, bound.as_ref())
        } else {
            sleep_on_both(word, expected, self.stop.word(), left)
        };
        match slept {
            Ok(()) | Err(OsErrno::AGAIN | OsErrno::INTR | OsErrno::TIMEDOUT) => Ok(()),
            Err(OsErrno::NOSYS) => {
                ONE_WORD_ONLY.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(errno) => Err(WaitError::Link(Fault::Futex(errno).into())),
        }
    }
}

fn sleep_on_both(word: &AtomicU32, expected: u32, stop: &AtomicU32, left: Option<Duration>) -> rustix::io::Result<()> {
    let wait = |word: &AtomicU32, expected: u32, flags| {
        let mut wait = futex::Wait::new();
        wait.val = expected.into();
        wait.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
        wait.flags = flags;
        wait
    };
    let size = futex::WaitFlags::SIZE_U32;
    let waits = [wait(word, expected, size), wait(stop, 0, size | futex::WaitFlags::PRIVATE)];
    // The timeout is a point in time here. One too late for the kernel is none.
    let end = left.and_then(|left| {
        let now = clock_gettime(ClockId::Monotonic);
        now.checked_add(Timespec::try_from(left).ok()?)
    });
    futex::waitv(&waits, futex::WaitvFlags::empty(), end.as_ref(), ClockId::Monotonic).map(drop)
}
