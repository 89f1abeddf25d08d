//! The time that the PIT counts: the host's, until a test takes it over and moves it.
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

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock's value while it is the host's.
const HOST: u64 = u64::MAX;

/// Nanoseconds of the host's monotonic clock, by which KVM's PIT counts too; or where it was moved to.
pub(in crate::mock) struct TimeSource(AtomicU64);

impl Default for TimeSource {
    fn default() -> Self {
        Self(AtomicU64::new(HOST))
    }
}

impl TimeSource {
    pub(in crate::mock) fn now(&self) -> u64 {
        match self.0.load(Ordering::Acquire) {
            HOST => host(),
            held => held,
        }
    }

    /// Moves it. From then on it stands still but for this.
    pub(in crate::mock) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(HOST);
        let moved =
            |held| Some(if held == HOST { host() } else { held }.saturating_add(by).min(HOST.saturating_sub(1)));
        // It is moved whatever it was.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
    }

    /// How long it takes until `then`; `None` where that does not come by itself.
    pub(in crate::mock) fn until(&self, then: u64) -> Option<Duration> {
        let is_hosts = self.0.load(Ordering::Acquire) == HOST;
        (is_hosts && then != u64::MAX).then(|| Duration::from_nanos(then.saturating_sub(host())))
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
    fn it_stands_still_once_it_was_moved() {
        let clock = TimeSource::default();
        let first = clock.now();
        assert!(clock.until(first).is_some());
        clock.advance(Duration::ZERO);
        let held = clock.now();
        assert!(held >= first);
        assert_eq!(clock.until(held + 1), None);
        clock.advance(Duration::from_micros(3));
        assert_eq!(clock.now(), held + 3000);
    }
}
