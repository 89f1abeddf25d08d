//! How long something may take, in time that counts only while this process runs: one that was stopped for a while, or a machine
//! that was, is not late.

use std::time::{Duration, Instant};

/// How often, at least, it must be asked.
pub(super) const SLICE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Timeout {
    left: Duration,
    asked: Instant,
}

impl Timeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self { left: limit, asked: Instant::now() }
    }

    /// Whether it took too long.
    pub(super) fn is_over(&mut self) -> bool {
        // More than two slices have not been this process's own.
        self.left = self.left.saturating_sub(self.asked.elapsed().min(2 * SLICE));
        self.asked = Instant::now();
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_asked_counts_little() {
        let mut timeout = Timeout::new(3 * SLICE);
        timeout.asked -= 100 * SLICE;
        assert!(!timeout.is_over());
        timeout.asked -= 100 * SLICE;
        assert!(timeout.is_over());
    }
}
