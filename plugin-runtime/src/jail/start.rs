//! Starting a jail, seen from the VMM.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use plugin_proto::limits::SOCKET_VARIABLE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpgid, waitpid};

use super::config::JailConfig;
use super::fault::{Fault, Part};
use super::helper;
use super::layout::{self, LIBRARY_VARIABLE};
use super::mount_points;
use super::own_id::OwnId;
use super::reports::{Report, Reports};
use super::setup::Setup;
use crate::PluginCommand;
use crate::error::{Error, Result};
use crate::process;
use crate::start_error::start_error;

/// How long the helper may take: it waits for nothing but file systems.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a jail for `command`. What comes back is a descriptor of its init, a child of this process, with which all in the
/// jail ends, where the jail tells how it goes on, and the plugin's user id where it has one of its own.
pub(crate) fn start(
    command: &PluginCommand,
    config: &JailConfig,
    socket: OwnedFd,
    stderr: OwnedFd,
) -> Result<(OwnedFd, Reports, Option<OwnId>)> {
    let failed = |source| start_error(&command.path, source);
    // In a root of its own the path is looked up there.
    let executable = match &config.root {
        None => process::as_path(&command.path).canonicalize().map_err(failed)?,
        Some(_) => command.path.clone(),
    };
    if config.root.is_none() && !executable.metadata().map_err(failed)?.is_file() {
        return Err(failed(Errno::ACCESS.into()));
    }
    mount_points::check(&config.mounts, &executable).map_err(|fault| jail_error(command, fault))?;
    let own_id = OwnId::for_plugin(config).map_err(|fault| jail_error(command, fault))?;
    let setup = Setup::new(command, executable, config, own_id.as_ref());
    let setup = setup.to_memfd().map_err(Error::set_up("writing down what the jail is to be"))?;
    let (reports, jails_end) = Reports::pair().map_err(Error::set_up("making the socket to the jail"))?;

    let mut kept = vec![setup.as_raw_fd(), jails_end.as_fd().as_raw_fd(), socket.as_raw_fd()];
    kept.extend(own_id.as_ref().map(|id| id.as_fd().as_raw_fd()));
    let mut process = Command::new(&config.helper.program);
    process.args(helper::arguments(&kept));
    process.env(SOCKET_VARIABLE, socket.as_raw_fd().to_string()).stderr(Stdio::from(stderr));
    if config.root.is_none()
        && let Some(list) = std::env::var_os(LIBRARY_VARIABLE).as_deref().and_then(layout::resolved)
    {
        process.env(LIBRARY_VARIABLE, list);
    }
    if !config.stdio {
        process.stdin(Stdio::null()).stdout(Stdio::null());
    }
    // By which an init is found that nobody has told of. It leaves the group when it is confined.
    process.process_group(0);
    process::prepare(&mut process, kept);
    let mut helper = process.spawn().map_err(|source| {
        let errno = process::as_errno(&source);
        jail_error(command, Fault::at(Part::Helper, &config.helper.program)(errno))
    })?;
    // Our copies go: the end of the jail's processes is to be seen as the end of their reports.
    drop((process, setup, jails_end, socket));

    let mut init = None;
    let begun = begin(&reports, &mut init);
    if begun.is_err() {
        // It has ended, or takes too long.
        let _ = helper.kill();
    }
    // Waiting for our own child does not fail.
    let status = helper.wait().ok();
    if begun.is_err() {
        clear_away(&reports, Pid::from_child(&helper), init);
    }
    match begun {
        Ok(init) => Ok((init, reports, own_id)),
        Err(Failure::Fault(fault)) => Err(jail_error(command, fault)),
        Err(Failure::Silence) => match status.and_then(|status| status.signal()) {
            Some(signal) => Err(Error::Killed { plugin: command.name(), signal }),
            None => Err(jail_error(command, Fault::of(Part::Helper)(Errno::SRCH))),
        },
        Err(Failure::Refused(errno)) => Err(jail_error(command, Fault::of(Part::Helper)(errno))),
    }
}

/// Why there is no jail.
enum Failure {
    Fault(Fault),
    /// Helper and init are gone without a word.
    Silence,
    Refused(Errno),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Waits until init is there, which is written down as soon as it is told.
fn begin(reports: &Reports, init: &mut Option<Pid>) -> std::result::Result<OwnedFd, Failure> {
    match next(reports, Instant::now() + TIMEOUT)? {
        // A child that has not been waited for keeps its process id.
        Some(Report::Born(born)) => Ok(pidfd_open(*init.insert(born), PidfdFlags::empty())?),
        Some(Report::Failed(fault)) => Err(Failure::Fault(fault)),
        Some(Report::Filtered(_) | Report::FilteredWithoutListener | Report::Ended(_)) => {
            Err(Failure::Refused(Errno::BADMSG))
        }
        None => Err(Failure::Silence),
    }
}

/// Sees that no init is left of a jail that is not to be, and nothing with it. The helper has ended: what it and init had to
/// tell of init's birth is there or comes at once.
fn clear_away(reports: &Reports, helper: Pid, mut init: Option<Pid>) {
    let deadline = Instant::now() + TIMEOUT;
    while init.is_none() {
        match next(reports, deadline) {
            Ok(Some(Report::Born(born))) => init = Some(born),
            Ok(Some(_)) => {}
            // Both were killed before they could tell, so what is left has ended. Without a child of that group it fails.
            Ok(None) => {
                while retry_on_intr(|| waitpgid(helper, WaitOptions::empty())).is_ok() {}
                return;
            }
            Err(_) => return,
        }
    }
    if let Some(init) = init {
        // Both fail for a child alone that has been waited for, which this one has not.
        let _ = kill_process(init, Signal::KILL);
        let _ = retry_on_intr(|| waitpid(Some(init), WaitOptions::empty()));
    }
}

/// What to call a fault: what the plugin's executable is to blame for is not the jail's.
pub(crate) fn jail_error(command: &PluginCommand, fault: Fault) -> Error {
    match fault.part() {
        // A VMM that is confined looks at no file any more, so the fault's own remedy has to do.
        Part::Executable => Error::Start { path: command.path.clone(), source: fault.to_io_error() },
        _ => Error::Jail { plugin: command.name(), fault: Box::new(fault) },
    }
}

/// The next report; `None` when no more will come.
fn next(reports: &Reports, deadline: Instant) -> std::result::Result<Option<Report>, Errno> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    let mut fds = [PollFd::new(reports, PollFlags::IN)];
    match retry_on_intr(|| poll(&mut fds, Some(&limit)))? {
        0 => Err(Errno::TIMEDOUT),
        _ => reports.receive(),
    }
}
