//! A plugin that takes too long to begin: what it has not done, said once.

use std::time::{Duration, Instant};

/// How long a plugin may take for a step before that is remarkable.
const REMARKABLE: Duration = Duration::from_secs(10);

/// What the plugin has done of what every plugin does.
#[derive(Debug)]
pub(crate) struct StartupWatch {
    step: Step,
}

/// The step that is waited for, and since when.
#[derive(Debug)]
enum Step {
    Connect(Instant),
    /// It may take its time until it takes the vCPUs.
    TakeVcpus,
    Start(Instant),
    /// There is nothing more to be said.
    Done,
}

impl StartupWatch {
    /// The plugin is started at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { step: Step::Connect(now) }
    }

    /// The plugin has made a request. It has its vCPUs, or has not; and has started the VM, or has not.
    pub(crate) fn requested(&mut self, now: Instant, has_vcpus: bool, is_started: bool) {
        self.step = match self.step {
            Step::Done => Step::Done,
            _ if is_started => Step::Done,
            Step::Start(since) => Step::Start(since),
            Step::Connect(_) | Step::TakeVcpus if has_vcpus => Step::Start(now),
            Step::Connect(_) | Step::TakeVcpus => Step::TakeVcpus,
        };
    }

    /// The VM ends.
    pub(crate) fn finish(&mut self) {
        self.step = Step::Done;
    }

    /// When there is something to be said.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Connect(since) | Step::Start(since) => Some(since + REMARKABLE),
            Step::TakeVcpus | Step::Done => None,
        }
    }

    /// What is to be said at `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<&'static str> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.step {
            Step::Connect(_) => {
                self.step = Step::TakeVcpus;
                Some(
                    "it has made no request for 10 seconds: a plugin connects to the socket whose descriptor's number is in \
                     CROSVM_SOCKET",
                )
            }
            Step::Start(_) => {
                self.step = Step::Done;
                Some(
                    "it has taken its vCPUs and has not started the VM for 10 seconds: before `start` no vCPU reports anything, \
                     and waiting for one has no end",
                )
            }
            Step::TakeVcpus | Step::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said up to `seconds` after `start`.
    fn said(watch: &mut StartupWatch, start: Instant, seconds: u64) -> Option<&'static str> {
        watch.due(start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_plugin_that_never_connects_is_reported_once() {
        let start = Instant::now();
        let mut watch = StartupWatch::new(start);
        assert_eq!(said(&mut watch, start, 9), None);
        assert!(said(&mut watch, start, 10).unwrap().contains("CROSVM_SOCKET"));
        assert_eq!((said(&mut watch, start, 100), watch.deadline()), (None, None));
    }

    #[test]
    fn vcpus_taken_without_a_start_are_reported_once() {
        let start = Instant::now();
        let mut watch = StartupWatch::new(start);
        watch.requested(start, false, false);
        assert_eq!(watch.deadline(), None);
        watch.requested(start + Duration::from_secs(20), true, false);
        // Requests that have nothing to do with it put nothing off.
        watch.requested(start + Duration::from_secs(29), true, false);
        assert_eq!(said(&mut watch, start, 29), None);
        assert!(said(&mut watch, start, 30).unwrap().contains("`start`"));
        watch.requested(start + Duration::from_secs(31), true, false);
        assert_eq!(said(&mut watch, start, 100), None);
    }

    #[test]
    fn a_plugin_that_starts_in_time_is_not_reported() {
        let start = Instant::now();
        let mut watch = StartupWatch::new(start);
        watch.requested(start, true, false);
        watch.requested(start, true, true);
        assert_eq!(watch.deadline(), None);
        // What it asks afterwards is no beginning.
        watch.requested(start, true, true);
        assert_eq!(watch.deadline(), None);
    }
}
