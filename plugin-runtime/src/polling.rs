//! How long to look at a ring before sleeping.

use std::time::{Duration, Instant};

use plugin_proto::ring::{Mapping, between_looks, turn};

use crate::hold::Hold;

/// Microseconds that are looked for at most where nothing else was asked for: some times what waking a sleeper takes.
const DEFAULT_US: u32 = 50;
/// Microseconds after which, again and again, a look is followed by letting others run: an answer that comes from another
/// processor has come by then.
const YIELD_US: u32 = 4;
/// Vain waits in a row after which there is a rest.
const STRIKES: u32 = 4;
/// Waits without looking, after that.
const REST: u32 = 64;
/// As many at most where others need the processor.
const LONGEST_REST: u32 = REST << 6;
/// Who is let run and comes back later has given a turn to somebody else than the one who answers.
const TURN: Duration = Duration::from_micros(50);

/// The budget of a VM's links, in looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polling {
    spins: u32,
    spins_a_microsecond: u32,
    adapts: bool,
    /// Whether there are more threads than processors, and nothing else was asked for. Then nobody looks twice.
    shares: bool,
}

impl Polling {
    /// As many microseconds as asked for; else some where each vCPU and each thread of the plugin that serves one can have a
    /// processor, and none where they would look in each other's time.
    pub(crate) fn new(vcpus: u32, poll_us: Option<u32>) -> Self {
        let spins_a_microsecond = measure();
        // It honours the affinity mask and the control group's quota.
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let fits = vcpus.saturating_mul(2) <= processors;
        let us = poll_us.unwrap_or(if fits { DEFAULT_US } else { 0 });
        let adapts = poll_us.is_none();
        Self { spins: us.saturating_mul(spins_a_microsecond), spins_a_microsecond, adapts, shares: adapts && !fits }
    }

    /// Whether the vCPUs' threads and the plugin's run in turn on few processors.
    pub(crate) fn shares_processors(&self) -> bool {
        self.shares
    }

    /// Whether both sides look before they sleep, each on a processor of its own.
    pub(crate) fn looks(&self) -> bool {
        self.spins > 0
    }

    /// Lets the plugin's side know.
    pub(crate) fn tell(&self, mapping: &Mapping) {
        mapping.set_spins(self.spins);
        mapping.set_spins_a_microsecond(self.spins_a_microsecond);
    }
}

/// One link's budget, which rests when looking was without success.
#[derive(Debug)]
pub(crate) struct Budget {
    polling: Polling,
    /// At which looks others are let run.
    turn: u32,
    strikes: u32,
    /// Waits that do not look from now on.
    rest: u32,
    /// Whether this is one.
    rests: bool,
    /// How long the next rest is where others need the processor.
    next_rest: u32,
    /// Whether a turn was given away in this wait.
    gave_turn: bool,
    hold: Hold,
    /// Whether others are let run once before a sleep, where threads share processors, and a look follows.
    yields: bool,
}

impl Budget {
    pub(crate) fn new(polling: Polling) -> Self {
        Self {
            turn: turn(polling.spins_a_microsecond.saturating_mul(YIELD_US)),
            strikes: 0,
            rest: 0,
            rests: false,
            next_rest: REST,
            gave_turn: false,
            hold: Hold::new(polling.spins_a_microsecond),
            yields: false,
            polling,
        }
    }

    /// Lets the time pass in which no answer comes.
    #[inline]
    pub(crate) fn pre_poll_delay(&self) {
        if self.polling.looks() && self.rest == 0 {
            for _ in 0..self.hold.looks() {
                between_looks();
            }
        }
    }

    /// How many times to look now.
    pub(crate) fn spins(&mut self) -> u32 {
        if self.polling.shares {
            return u32::from(self.yields);
        }
        if self.rest > 0 {
            self.rest = self.rest.saturating_sub(1);
            self.rests = true;
            return 0;
        }
        self.polling.spins
    }

    /// Spends the time between two looks: whether others were let run, so that any time may have passed.
    pub(crate) fn relax(&mut self, looks: u32) -> bool {
        let yields = self.polling.shares || looks & self.turn == self.turn;
        if yields {
            let begun = Instant::now();
            rustix::thread::sched_yield();
            self.others_ran(begun.elapsed());
        } else {
            between_looks();
        }
        yields
    }

