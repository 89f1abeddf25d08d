//! The middle of a few measured values, and how sure it is.

use serde::Serialize;

/// A median, and the interval in which the true one lies in 95 of 100 such measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Estimate {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Estimate {
    /// Of values that were measured independently, however they are distributed; zeros if there are none.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let outside = values_outside(values.len());
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), low: at(outside), high: at(last - outside) }
    }
}

/// How many of `count` sorted values are left out at each end. Each value is as likely below the true median as above it, so
/// the number of those below follows the binomial distribution.
fn values_outside(count: usize) -> usize {
    // How likely it is that exactly so many lie below.
    let mut exactly = 0.5_f64.powi(count as i32);
    let mut at_most = 0.0;
    let mut below = 0;
    loop {
        at_most += exactly;
        if at_most > 0.025 || below >= count {
            return below.saturating_sub(1);
        }
        exactly *= (count - below) as f64 / (below + 1) as f64;
        below += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_binomial_distributions_tables() {
        // The first value in it, counted from 0, for 95 %.
        for (count, outside) in [(0, 0), (1, 0), (5, 0), (6, 0), (9, 1), (20, 5), (50, 17), (100, 39)] {
            assert_eq!(values_outside(count), outside, "{count}");
        }
    }

    #[test]
    fn an_estimate_is_the_middle_and_what_lies_around_it() {
        let of = |count: i32| Estimate::of((0..count).rev().map(f64::from).collect());
        assert_eq!(of(20), Estimate { median: 9.5, low: 5.0, high: 14.0 });
        assert_eq!(of(3), Estimate { median: 1.0, low: 0.0, high: 2.0 });
        assert_eq!(of(1), Estimate { median: 0.0, low: 0.0, high: 0.0 });
        assert_eq!(of(0), Estimate { median: 0.0, low: 0.0, high: 0.0 });
    }
}
