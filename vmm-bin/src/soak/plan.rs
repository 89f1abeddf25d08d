//! What a round does. It depends on the seed and on the round's number alone.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use plugin_runtime::Transport;

use super::layout::VCPUS;
use super::program::{Last, Program};
use super::random::Random;

/// A round: one VM, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What all random numbers of the round come from.
    pub(super) seed: u64,
    pub(super) transport: Transport,
    pub(super) poll_us: Option<u32>,
    pub(super) jailed: bool,
    pub(super) ending: Ending,
    pub(super) programs: Vec<Program>,
    /// Whether handlers of interrupts wait for the plugin.
    pub(super) handlers_wait: bool,
    pub(super) paces: Paces,
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The guests have done what they had to do.
    Done,
    /// A vCPU's guest faults, and with it the VM ends.
    Fault {
        /// Which one.
        vcpu: usize,
    },
    /// The plugin is killed.
    Killed {
        /// Whether that is after the first exit; else after its start.
        running: bool,
        /// So long after that.
        after: Duration,
    },
    /// The plugin ends by itself amid the guests' work.
    Quits {
        /// Its exit code.
        code: i32,
        /// So long after the start of the VM.
        after: Duration,
    },
}

/// How long each of those who disturb the guests rests at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paces {
    pub(super) pauses: Duration,
    pub(super) memory: Duration,
    pub(super) ranges: Duration,
    pub(super) events: Duration,
    pub(super) pulses: Duration,
    pub(super) connections: Duration,
}

impl Plan {
    pub(super) fn new(seed: u64, round: u64) -> Self {
        let mut random = Random::stream(seed, round);
        let jailed = !random.once_in(4);
        let mut time = |millis| random.time(Duration::from_millis(millis));
        // In turns of a length that shares no factor with those of backends and transports.
        let ending = match round % 13 {
            2 | 10 => Ending::Killed { running: true, after: time(300) },
            12 => Ending::Killed { running: false, after: time(40) },
            5 => Ending::Quits { code: 10 + random.below(100) as i32, after: random.time(Duration::from_millis(200)) },
            8 => Ending::Fault { vcpu: random.below(VCPUS as u64) as usize },
            _ => Ending::Done,
        };
        let mut programs: Vec<_> = (0..VCPUS)
            .map(|vcpu| {
                let rounds = 2 + random.below(40) as u32;
                Program::random(&mut random, vcpu, rounds)
            })
            .collect();
        match ending {
            Ending::Done => {}
            Ending::Fault { vcpu } => programs[vcpu].last = Last::Fault,
            // Somebody else ends it.
            Ending::Killed { .. } | Ending::Quits { .. } => programs.iter_mut().for_each(|each| each.rounds = u32::MAX),
        }
        let mut pace = || random.pick([100, 500, 2_000, 10_000].map(Duration::from_micros));
        let paces = Paces {
            pauses: pace(),
            memory: pace(),
            ranges: pace(),
            events: pace(),
            pulses: pace(),
            connections: pace(),
        };
        Self {
            seed: random.next(),
            // In turns, so that with two backends in turns too four rounds have all there are.
            transport: if (round / 2).is_multiple_of(2) { Transport::Pipe } else { Transport::Ring },
            poll_us: random.pick([None, Some(0), Some(20)]),
            jailed,
            ending,
            programs,
            handlers_wait: random.once_in(2),
            paces,
        }
    }

    /// How many vCPUs it has.
    pub(super) fn vcpus(&self) -> NonZeroU32 {
        NonZeroU32::new(self.programs.len() as u32).unwrap_or(NonZeroU32::MIN)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = if self.transport == Transport::Ring { "rings" } else { "pipes" };
        let jail = if self.jailed { "jail" } else { "no jail" };
        let steps: usize = self.programs.iter().map(|program| program.steps.len()).sum();
        write!(f, "{transport}, {jail}, {} vCPUs with {steps} steps, {:?}", self.vcpus(), self.ending)
    }
}

/// An irqfd is made anew after so many interrupts.
pub(super) const EVENT_LIFE: u64 = 16;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_makes_another() {
        assert_eq!(Plan::new(3, 5), Plan::new(3, 5));
        assert_ne!(Plan::new(3, 5), Plan::new(4, 5));
        assert_ne!(Plan::new(3, 5), Plan::new(3, 6));
    }

    #[test]
    fn thirteen_rounds_have_every_kind_of_ending_transport_and_jail() {
        let plans: Vec<_> = (0..13).map(|round| Plan::new(1, round)).collect();
        let endings: HashSet<_> = plans.iter().map(|plan| std::mem::discriminant(&plan.ending)).collect();
        assert_eq!(endings.len(), 4);
        for pick in [|plan: &Plan| plan.jailed, |plan: &Plan| plan.transport == Transport::Ring] {
            assert!(plans.iter().any(pick) && !plans.iter().all(pick));
        }
    }
}
