//! How a run ends: told, disconnected, killed, a second between each.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use std::os::unix::process::ExitStatusExt;

use crate::error::{Error, Result};

/// How long the plugin has to exit after it was told, with its requests still served; and again after it was disconnected.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Where in its end a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The plugin was told to exit.
    Told {
        at: Instant,
    },
    /// All channels were closed.
    Disconnected {
        at: Instant,
    },
    /// The plugin was killed.
    Killed,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Stop the vCPUs and fire the shutdown event.
    Tell,
    /// Close all channels.
    HangUp,
    /// Kill the plugin.
    Kill,
}

#[derive(Debug)]
pub(crate) struct End {
    phase: Phase,
}

impl End {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Running }
    }

    /// Begins the end, if it has not begun.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Due> {
        if self.phase != Phase::Running {
            return None;
        }
        self.phase = Phase::Told { at: now };
        Some(Due::Tell)
    }

    /// What is due at `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match self.phase {
            Phase::Running | Phase::Killed => None,
            Phase::Told { .. } => {
                self.phase = Phase::Disconnected { at: now };
                Some(Due::HangUp)
            }
            Phase::Disconnected { .. } => {
                self.phase = Phase::Killed;
                Some(Due::Kill)
            }
        }
    }

    /// When something is due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running | Phase::Killed => None,
            Phase::Told { at } | Phase::Disconnected { at } => Some(at + GRACE),
        }
    }

    /// What the plugin's end means for the run, which `cause` has ended, if it was not the plugin.
    ///
    /// A plugin that exits with 0 before it is disconnected has had the last word: the run went well. Otherwise the cause is
    /// what went wrong, however the plugin took it. Without one, how the plugin ended is; when it was disconnected, any exit
    /// code is in order.
    pub(crate) fn verdict(&self, plugin: String, status: ExitStatus, cause: Option<Error>) -> Result<()> {
        let is_connected = matches!(self.phase, Phase::Running | Phase::Told { .. });
        match (cause, status.code(), status.signal()) {
            (_, Some(0), _) if is_connected => Ok(()),
            (Some(cause), ..) => {
                tracing::debug!(plugin, "its end, which is not what went wrong: {status}");
                Err(cause)
            }
            (None, ..) if self.phase == Phase::Killed => Err(Error::NotInTime { plugin }),
            (None, Some(_), _) if !is_connected => Ok(()),
            (None, Some(code), _) => Err(Error::Exited { plugin, code }),
            (None, None, signal) => Err(Error::Killed { plugin, signal: signal.unwrap_or_default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn verdict_of(end: &End, status: ExitStatus, cause: Option<Error>) -> String {
        match end.verdict("p".into(), status, cause) {
            Ok(()) => "fine".into(),
            Err(error) => error.to_string(),
        }
    }

    fn verdict(end: &End, status: ExitStatus) -> String {
        verdict_of(end, status, None)
    }

    #[test]
    fn a_running_plugin_may_take_any_time() {
        let mut end = End::new();
        assert_eq!(end.deadline(), None);
        assert_eq!(end.due(Instant::now() + Duration::from_secs(1000)), None);
    }

    #[test]
    fn a_plugin_is_told_disconnected_and_killed_a_second_apart() {
        let start = Instant::now();
        let mut end = End::new();
        assert_eq!(end.begin(start), Some(Due::Tell));
        assert_eq!(end.begin(start), None);
        assert_eq!(end.due(start + GRACE / 2), None);
        assert_eq!(end.due(start + GRACE), Some(Due::HangUp));
        assert_eq!(end.due(start + GRACE), None);
        assert_eq!(end.due(start + GRACE * 2), Some(Due::Kill));
        // Its end may take the kernel a while, which is not waited for in a circle.
        assert_eq!(end.deadline(), None);
        assert_eq!(end.due(start + GRACE * 3), None);
        let late = "plugin p did not exit in time after it was told to, and was killed";
        assert_eq!(verdict(&end, ExitStatus::from_raw(9)), late);
    }

    #[test]
    fn how_the_plugin_ended_is_how_the_run_did() {
        let mut end = End::new();
        for told in [false, true] {
            if told {
                end.begin(Instant::now());
            }
            assert_eq!(verdict(&end, exited(0)), "fine");
            assert_eq!(verdict(&end, exited(3)), "plugin p exited with code 3");
            assert_eq!(verdict(&end, ExitStatus::from_raw(6)), "plugin p was killed by signal 6 (SIGABRT)");
        }
    }

    #[test]
    fn a_plugin_that_exits_when_it_is_disconnected_is_in_order() {
        let start = Instant::now();
        let mut end = End::new();
        end.begin(start);
        end.due(start + GRACE);
        assert_eq!(verdict(&end, exited(0)), "fine");
        assert_eq!(verdict(&end, exited(1)), "fine");
        assert_eq!(verdict(&end, ExitStatus::from_raw(11)), "plugin p was killed by signal 11 (SIGSEGV)");
    }

    #[test]
    fn the_cause_is_the_error_unless_a_connected_plugin_exits_0() {
        let start = Instant::now();
        let mut end = End::new();
        let interrupted = |end: &End, status| verdict_of(end, status, Some(Error::Signal { signal: 2 }));
        let said = "ended by signal 2 (SIGINT)";
        end.begin(start);
        assert_eq!(interrupted(&end, exited(0)), "fine");
        assert_eq!(interrupted(&end, exited(5)), said);
        assert_eq!(interrupted(&end, ExitStatus::from_raw(2)), said);
        for due in [GRACE, GRACE * 2] {
            end.due(start + due);
            for status in [exited(0), exited(1), ExitStatus::from_raw(9)] {
                assert_eq!(interrupted(&end, status), said, "{end:?} {status}");
            }
        }
    }
}
