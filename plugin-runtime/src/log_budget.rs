//! How much of the log one plugin may fill.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Lines a plugin may cause in one second; what is more is counted.
pub(crate) const LINES_A_SECOND: u32 = 100;

/// A budget of log lines, renewed every second.
#[derive(Debug)]
pub(crate) struct LogBudget {
    second: Option<Instant>,
    used: u32,
    dropped: u64,
}

/// Whether a line may be logged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, and this many lines before it were not.
    Log {
        /// Lines dropped since the last one that was logged; `None`, which adds no field to the line, for none.
        dropped: Option<NonZeroU64>,
    },
    /// It may not.
    Drop,
}

impl LogBudget {
    pub(crate) fn new() -> Self {
        Self { second: None, used: 0, dropped: 0 }
    }

    /// Whether a line at `now` would be dropped, so that nothing needs to be made of it.
    pub(crate) fn is_used_up(&mut self, now: Instant) -> bool {
        let is_over = |begun: Instant| now.saturating_duration_since(begun) >= Duration::from_secs(1);
        if self.second.is_none_or(is_over) {
            self.second = Some(now);
            self.used = 0;
        }
        self.used >= LINES_A_SECOND
    }

    /// Counts lines that were dropped without asking.
    pub(crate) fn count_dropped(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
    }

    /// Asks to log one line at `now`.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        if self.is_used_up(now) {
            self.count_dropped(1);
            return Admission::Drop;
        }
        self.used = self.used.saturating_add(1);
        Admission::Log { dropped: NonZeroU64::new(std::mem::take(&mut self.dropped)) }
    }

    /// Lines that were dropped and never told of.
    pub(crate) fn untold(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_hundred_lines_and_the_next_tells_of_what_was_dropped() {
        let start = Instant::now();
        let mut budget = LogBudget::new();
        let logged = (0..250).filter(|_| budget.admit(start) != Admission::Drop).count();
        assert_eq!(logged, 100);
        let later = start + Duration::from_secs(1);
        assert_eq!(budget.admit(later), Admission::Log { dropped: NonZeroU64::new(150) });
        assert_eq!(budget.admit(later), Admission::Log { dropped: None });
        assert_eq!(budget.untold(), 0);
    }
}
