//! How much of a processor the requests of a plugin may take in the kernel.
//!
//! What some requests ask of the kernel takes it a time that has nothing to do with what they take to send: a memory slot of many
//! pages, a dirty log, a routing table. Their serving is measured, and what it takes beyond an allowance is charged to a bucket
//! that fills slowly. While the bucket is empty such requests wait; all others are served.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::{Duration, Instant};

use plugin_proto::messages::main_request::Message;
use rustix::time::{ClockId, clock_gettime};

/// The part of one processor that the bucket fills with: a fifth.
const REFILL_DIVISOR: u32 = 5;
/// What a request may take for nothing: it is at most five times what a plugin needs to send one and take its reply.
const ALLOWANCE: Duration = Duration::from_micros(20);
/// The most that the bucket holds, for what comes in bursts.
const CAPACITY: Duration = Duration::from_millis(500);
/// What the bucket begins with above its capacity, for each GiB of memory that the plugin may map: the kernel may need as
/// much to map it once (measured: 3 to 7 ms where it shadows the guest's page tables).
const START_PER_GIB: Duration = Duration::from_millis(10);

/// A bucket of processor time.
pub(crate) struct RequestBudget {
    /// What is in it; it may be owed.
    balance: Balance,
    at: Instant,
}

/// A duration of either sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Balance {
    Left(Duration),
    Owed(Duration),
}

impl RequestBudget {
    /// A bucket of a plugin that may map so many bytes of memory.
    pub(crate) fn new(max_memory: u64, now: Instant) -> Self {
        let gib = u32::try_from(max_memory >> 30).unwrap_or(u32::MAX);
        let start = CAPACITY.saturating_add(START_PER_GIB.saturating_mul(gib));
        Self { balance: Balance::Left(start), at: now }
    }

    /// How long until there is something in it; `None` where there is.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        let more = passed.checked_div(REFILL_DIVISOR).unwrap_or_default();
        self.balance = match self.balance {
            // What it began with may be above its capacity, and is not filled up again.
            Balance::Left(left) if left >= CAPACITY => Balance::Left(left),
            Balance::Left(left) => Balance::Left(left.saturating_add(more).min(CAPACITY)),
            Balance::Owed(owed) if owed > more => Balance::Owed(owed.saturating_sub(more)),
            Balance::Owed(owed) => Balance::Left(more.saturating_sub(owed).min(CAPACITY)),
        };
        match self.balance {
            Balance::Left(_) => None,
            Balance::Owed(owed) => Some(owed.saturating_mul(REFILL_DIVISOR)),
        }
    }

    /// How long until there is something in it, for one who has requests waiting: no time where there is, since it may have become
    /// so a moment ago.
    pub(crate) fn time_left(&mut self, now: Instant) -> Duration {
        self.wait(now).unwrap_or_default()
    }

    /// Takes what a request took out of it.
    pub(crate) fn charge(&mut self, took: Duration) {
        let charged = took.saturating_sub(ALLOWANCE);
        self.balance = match self.balance {
            Balance::Left(left) if left >= charged => Balance::Left(left.saturating_sub(charged)),
            Balance::Left(left) => Balance::Owed(charged.saturating_sub(left)),
            Balance::Owed(owed) => Balance::Owed(owed.saturating_add(charged)),
        };
    }
}

/// Processor time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    // The clock is always there, and never negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Whether a request may take the kernel long, so that it waits for the bucket and is charged. Those of the others that a plugin
/// may have in great numbers when it starts, as reservations, or that must not wait, as pauses, take it some microseconds.
pub(crate) fn may_take_long(message: &Message) -> bool {
    match message {
        Message::Create(_)
        | Message::Destroy(_)
        | Message::DirtyLog(_)
        | Message::SetIrqRouting(_)
        | Message::GetState(_)
        | Message::SetState(_)
        | Message::SetIdentityMapAddr(_)
        | Message::GetVcpus(_)
        | Message::GetVcpuRings(_) => true,
        Message::ReserveRange(range) => range.coalesce || range.length == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_owed_is_waited_for_five_times_as_long() {
        let start = Instant::now();
        let mut budget = RequestBudget::new(0, start);
        budget.charge(CAPACITY + ALLOWANCE);
        assert_eq!(budget.wait(start), None);
        budget.charge(10 * MS + ALLOWANCE);
        assert_eq!(budget.wait(start), Some(50 * MS));
        assert_eq!(budget.wait(start + 20 * MS), Some(30 * MS));
        assert_eq!(budget.wait(start + 50 * MS), None);
    }

    #[test]
    fn requests_that_became_affordable_wait_no_longer() {
        let start = Instant::now();
        let mut budget = RequestBudget::new(0, start);
        budget.charge(CAPACITY + ALLOWANCE + MS);
        assert_eq!(budget.wait(start), Some(5 * MS));
        assert_eq!(budget.time_left(start + 3 * MS), 2 * MS);
        // The caller was held up between the two.
        assert_eq!(budget.time_left(start + 7 * MS), Duration::ZERO);
    }

    #[test]
    fn short_requests_are_free() {
        let start = Instant::now();
        let mut budget = RequestBudget::new(0, start);
        budget.charge(CAPACITY + ALLOWANCE);
        for _ in 0..1_000_000 {
            budget.charge(ALLOWANCE);
        }
        assert_eq!(budget.wait(start), None);
    }

    #[test]
    fn a_bucket_fills_up_to_its_capacity_and_begins_with_more_for_memory() {
        let start = Instant::now();
        let long_after = start + Duration::from_secs(3600);
        for (gib, begins_with) in [(0, CAPACITY), (100, CAPACITY + 100 * START_PER_GIB)] {
            let mut budget = RequestBudget::new(gib << 30, start);
            assert_eq!(budget.wait(start), None);
            budget.charge(begins_with + ALLOWANCE + MS);
            assert_eq!(budget.wait(start), Some(5 * MS));
            assert_eq!(budget.wait(long_after), None);
            budget.charge(CAPACITY + ALLOWANCE + MS);
            assert_eq!(budget.wait(long_after), Some(5 * MS));
        }
    }

    #[test]
    fn this_threads_time_grows_as_it_works() {
        let before = thread_time();
        while thread_time() == before {
            std::hint::spin_loop();
        }
    }
}
