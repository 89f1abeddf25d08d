//! The clock of a VM: the host's, a virtual one that counts instructions, or one that a test moves by hand.
//!
//! Everything that tells time reads it: the PIT, the local APICs' timers, the time-stamp counters and kvmclock. Its
//! unit is the nanosecond, and it begins at 0 with the VM.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What moves the clock of a VM of the mock. In all cases the time-stamp counter counts nanoseconds of that clock: its
/// frequency is 1 GHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Clock {
    /// The host's monotonic clock.
    Host,
    /// The instructions that the VM's vCPUs execute: each is 1 ns. While all vCPUs halt, the clock jumps to the next
    /// timer that expires, unless somebody has [work](crate::mock::OutstandingWork) to do; then it keeps pace with the
    /// host's.
    Virtual,
}

/// A time that does not come.
pub(in crate::mock) const NEVER: u64 = u64::MAX;

/// Values of `kind`.
const HOST: u8 = 0;
const VIRTUAL: u8 = 1;
const HELD: u8 = 2;

/// A VM's clock.
pub(in crate::mock) struct TimeSource {
    kind: AtomicU8,
    /// Of the host's clock: when the VM began.
    start: u64,
    /// Nanoseconds since the VM began, where the clock is not the host's.
    value: AtomicU64,
}

impl TimeSource {
    pub(in crate::mock) fn new(clock: Clock) -> Self {
        let kind = match clock {
            Clock::Host => HOST,
            Clock::Virtual => VIRTUAL,
        };
        Self { kind: AtomicU8::new(kind), start: host(), value: AtomicU64::new(0) }
    }

    fn is(&self, kind: u8) -> bool {
        self.kind.load(Ordering::Acquire) == kind
    }

    pub(in crate::mock) fn is_hosts(&self) -> bool {
        self.is(HOST)
    }

    /// Whether instructions move it.
    pub(in crate::mock) fn counts_instructions(&self) -> bool {
        self.is(VIRTUAL)
    }

    /// Nanoseconds since the VM began.
    pub(in crate::mock) fn now(&self) -> u64 {
        if self.is_hosts() { self.since_start() } else { self.value.load(Ordering::Acquire) }
    }

    /// The same by the host's clock, whatever moves this one.
    pub(in crate::mock) fn since_start(&self) -> u64 {
        host().saturating_sub(self.start)
    }

    /// A time of this clock, where that is the host's, as the host's monotonic clock has it: KVM's PIT tells times so.
    pub(in crate::mock) fn on_host(&self, time: i64) -> i64 {
        if self.is_hosts() { time.saturating_add_unsigned(self.start) } else { time }
    }

    /// This many instructions were executed.
    pub(in crate::mock) fn count(&self, instructions: u64) {
        if self.counts_instructions() {
            self.value.fetch_add(instructions, Ordering::AcqRel);
        }
    }

    /// Moves a virtual clock on to a time, unless it is behind that already.
    pub(in crate::mock) fn move_to(&self, then: u64) {
        if self.counts_instructions() {
            self.value.fetch_max(then, Ordering::AcqRel);
        }
    }

    /// Makes the host's clock a virtual one, which continues from here.
    pub(in crate::mock) fn leave_host(&self) {
        self.turn_into(VIRTUAL);
    }

    /// Moves the clock. From then on it is still but for this.
    pub(in crate::mock) fn advance(&self, by: Duration) {
        self.turn_into(HELD);
        let by = u64::try_from(by.as_nanos()).unwrap_or(NEVER);
        let moved = |value: u64| Some(value.saturating_add(by).min(NEVER.saturating_sub(1)));
        // It is moved whatever it was.
        let _ = self.value.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
    }

    fn turn_into(&self, kind: u8) {
        if self.is_hosts() {
            self.value.store(self.since_start(), Ordering::Release);
            self.kind.store(kind, Ordering::Release);
        } else if kind == HELD {
            self.kind.store(HELD, Ordering::Release);
        }
    }
}

fn host() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative; 2^64 nanoseconds are more than 500 years.
    let seconds = time.tv_sec.unsigned_abs().saturating_mul(1_000_000_000);
    seconds.saturating_add(time.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_moved_is_held() {
        for clock in [Clock::Host, Clock::Virtual] {
            let time = TimeSource::new(clock);
            let first = time.now();
            time.advance(Duration::ZERO);
            let held = time.now();
            assert!(held >= first);
            time.count(5);
            time.move_to(held + 5);
            assert_eq!(time.now(), held);
            time.advance(Duration::from_micros(3));
            assert_eq!(time.now(), held + 3000);
        }
    }

    #[test]
    fn a_virtual_clock_counts_and_jumps_forward_only() {
        let time = TimeSource::new(Clock::Virtual);
        time.count(5);
        assert_eq!(time.now(), 5);
        time.move_to(100);
        time.move_to(50);
        assert_eq!(time.now(), 100);
    }

    #[test]
    fn a_hosts_clock_goes_on_as_a_virtual_one() {
        let time = TimeSource::new(Clock::Host);
        let first = time.now();
        time.leave_host();
        let now = time.now();
        assert!(now >= first);
        time.count(1);
        assert_eq!(time.now(), now + 1);
    }
}
