//! How many cases of a kind ran, told past the test harness's capture.

use std::io::Write;
use std::time::Instant;

/// A count of cases of one kind.
pub(crate) struct Counters {
    kind: String,
    cases: usize,
    begun: Instant,
}

impl Counters {
    pub(crate) fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), cases: 0, begun: Instant::now() }
    }

    /// So many that have run.
    pub(crate) fn of(kind: impl Into<String>, cases: usize) -> Self {
        Self { kind: kind.into(), cases, begun: Instant::now() }
    }

    pub(crate) fn count(&mut self) {
        self.cases += 1;
    }

    pub(crate) fn cases(&self) -> usize {
        self.cases
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        // A closed standard error must not fail the test.
        let _ = writeln!(std::io::stderr(), "CASES {:6} {} ({took:.1?})", self.cases, self.kind);
    }
}
