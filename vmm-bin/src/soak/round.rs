//! One round: a VM with its plugin, run to its end, and whether that is the end that was planned.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use plugin_runtime::jail::{JailConfig, Mount};
use plugin_runtime::{Config, Error as VmError, PluginCommand, Sandbox};

use super::counters::{Numbers, Sheet};
use super::plan::{Ending, Plan};
use super::plugin::{COMPLAINS, TOLD};
use super::timeout::{SLICE, Timeout};
use crate::backend::Backend;
use crate::error::Error;
use crate::processes;

/// Where the plugin finds the sheet in its jail.
const SHEET_IN_JAIL: &str = "/sheet";
/// Longer than the plugin waits for anything, so that it is the one to complain, who knows more.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a plugin may hold an exit: longer than a machine is asleep while tests are run.
const EXIT_LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether a plugin can be killed.
const LOOK: Duration = Duration::from_millis(1);
/// The signal that kills.
const SIGKILL: i32 = 9;

/// What a round came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What was planned.
    Good(Numbers),
    /// The plugin was told to end before its time: by a signal to this process, or else that is wrong.
    Told,
    /// Something else.
    Bad(String),
}

/// A round about to run.
pub(super) struct Round<'s> {
    pub(super) backend: &'s Backend,
    /// Of the whole soak.
    pub(super) seed: u64,
    pub(super) number: u64,
    pub(super) plan: &'s Plan,
    pub(super) sheet: &'s Sheet,
    /// Where the sheet is.
    pub(super) path: &'s Path,
}

type End = Result<(), VmError>;

impl Round<'_> {
    /// Runs it.
    pub(super) fn run(&self) -> Result<Outcome, Error> {
        self.sheet.clear().map_err(Error::system("clearing the sheet"))?;
        let (sender, ends) = bounded(1);
        let (plugin, config) = (self.plugin()?, self.config()?);
        let hypervisor = self.backend.hypervisor();
        // A thread of its own, for the VMM confines the one that it runs on, for good.
        let thread = thread::Builder::new()
            .name("vm".into())
            .spawn(move || drop(sender.send(plugin_runtime::run(&*hypervisor, &plugin, config))))
            .map_err(Error::system("starting a VM's thread"))?;
        let Some(end) = self.await_end(&ends)? else {
            return Ok(Outcome::Bad(format!("the VM has not ended after {LIMIT:?}")));
        };
        if thread.join().is_err() {
            return Ok(Outcome::Bad("the VM's thread panicked".into()));
        }
        let (numbers, complaint) = self.sheet.read().map_err(Error::system("reading the sheet"))?;
        Ok(judge(self.plan.ending, &end, complaint, numbers))
    }

    /// The end, or what is known of it if there is none in time. Kills the plugin if that is planned.
    fn await_end(&self, ends: &Receiver<End>) -> Result<Option<End>, Error> {
        let mut timeout = Timeout::new(LIMIT);
        let mut killing = match self.plan.ending {
            Ending::Killed { running, after } => Some(Killing { running, after, since: None }),
            _ => None,
        };
        loop {
            match ends.recv_timeout(if killing.is_some() { LOOK } else { SLICE }) {
                Ok(end) => return Ok(Some(end)),
                // A panic, which joining tells.
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(Ok(()))),
                Err(RecvTimeoutError::Timeout) if timeout.is_over() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(due) = &mut killing
                && due.is_due(self.sheet).map_err(Error::system("reading the sheet"))?
                && processes::kill_last_descendant().map_err(Error::system("looking for the plugin"))?
            {
                // The first to be killed may have been a helper, which had done its work.
                killing = killing.filter(|killing| !killing.running);
            }
        }
    }

    fn plugin(&self) -> Result<PluginCommand, Error> {
        let path = std::env::current_exe().map_err(Error::system("finding this program's own file"))?;
        let sheet = if self.plan.jailed { Path::new(SHEET_IN_JAIL) } else { self.path };
        let numbers = [self.seed, self.number].map(|number| OsString::from(number.to_string()));
        let args = [OsString::from("soak-plugin")].into_iter().chain(numbers).chain([sheet.into()]).collect();
        Ok(PluginCommand { path, args })
    }

    fn config(&self) -> Result<Config, Error> {
        let sandbox = if self.plan.jailed {
            let sheet = Mount { source: self.path.to_owned(), target: PathBuf::from(SHEET_IN_JAIL), writable: true };
            Sandbox::Jail(Box::new(JailConfig::with_mounts(vec![sheet])?))
        } else {
            Sandbox::None
        };
        Ok(Config {
            exit_timeout: Some(EXIT_LIMIT),
            transport: self.plan.transport,
            poll_us: self.plan.poll_us,
            confine: true,
            ..Config::new(self.plan.vcpus(), sandbox)
        })
    }
}

