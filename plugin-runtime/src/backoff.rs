//! When to try again what may not last.

/// Answers between two trials, at least.
const FEWEST: u32 = 128;
/// As many where nothing lasts.
const MOST: u32 = 1 << 16;
/// What was tried lasts if so many times the least number of answers passes until the next trial.
const LASTS: u32 = 8;

/// Counts answers from one trial to the next. Where what is tried does not last, trials become rare.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// Answers since the last trial.
    since: u32,
    /// How many of those there must be before the next.
    least: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { since: 0, least: FEWEST }
    }
}

impl Backoff {
    /// An answer came.
    #[inline]
    pub(crate) fn answered(&mut self) {
        self.since = self.since.saturating_add(1);
    }

    /// Whether it may be tried again.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.since >= self.least
    }

    /// It is tried now.
    pub(crate) fn tried(&mut self) {
        let lasted = self.since >= self.least.saturating_mul(LASTS);
        self.least = if lasted { FEWEST } else { self.least.saturating_mul(2).min(MOST) };
        self.since = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many answers the next trial is made, which is as soon as it may be.
    fn until_tried(backoff: &mut Backoff) -> u32 {
        let answers = (1..).find(|_| {
            backoff.answered();
            backoff.is_over()
        });
        backoff.tried();
        answers.unwrap()
    }

    #[test]
    fn trials_become_rare_where_nothing_lasts_and_frequent_again_where_something_does() {
        let mut backoff = Backoff::default();
        let mut expected = FEWEST;
        while expected < MOST {
            assert_eq!(until_tried(&mut backoff), expected);
            expected *= 2;
        }
        assert_eq!([until_tried(&mut backoff), until_tried(&mut backoff)], [MOST; 2]);
        (0..LASTS * MOST).for_each(|_| backoff.answered());
        backoff.tried();
        assert_eq!(until_tried(&mut backoff), FEWEST);
    }
}
