//! Waiting that fails instead of hanging.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a loaded machine with two cores.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Calls `condition` until it holds, yielding between calls.
///
/// # Panics
///
/// After [`LIMIT`], naming `what`.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds(condition), "waited {LIMIT:?} without success until {what}");
}

/// Calls `condition` until it holds, yielding between calls; false after [`LIMIT`].
#[must_use]
pub fn holds(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > LIMIT {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Joins a thread that is about to end.
///
/// # Panics
///
/// If the thread panicked, or does not end within [`LIMIT`].
pub fn join<T>(what: &str, thread: JoinHandle<T>) -> T {
    until(&format!("{what} ends"), || thread.is_finished());
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