/// A kill that is planned.
struct Killing {
    running: bool,
    after: Duration,
    /// When it was that the time began.
    since: Option<Instant>,
}

impl Killing {
    fn is_due(&mut self, sheet: &Sheet) -> std::io::Result<bool> {
        if self.since.is_none() && (!self.running || sheet.read()?.0 != Numbers::default()) {
            self.since = Some(Instant::now());
        }
        Ok(self.since.is_some_and(|since| since.elapsed() >= self.after))
    }
}

/// Compares an end with what was planned.
fn judge(planned: Ending, end: &End, complaint: Option<String>, numbers: Numbers) -> Outcome {
    if let Some(complaint) = complaint {
        return Outcome::Bad(complaint);
    }
    let good = match (planned, end) {
        (_, Err(VmError::Exited { code: TOLD, .. } | VmError::Signal { .. })) => return Outcome::Told,
        (_, Err(VmError::Exited { code: COMPLAINS, .. })) => false,
        (Ending::Done | Ending::Fault { .. }, Ok(())) => true,
        (Ending::Quits { code, .. }, Err(VmError::Exited { code: exited, .. })) => code == *exited,
        (Ending::Killed { running: true, .. }, Err(VmError::Killed { signal: SIGKILL, .. })) => true,
        // The plugin was killed, or the process that was to become it.
        (Ending::Killed { running: false, .. }, Err(VmError::Killed { .. } | VmError::Jail { .. })) => true,
        _ => false,
    };
    if good {
        return Outcome::Good(numbers);
    }
    let ended = end.as_ref().map_or_else(ToString::to_string, |()| "well".into());
    Outcome::Bad(format!("planned was {planned:?}, and the VM ended: {ended}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> End {
        Err(VmError::Exited { plugin: "p".into(), code })
    }

    fn killed(signal: i32) -> End {
        Err(VmError::Killed { plugin: "p".into(), signal })
    }

    fn good(planned: Ending, end: &End) -> bool {
        matches!(judge(planned, end, None, Numbers::default()), Outcome::Good(_))
    }

    #[test]
    fn an_end_is_good_if_it_is_the_one_that_was_planned() {
        let killing = Ending::Killed { running: true, after: Duration::ZERO };
        let quitting = Ending::Quits { code: 12, after: Duration::ZERO };
        assert!(good(Ending::Done, &Ok(())) && good(Ending::Fault { vcpu: 0 }, &Ok(())));
        assert!(good(killing, &killed(9)) && good(quitting, &exited(12)));
        assert!(!good(killing, &Ok(())) && !good(killing, &killed(11)) && !good(killing, &exited(1)));
        assert!(!good(quitting, &Ok(())) && !good(quitting, &exited(1)));
        assert!(!good(Ending::Done, &killed(9)) && !good(Ending::Done, &exited(COMPLAINS)));
    }

    #[test]
    fn a_complaint_outweighs_every_end() {
        let outcome = judge(Ending::Done, &Ok(()), Some("lost".into()), Numbers::default());
        assert!(matches!(outcome, Outcome::Bad(why) if why == "lost"));
    }

    #[test]
    fn a_plugin_that_was_told_to_end_is_told_apart() {
        let outcome = judge(Ending::Done, &exited(TOLD), None, Numbers::default());
        assert!(matches!(outcome, Outcome::Told));
    }
}
