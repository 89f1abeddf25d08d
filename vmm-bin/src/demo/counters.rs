//! How often the guest exited, for what, and how long each time took.

use std::fmt;
use std::time::Instant;

use plugin_sdk::Event;

use crate::statistics;

/// A count of events, with the time of each access.
#[derive(Debug, Default)]
pub(super) struct Counters {
    inits: usize,
    reads: usize,
    writes: usize,
    accesses: Vec<Instant>,
}

impl Counters {
    /// Takes note of an event that has just come.
    pub(super) fn count(&mut self, event: &Event<'_>) {
        match event {
            Event::Init(_) => self.inits += 1,
            Event::Read(_) => self.reads += 1,
            Event::Write(_) => self.writes += 1,
            _ => {}
        }
        if let Event::Read(_) | Event::Write(_) = event {
            self.accesses.push(Instant::now());
        }
    }

    /// The median time from one access to the next, in nanoseconds.
    fn time_per_exit(&self) -> u64 {
        let gaps = self.accesses.iter().zip(self.accesses.iter().skip(1));
        statistics::median(gaps.map(|(before, after)| after.duration_since(*before).as_nanos() as u64).collect())
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "init           {}", self.inits)?;
        writeln!(f, "port write     {}", self.writes)?;
        writeln!(f, "port read      {}", self.reads)?;
        writeln!(f, "time per exit  {} (median, access to access)", statistics::time(self.time_per_exit()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_per_exit_is_the_median_gap_between_accesses() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let counters = Counters { inits: 1, reads: 1, writes: 3, accesses: vec![at(0), at(10), at(15), at(500)] };
        let expected =
            "init           1\nport write     3\nport read      1\ntime per exit  10.0 µs (median, access to access)\n";
        assert_eq!(counters.to_string(), expected);
    }
}
