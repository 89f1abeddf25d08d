//! `CROSVM_STATS`: how long calls take.
//!
//! When the variable is in the environment, the average and the largest latency of each function that was called go to
//! standard error, when a connection is destroyed and when the process ends.

#![allow(unsafe_code, reason = "atexit")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

const VARIABLE: &str = "CROSVM_STATS";

static FIGURES: LazyLock<Option<Mutex<Figures>>> = LazyLock::new(|| {
    std::env::var_os(VARIABLE)?;
    // SAFETY: `print_at_exit` is a function that may be called at any time. A failure to register it costs the last
    // report.
    unsafe { libc::atexit(print_at_exit) };
    Some(Mutex::default())
});

extern "C" fn print_at_exit() {
    print();
}

/// What has been measured.
#[derive(Default)]
struct Figures {
    functions: BTreeMap<&'static str, Latency>,
    /// There was a call since the last report.
    news: bool,
}

#[derive(Default)]
struct Latency {
    calls: u32,
    total: Duration,
    largest: Duration,
}

impl Figures {
    fn add(&mut self, function: &'static str, latency: Duration) {
        let figure = self.functions.entry(function).or_default();
        figure.calls = figure.calls.saturating_add(1);
        figure.total = figure.total.saturating_add(latency);
        figure.largest = figure.largest.max(latency);
        self.news = true;
    }

    /// The report, unless it is the last one again.
    fn report(&mut self) -> String {
        let mut text = String::new();
        if std::mem::take(&mut self.news) {
            for (function, latency) in &self.functions {
                let average = latency.total / latency.calls.max(1);
                // A string takes everything.
                let _ = writeln!(
                    text,
                    "{function}: {} calls, {average:.1?} on average, {:.1?} at most",
                    latency.calls, latency.largest
                );
            }
        }
        text
    }
}

/// A call under way.
pub(crate) struct Timer {
    figures: &'static Mutex<Figures>,
    begun: Instant,
}

/// Begins to measure, if anybody wants to know.
pub(crate) fn start() -> Option<Timer> {
    FIGURES.as_ref().map(|figures| Timer { figures, begun: Instant::now() })
}

impl Timer {
    /// The call was one of `function` and is over.
    pub(crate) fn stop(self, function: &'static str) {
        let latency = self.begun.elapsed();
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).add(function, latency);
    }
}

/// Reports what was measured, if anything was.
pub(crate) fn print() {
    if let Some(figures) = FIGURES.as_ref() {
        let report = figures.lock().unwrap_or_else(PoisonError::into_inner).report();
        // The plugin goes on without its statistics.
        let _ = std::io::stderr().write_all(report.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_average_and_largest_of_each_function_and_is_made_once() {
        let mut figures = Figures::default();
        figures.add("crosvm_start", Duration::from_micros(7));
        figures.add("crosvm_set_irq", Duration::from_micros(10));
        figures.add("crosvm_set_irq", Duration::from_micros(20));
        let expected = "crosvm_set_irq: 2 calls, 15.0µs on average, 20.0µs at most\n\
                        crosvm_start: 1 calls, 7.0µs on average, 7.0µs at most\n";
        assert_eq!(figures.report(), expected);
        assert_eq!(figures.report(), "");
    }
}
