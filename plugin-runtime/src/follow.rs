//! Where a vCPU's thread runs when there are more threads than processors: beside the plugin's thread that answers it.

use std::io;

use plugin_proto::ring::current_processor;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::backoff::Backoff;

/// Answers in a row that were not there when they were first looked for, which says that the two run on two processors: on one,
/// the plugin's thread runs as soon as it is woken, and has answered when the vCPU's goes on.
const VAIN: u32 = 2;

/// When to follow. Threads that wait for each other on two processors cost each exit two interrupts between these, and leave to
/// others what is warm in both. The kernel pulls a pair together only where the processors' loads happen to call for it.
#[derive(Debug)]
pub(crate) struct Follow {
    /// Answers in a row that were not there at once.
    vain: u32,
    /// Until the next move: they may be undone at once, by the program that places threads.
    backoff: Backoff,
    /// Whether this thread may not move.
    is_barred: bool,
}

impl Follow {
    pub(crate) fn new() -> Self {
        Self { vain: 0, backoff: Backoff::default(), is_barred: false }
    }

    /// Learns whether an answer was there at once, and now and then moves the calling thread to the processor that
    /// `answerer` names.
    #[inline]
    pub(crate) fn answered(&mut self, at_once: bool, answerer: impl FnOnce() -> Option<u32>) {
        if self.is_due(at_once)
            && let Some(processor) = answerer()
        {
            self.go_to(processor);
        }
    }

    #[inline]
    fn is_due(&mut self, at_once: bool) -> bool {
        self.backoff.answered();
        self.vain = if at_once { 0 } else { self.vain.saturating_add(1) };
        self.vain >= VAIN && self.backoff.is_over() && !self.is_barred
    }

    #[cold]
    fn go_to(&mut self, processor: u32) {
        if current_processor() == Some(processor) {
            return;
        }
        self.backoff.tried();
        self.vain = 0;
        if let Err(error) = move_to(processor as usize) {
            self.is_barred = true;
            let thread = std::thread::current();
            tracing::debug!(%error, thread = thread.name(), "a vCPU's thread cannot move to its plugin's processor");
        }
    }
}

/// Moves the calling thread to `processor`, if it may run there, and does not bind it to it.
fn move_to(processor: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    // The number comes from the plugin.
    if processor >= CpuSet::MAX_CPU || !allowed.is_set(processor) {
        return Ok(());
    }
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only)?;
    // If somebody else has bound it meanwhile, that holds.
    if sched_getaffinity(None)? == only {
        sched_setaffinity(None, &allowed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More answers than have to pass between two moves.
    const MANY: u32 = 1 << 17;

    #[test]
    fn who_is_answered_at_once_every_other_time_does_not_move() {
        let mut follow = Follow::new();
        assert!((0..MANY).all(|answer| !follow.is_due(answer % 2 == 0)));
        assert!((0..VAIN).any(|_| follow.is_due(false)));
    }

    #[test]
    fn who_is_answered_late_arrives_where_the_answers_come_from() {
        let allowed = sched_getaffinity(None).unwrap();
        let mut follow = Follow::new();
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)) {
            let here = Some(processor as u32);
            // The program that places threads may move it on at any time.
            let is_here_after = |_| {
                follow.answered(false, || here);
                current_processor() == here
            };
            assert!((0..MANY).any(is_here_after), "{processor}");
        }
    }

    #[test]
    fn a_thread_goes_where_it_may_and_stays_as_free_as_it_was() {
        let before = sched_getaffinity(None).unwrap();
        let allowed = (0..CpuSet::MAX_CPU).filter(|processor| before.is_set(*processor));
        let forbidden = (0..CpuSet::MAX_CPU).find(|processor| !before.is_set(*processor));
        for processor in allowed.chain(forbidden).chain([CpuSet::MAX_CPU, u32::MAX as usize]) {
            move_to(processor).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap(), before, "{processor}");
        }
    }
}