    /// Others were let run for so long.
    fn others_ran(&mut self, time: Duration) {
        self.gave_turn |= time > TURN;
    }

    /// Whether to yield once before a sleep, where threads share processors.
    ///
    /// Where all of them exit again and again that is less than to sleep and to be woken, and the answer is often there then. Others that
    /// compute would take a whole time slice.
    pub(crate) fn set_yields(&mut self, yields: bool) {
        self.yields = yields;
    }

    /// Whether the wait that ended came to sleep, and how many looks followed the first.
    ///
    /// Where others need the processor, looking gives them a whole time slice as soon as an answer takes long enough to let anybody run. A
    /// sleep does not: who is woken goes first.
    #[inline]
    pub(crate) fn waited(&mut self, slept: bool, looks: u32) {
        let rests = std::mem::take(&mut self.rests) || self.rest > 0;
        if rests || !self.polling.looks() {
            return;
        }
        let gave_turn = std::mem::take(&mut self.gave_turn);
        if gave_turn && self.polling.adapts {
            self.rest = self.next_rest;
            self.next_rest = self.next_rest.saturating_mul(2).min(LONGEST_REST);
        } else if slept {
            self.strikes = self.strikes.saturating_add(1);
            if self.polling.adapts && self.strikes >= STRIKES {
                (self.strikes, self.rest) = (0, REST);
            }
        } else {
            self.strikes = 0;
            self.next_rest = REST;
            self.hold.learn(looks);
        }
    }
}

/// How many looks take a microsecond here, at least one.
fn measure() -> u32 {
    const LOOKS: u32 = 2000;
    let begun = Instant::now();
    for _ in 0..LOOKS {
        between_looks();
    }
    let nanoseconds = begun.elapsed().as_nanos().max(1);
    u32::try_from(u128::from(LOOKS).saturating_mul(1000) / nanoseconds).unwrap_or(u32::MAX).clamp(1, 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than have processors anywhere.
    const MANY: u32 = 1 << 30;

    #[test]
    fn many_vcpus_let_others_run_once_before_they_sleep_if_they_are_to() {
        let mut budget = Budget::new(Polling::new(MANY, None));
        for yields in [false, true, false] {
            budget.set_yields(yields);
            for _ in 0..3 * REST {
                assert_eq!(budget.spins(), u32::from(yields));
                assert!(budget.relax(0));
                budget.waited(true, 1);
            }
        }
    }

    #[test]
    fn who_asks_for_no_looks_gets_none() {
        for vcpus in [1, MANY] {
            assert_eq!(Budget::new(Polling::new(vcpus, Some(0))).spins(), 0);
        }
    }

    /// One that looks, each side having a processor.
    fn looking(poll_us: Option<u32>) -> Budget {
        Budget::new(Polling::new(0, poll_us))
    }

    /// How many of the next waits do not look.
    fn rests(budget: &mut Budget) -> usize {
        (0..)
            .take_while(|_| {
                let looks = budget.spins() > 0;
                if !looks {
                    budget.waited(true, 0);
                }
                !looks
            })
            .count()
    }

    #[test]
    fn waits_that_give_turns_away_are_followed_by_rests_which_become_long_until_one_does_not() {
        let mut budget = looking(None);
        for expected in [64, 128, 256, 512, 1024, 2048, 4096, 4096] {
            budget.others_ran(2 * TURN);
            budget.waited(false, 1000);
            assert_eq!(rests(&mut budget), expected);
        }
        budget.others_ran(TURN);
        budget.waited(false, 1000);
        assert_eq!(rests(&mut budget), 0);
        budget.others_ran(2 * TURN);
        budget.waited(true, 1000);
        assert_eq!(rests(&mut budget), 64);
    }

    #[test]
    fn who_is_told_how_long_to_look_does_so_whoever_needs_the_processor() {
        let mut budget = looking(Some(20));
        for _ in 0..2 * STRIKES {
            budget.others_ran(2 * TURN);
            budget.waited(true, 1000);
            assert_eq!(rests(&mut budget), 0);
        }
    }

    #[test]
    fn vain_waits_are_followed_by_a_rest() {
        let mut budget = looking(None);
        for _ in 0..2 {
            for _ in 0..STRIKES {
                assert!(budget.spins() > 0);
                budget.waited(true, 1000);
            }
            assert_eq!(rests(&mut budget), REST as usize);
        }
    }
}
