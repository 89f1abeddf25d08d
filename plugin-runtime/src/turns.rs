//! How long a vCPU's thread goes on before another's turn, where there are more threads than processors.
#![allow(unsafe_code, reason = "rustix has no sched_setattr")]

use std::io;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The slice that is asked for, in nanoseconds: twice what Linux gives where there are most processors (`base_slice`: 0.7 ms, times
/// four from eight processors on).
const SLICE: u64 = 6_000_000;
/// While slices are long: answers that come at once for each that does not, at least.
const FOR_ONE: u32 = 4;
/// The credit with which they begin, in such answers.
const TRIAL: u32 = 16;
/// The most credit.
const MOST: u32 = 64;
/// Between two answers so much more time than an exit takes says that others have run.
const GAP: Duration = Duration::from_micros(50);
/// Exits in a turn that are too few.
const FEW: u32 = 16;
/// Short turns in a row after which something is done.
const SHORT_TURNS: u32 = 4;
/// Between two turns that are given up. Who gives one up falls behind the others by a slice at most, so this is a sixteenth of
/// its time.
const REST: Duration = Duration::from_millis(100);

/// The turns of a vCPU's thread.
///
/// Linux lets a thread run as long as it is not ahead of the others' average. The plugin's thread comes in between at each
/// exit, so the question is asked at each; and where vCPUs do nothing but exit, all of them soon lie that near to the average
/// that each exit puts one ahead: then turns have one exit, and what is warm in the processor is of no use. So a vCPU whose turns
/// are short asks for longer slices. A thread that has them lets one with shorter ones go first that wakes up: the plugin's,
/// which then has answered when the vCPU's goes on. If turns become short again, one is given up. Who does that lies further
/// from the average for a while, and so do the others from it, by up to a slice.
///
/// Turns are short, too, of one that waits for a device which takes its time. With long slices it would stand behind all others
/// when the answer has come. So slices are as they were where answers do not come at once, and longer ones are tried ever more
/// rarely. Among others that compute turns are long by themselves.
#[derive(Debug)]
pub(crate) struct Turns {
    slices: Slices,
    /// While they are long: the answers that came at once, less what makes up for the others.
    credit: u32,
    /// Until they may be long again.
    backoff: Backoff,
    /// When the last answer came.
    answered: Instant,
    /// Exits in this turn.
    exits: u32,
    /// Short turns in a row.
    short: u32,
    /// When one was given up.
    given_up: Instant,
}

/// The slices of a vCPU's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slices {
    /// As it found them.
    Ordinary,
    /// As it asked for. They were so many nanoseconds before.
    Long { before: u64 },
    /// As it found them, for they cannot be changed.
    Fixed,
}

impl Turns {
    /// Those of the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        Self::from(Instant::now())
    }

    fn from(now: Instant) -> Self {
        Self {
            slices: Slices::Ordinary,
            credit: 0,
            backoff: Backoff::default(),
            answered: now,
            exits: 0,
            short: 0,
            given_up: now,
        }
    }

    /// Whether they were asked to be long.
    pub(crate) fn are_long(&self) -> bool {
        matches!(self.slices, Slices::Long { .. })
    }

    /// Takes note of an answer, and whether it came at once. Now and then changes the slices, or lets all others go first.
    pub(crate) fn answered(&mut self, at_once: bool) {
        let now = Instant::now();
        let are_short = self.are_short(now);
        self.backoff.answered();
        match self.slices {
            Slices::Ordinary if are_short && self.backoff.is_over() => self.lengthen(),
            Slices::Long { before } => {
                self.credit = match at_once {
                    true => self.credit.saturating_add(1).min(MOST),
                    false => self.credit.saturating_sub(FOR_ONE),
                };
                if self.credit == 0 {
                    self.shorten(before);
                } else if are_short && self.may_give_up(now) {
                    rustix::thread::sched_yield();
                }
            }
            Slices::Ordinary | Slices::Fixed => {}
        }
    }

    #[cold]
    fn lengthen(&mut self) {
        self.backoff.tried();
        (self.short, self.credit) = (0, TRIAL);
        self.slices = match slice().and_then(|before| ask_for(before.max(SLICE)).map(|()| before)) {
            Ok(before) => Slices::Long { before },
            Err(error) => fixed(&error),
        };
    }

    #[cold]
    fn shorten(&mut self, before: u64) {
        self.slices = match ask_for(before) {
            Ok(()) => Slices::Ordinary,
            Err(error) => fixed(&error),
        };
    }

    /// Whether some turns in a row were short.
    fn are_short(&mut self, now: Instant) -> bool {
        let others_ran = now.duration_since(self.answered) > GAP;
        self.answered = now;
        if !others_ran {
            self.exits = self.exits.saturating_add(1);
            return false;
        }
        self.short = if self.exits < FEW { self.short.saturating_add(1) } else { 0 };
        self.exits = 0;
        self.short >= SHORT_TURNS
    }

    /// Whether the last turn that was given up is long enough ago. If so, this one is.
    fn may_give_up(&mut self, now: Instant) -> bool {
        let may = now.duration_since(self.given_up) >= REST;
        if may {
            (self.given_up, self.short) = (now, 0);
        }
        may
    }
}

fn fixed(error: &io::Error) -> Slices {
    let thread = std::thread::current();
    tracing::debug!(%error, thread = thread.name(), "the time slices of a vCPU's thread stay as they are");
    Slices::Fixed
}

