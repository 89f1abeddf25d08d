//! How long to wait before the first look for an answer.

/// The part of a microsecond that is let pass at first.
const FIRST: u32 = 24;
/// The part of a microsecond that is let pass at most: a line goes to the farthest processor and back in that time.
const LONGEST: u32 = 2;
/// Steps in a look, by which the time becomes shorter: so many first looks find the answer for one that comes too early.
const STEPS: u32 = 8;

/// The time, in looks, in which no answer comes. Who looks before takes the cache line from the one who is about to write it, who
/// then has to fetch it back; who looks later is late. How long it is depends on the two processors and on the plugin, so it is
/// learned, for each vCPU anew. A plugin can make it long by its answers, and then waits for the longer.
#[derive(Debug)]
pub(crate) struct Hold {
    /// In steps.
    length: u32,
    looks_a_microsecond: u32,
}

impl Hold {
    pub(crate) fn new(looks_a_microsecond: u32) -> Self {
        Self { length: (looks_a_microsecond / FIRST).saturating_mul(STEPS), looks_a_microsecond }
    }

    /// How many looks it takes.
    #[inline]
    pub(crate) fn looks(&self) -> u32 {
        self.length / STEPS
    }

    /// Learns from an answer that came `later` looks after the first. It becomes a step shorter where the first one found it, and a
    /// look longer where it came a little later. An answer that took long says nothing: a line comes and goes often in that time.
    #[inline]
    pub(crate) fn learn(&mut self, later: u32) {
        if later == 0 {
            self.length = self.length.saturating_sub(1);
        } else if later <= self.looks_a_microsecond {
            let longest = (self.looks_a_microsecond / LONGEST).saturating_mul(STEPS);
            self.length = self.length.saturating_add(STEPS).min(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a hold comes to for answers that are there after so many looks, and how many of them in a thousand come to a first look.
    fn learned(answer: u32) -> (u32, usize) {
        let mut hold = Hold::new(300);
        let is_at_first = |hold: &mut Hold| {
            let later = answer.saturating_sub(hold.looks());
            hold.learn(later);
            later == 0
        };
        for _ in 0..10_000 {
            is_at_first(&mut hold);
        }
        let found = (0..1000).filter(|_| is_at_first(&mut hold)).count();
        (hold.looks(), found)
    }

    #[test]
    fn most_first_looks_come_just_behind_the_answer() {
        for answer in [1, 5, 40, 140] {
            let (looks, found) = learned(answer);
            assert!(looks.abs_diff(answer) <= 1, "{answer}: {looks}");
            assert!(found > 850, "{answer}: {found}");
        }
    }

    #[test]
    fn answers_that_take_long_are_looked_for_as_before() {
        assert_eq!(learned(10_000).0, Hold::new(300).looks());
    }

    #[test]
    fn it_is_never_longer_than_half_a_microsecond() {
        assert_eq!(learned(299).0, 150);
    }

    proptest! {
        #[test]
        fn no_answers_make_it_longer_than_that(
            looks_a_microsecond in any::<u32>(),
            answers in prop::collection::vec(any::<u32>(), 0..200),
        ) {
            let mut hold = Hold::new(looks_a_microsecond);
            for later in answers {
                hold.learn(later);
                prop_assert!(hold.looks() <= looks_a_microsecond / LONGEST);
            }
        }
    }
}
