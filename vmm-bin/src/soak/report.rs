//! What the soak tells.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use plugin_runtime::Transport;

use super::counters::{Count, Numbers};
use super::plan::{Ending, Plan};
use super::resources::Resources;
use crate::error::Error;

/// What has run so far.
pub(super) struct Report {
    begun: Instant,
    /// How many rounds had each of these.
    rounds: Vec<(&'static str, u64)>,
    numbers: Numbers,
    held: Option<(Resources, Resources)>,
}

impl Report {
    pub(super) fn new() -> Self {
        let rounds =
            ["rounds", "on kvm", "on mock", "over pipes", "over rings", "in a jail", "kills", "quits", "guest faults"];
        Self {
            begun: Instant::now(),
            rounds: rounds.map(|name| (name, 0)).to_vec(),
            numbers: Numbers::default(),
            held: None,
        }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, backend: &str, plan: &Plan, numbers: &Numbers) {
        let ring = plan.transport == Transport::Ring;
        let had = [
            true,
            backend == "kvm",
            backend == "mock",
            !ring,
            ring,
            plan.jailed,
            matches!(plan.ending, Ending::Killed { .. }),
            matches!(plan.ending, Ending::Quits { .. }),
            matches!(plan.ending, Ending::Fault { .. }),
        ];
        for ((_, count), had) in self.rounds.iter_mut().zip(had) {
            *count += u64::from(had);
        }
        for (sum, number) in self.numbers.iter_mut().zip(numbers) {
            *sum += number;
        }
    }

    /// What the process holds after a round.
    pub(super) fn hold(&mut self, now: Resources) {
        let first = self.held.map_or(now, |(first, _)| first);
        self.held = Some((first, now));
    }

    /// One line, on the way.
    pub(super) fn progress(&self, elapsed: Duration, time: Duration) -> String {
        let [exits, rounds] = [self.numbers[Count::Exits as usize], self.rounds[0].1];
        format!("{:.0} of {:.0} s: {rounds} rounds, {exits} exits", elapsed.as_secs_f64(), time.as_secs_f64())
    }

    /// All of it.
    pub(super) fn closing(&self, seed: u64) -> String {
        let mut text = format!("seed {seed}, {:.0} s:\n", self.begun.elapsed().as_secs_f64());
        let counts = Count::ALL.iter().zip(self.numbers).map(|(count, number)| (count.name(), number));
        for (name, number) in self.rounds.iter().copied().chain(counts) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{number:>12} {name}");
        }
        if let Some((first, last)) = self.held {
            let _ = write!(text, "held after the first round: {first}\nheld after the last round:  {last}");
        }
        text
    }
}

/// Prints lines.
pub(super) fn say(text: &str) -> Result<(), Error> {
    writeln!(io::stdout(), "{text}").map_err(Error::system("writing to standard output"))
}