/// The calling thread's slice in nanoseconds; 0 where the kernel does not say.
fn slice() -> io::Result<u64> {
    Ok(current()?.sched_runtime)
}

/// Asks for slices of so many nanoseconds for the calling thread. It is a wish: kernels before 6.12 do not honour it. Policy and niceness
/// stay.
///
/// # Errors
/// Also where the thread's policy is one without such slices.
fn ask_for(slice: u64) -> io::Result<()> {
    let mut attributes = current()?;
    let is_fair = [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed());
    if !is_fair {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "its scheduling policy has no such slices"));
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

    /// After how many turns of `exits` each, up to a thousand, `what` is due.
    fn turns_until(
        turns: &mut Turns,
        exits: u32,
        now: &mut Instant,
        what: impl Fn(&mut Turns, Instant) -> bool,
    ) -> Option<u32> {
        (1..=1000).find(|_| {
            for _ in 0..exits {
                *now += GAP;
                assert!(!what(turns, *now));
            }
            *now += 2 * GAP;
            what(turns, *now)
        })
    }

    #[test]
    fn turns_are_short_when_some_in_a_row_had_few_exits() {
        let mut now = Instant::now();
        let mut turns = Turns::from(now);
        assert_eq!(turns_until(&mut turns, 1, &mut now, Turns::are_short), Some(SHORT_TURNS));
        assert_eq!(turns_until(&mut turns, FEW, &mut now, Turns::are_short), None);
        assert_eq!(turns_until(&mut turns, FEW - 1, &mut now, Turns::are_short), Some(SHORT_TURNS));
    }

    #[test]
    fn a_turn_is_given_up_after_some_short_ones_and_after_a_rest() {
        let mut now = Instant::now();
        let mut turns = Turns::from(now);
        let gives_up = |turns: &mut Turns, now| turns.are_short(now) && turns.may_give_up(now);
        assert!(turns_until(&mut turns, 1, &mut now, gives_up) > Some(SHORT_TURNS));
        let given_up = now;
        assert!(turns_until(&mut turns, 1, &mut now, gives_up) > Some(SHORT_TURNS));
        assert!(now - given_up >= REST && now - given_up < REST + 4 * GAP);
        now += REST;
        turns.answered = now;
        assert_eq!(turns_until(&mut turns, 1, &mut now, gives_up), Some(SHORT_TURNS));
    }

    /// A turn that ends after one exit.
    fn short_turn(turns: &mut Turns, at_once: bool) {
        (turns.exits, turns.answered) = (0, Instant::now() - 2 * GAP);
        turns.answered(at_once);
    }

    #[test]
    fn slices_are_long_while_turns_would_be_short_and_answers_come_at_once_and_nothing_else_changes() {
        let before = current().unwrap();
        let ordinary = before.sched_runtime;
        // Kernels that do not honour the wish say 0 always.
        let long = if ordinary == 0 { 0 } else { SLICE };
        let mut turns = Turns::of_this_thread();
        for _ in 0..2 {
            while !turns.are_long() {
                assert_eq!(slice().unwrap(), ordinary);
                short_turn(&mut turns, false);
            }
            let now = current().unwrap();
            assert_eq!(now.sched_runtime, long);
            assert_eq!((now.sched_policy, now.sched_nice), (before.sched_policy, before.sched_nice));
            assert_eq!((now.sched_flags, now.sched_priority), (before.sched_flags, before.sched_priority));
            for answer in 0..100 * MOST {
                turns.answered(answer % (2 * FOR_ONE) != 0);
            }
            assert_eq!((turns.are_long(), slice().unwrap()), (true, long));
            (0..MOST / FOR_ONE).for_each(|_| turns.answered(false));
            assert_eq!((turns.are_long(), slice().unwrap()), (false, ordinary));
        }
    }

    #[test]
    fn who_waits_for_a_slow_device_tries_long_slices_ever_more_rarely() {
        let mut turns = Turns::of_this_thread();
        let long = (0..100_000).filter(|_| {
            short_turn(&mut turns, false);
            turns.are_long()
        });
        assert_eq!(long.count() as u32, 9 * TRIAL / FOR_ONE, "128, 256 and so on up to 32,768 answers between them");
    }

    #[test]
    fn a_thread_of_another_policy_keeps_it_and_has_no_long_slices() {
        // On a thread of its own: who is not privileged may not leave this policy.
        let thread = std::thread::spawn(|| {
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: the kernel reads the parameters.
            assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) }, 0);
            let before = current().unwrap();
            let mut turns = Turns::of_this_thread();
            turns.lengthen();
            let now = current().unwrap();
            assert_eq!((now.sched_policy, now.sched_runtime), (before.sched_policy, before.sched_runtime));
            assert!(!turns.are_long());
        });
        thread.join().unwrap();
    }

    #[test]
    fn slices_that_are_longer_already_stay() {
        ask_for(2 * SLICE).unwrap();
        let longer = slice().unwrap();
        let mut turns = Turns::of_this_thread();
        turns.lengthen();
        assert_eq!(slice().unwrap(), longer);
        (0..TRIAL).for_each(|_| turns.answered(false));
        assert!(!turns.are_long());
        assert_eq!(slice().unwrap(), longer);
    }
}
