//! Time that a busy machine takes from everybody, which no limit on a run is meant to count.

use std::io::Write;
use std::time::{Duration, Instant};

use super::is_traced;

/// A time that passes, and how much of it the machine was short of processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    begun: Instant,
    short: Duration,
}

impl Span {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), short: short_of_processors() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long of it some thread that could have run, a test's or a stranger's, had no processor.
    pub(crate) fn busy(&self) -> Duration {
        short_of_processors().saturating_sub(self.short)
    }

    /// [`is_in_time`] up to now.
    pub(crate) fn is_within(&self, limit: Duration) -> bool {
        is_in_time(self.elapsed(), self.busy(), limit)
    }
}

/// Whether what `took` so long, `busy` of it on a busy machine, was within `limit` but for that, or is traced; if it was not by
/// the clock alone, it is told past the harness's capture.
pub(crate) fn is_in_time(took: Duration, busy: Duration, limit: Duration) -> bool {
    let late = took >= limit;
    let forgiven = took < limit + busy || is_traced();
    if late && forgiven {
        // A closed standard error must not fail the test.
        let _ = writeln!(std::io::stderr(), "LATE: {took:.1?}, not {limit:.1?}; {busy:.1?} of it the machine was busy");
    }
    !late || forgiven
}

/// Since the machine began; 0 where the kernel does not say (Linux 4.20, `CONFIG_PSI`), so that every limit is strict there.
fn short_of_processors() -> Duration {
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = pressure.lines().find(|line| line.starts_with("some "));
    let total = some.and_then(|line| line.rsplit_once(" total=")?.1.parse().ok());
    Duration::from_micros(total.unwrap_or_default())
}
