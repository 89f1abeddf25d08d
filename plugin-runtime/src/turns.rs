//! How long a vCPU's thread goes on before another's turn, where there are more threads than processors.
#![allow(unsafe_code, reason = "rustix has no sched_setattr")]

use std::io;
use std::time::{Duration, Instant};

/// The slice that is asked for, in nanoseconds: twice what Linux gives where there are most processors (`base_slice`: 0.7 ms, times
/// four from eight processors on).
///
/// A thread with longer slices lets one with shorter ones go first that wakes up: the plugin's, which is what it waits for.
const SLICE: u64 = 6_000_000;
/// Between two answers so much more time than an exit takes says that others have run.
const GAP: Duration = Duration::from_micros(50);
/// Exits in a turn that are too few.
const FEW: u32 = 16;
/// Short turns after which one is given up.
const SHORT_TURNS: u32 = 4;
/// Between two turns that are given up. Who gives one up falls behind the others by a slice at most, so this is a sixteenth of
/// its time.
const REST: Duration = Duration::from_millis(100);

/// The turns of a vCPU's thread.
///
/// Linux lets a thread run as long as it is not ahead of the others' average. The plugin's thread comes in between at each
/// exit, so the question is asked at each; and where vCPUs do nothing but exit, all of them soon lie that near to the average
/// that each exit puts one ahead: then turns have one exit, and what is warm in the processor is of no use. Who gives a turn up
/// lies further from the average for a while, and so do the others from it, by up to a slice. Then turns are long again.
#[derive(Debug)]
pub(crate) struct Turns {
    /// When the last answer came.
    answered: Instant,
    /// Exits in this turn.
    exits: u32,
    /// Short turns since one was given up.
    short: u32,
    /// When that was.
    given_up: Instant,
}

impl Turns {
    /// Those of the calling thread, which are to be long.
    pub(crate) fn of_this_thread() -> Self {
        if let Err(error) = ask_for(SLICE) {
            let thread = std::thread::current();
            tracing::debug!(%error, thread = thread.name(), "a vCPU's thread keeps its time slices");
        }
        Self::from(Instant::now())
    }

    fn from(now: Instant) -> Self {
        Self { answered: now, exits: 0, short: 0, given_up: now }
    }

    /// Takes note of an answer, and now and then lets all others go first.
    pub(crate) fn answered(&mut self) {
        if self.is_to_be_given_up(Instant::now()) {
            rustix::thread::sched_yield();
        }
    }

    fn is_to_be_given_up(&mut self, now: Instant) -> bool {
        let others_ran = now.duration_since(self.answered) > GAP;
        self.answered = now;
        if !others_ran {
            self.exits = self.exits.saturating_add(1);
            return false;
        }
        self.short = if self.exits < FEW { self.short.saturating_add(1) } else { 0 };
        self.exits = 0;
        if self.short < SHORT_TURNS || now.duration_since(self.given_up) < REST {
            return false;
        }
        self.short = 0;
        self.given_up = now;
        true
    }
}

/// Asks for longer slices for the calling thread. It is a wish: kernels before 6.12 do not heed it.
///
/// Everything else stays: policy, niceness, and slices that are longer already.
fn ask_for(slice: u64) -> io::Result<()> {
    let mut attributes = current()?;
    let is_fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed());
    if !is_fair || attributes.sched_runtime >= slice {
        return Ok(());
    }
    attributes.sched_runtime = slice;
    // SAFETY: the kernel reads as many bytes as the structure says that it has.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How the calling thread is scheduled.
fn current() -> io::Result<libc::sched_attr> {
    // SAFETY: all of it are numbers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many turns of `exits` each, up to a thousand, one is given up.
    fn until_given_up(turns: &mut Turns, exits: u32, now: &mut Instant) -> Option<u32> {
        (1..=1000).find(|_| {
            for _ in 0..exits {
                *now += GAP;
                assert!(!turns.is_to_be_given_up(*now));
            }
            *now += 2 * GAP;
            turns.is_to_be_given_up(*now)
        })
    }

    #[test]
    fn a_turn_is_given_up_after_some_short_ones_and_after_a_rest() {
        let mut now = Instant::now();
        let mut turns = Turns::from(now);
        now += REST;
        turns.answered = now;
        assert_eq!(until_given_up(&mut turns, 1, &mut now), Some(SHORT_TURNS));
        let given_up = now;
        assert!(until_given_up(&mut turns, 1, &mut now) > Some(SHORT_TURNS));
        assert!(now - given_up >= REST && now - given_up < REST + 4 * GAP);
    }

    #[test]
    fn long_turns_are_not_given_up() {
        let mut now = Instant::now();
        let mut turns = Turns::from(now);
        assert_eq!(until_given_up(&mut turns, FEW, &mut now), None);
    }

    #[test]
    fn slices_become_longer_and_never_shorter_and_nothing_else_changes() {
        let before = current().unwrap();
        for (wish, expected) in [(2 * SLICE, 2 * SLICE), (SLICE, 2 * SLICE)] {
            ask_for(wish).unwrap();
            let now = current().unwrap();
            // Kernels that do not heed the wish say 0.
            assert!([0, expected].contains(&now.sched_runtime), "{}", now.sched_runtime);
            assert_eq!((now.sched_policy, now.sched_nice), (before.sched_policy, before.sched_nice));
            assert_eq!((now.sched_flags, now.sched_priority), (before.sched_flags, before.sched_priority));
        }
    }
}
