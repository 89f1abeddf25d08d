//! The plugin's process.
#![allow(
    unsafe_code,
    reason = "between fork and exec only async-signal-safe calls are allowed, which std cannot check"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use plugin_proto::limits::SOCKET_VARIABLE;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::PluginCommand;
use crate::children;
use crate::descriptor_limit;
use crate::error::{Error, Result};
use crate::jail::{self, Fault, OwnId, Part, Report, Reports, Sandbox};
use crate::start_error::start_error;

/// What a jail tells of a plugin's end.
enum JailsWord {
    /// It never was the plugin.
    Failed(Fault),
    /// Its status.
    Ended(ExitStatus),
}

/// What was heard from a jail.
pub(crate) enum Heard {
    /// Where violations of the plugin's system call filter are learned.
    Filtered(OwnedFd),
    /// The plugin's system call filter has no listener: violations are the kernel's alone.
    FilteredWithoutListener,
    /// Nothing more for now.
    Nothing,
    /// All there will be.
    All,
}

/// A plugin that was started. Dropping it kills and reaps it.
pub(crate) struct PluginProcess {
    command: PluginCommand,
    /// Of the plugin, or of its jail's init, with which it ends.
    pidfd: OwnedFd,
    /// Where its jail tells how it goes.
    reports: Option<Reports>,
    /// What its jail has told of its end.
    end: Option<JailsWord>,
    /// Whether violations of its system call filter are the kernel's alone.
    without_listener: bool,
    reaped: bool,
    /// Keeps the plugin's user id taken while its jail lives.
    _own_id: Option<OwnId>,
}

impl PluginProcess {
    /// Starts `command` with `socket` as the descriptor named in `CROSVM_SOCKET`, and gives the reading end, not
    /// blocking, of its standard error. It has the VMM's environment, signals at their defaults, and no other descriptor.
    ///
    /// Without a jail it has the VMM's working directory, standard input and output. A jail is still being made when this
    /// returns: what goes wrong then is told by [`wait`](Self::wait).
    pub(crate) fn start(command: &PluginCommand, sandbox: &Sandbox, socket: OwnedFd) -> Result<(Self, OwnedFd)> {
        let (stderr, plugin_stderr) =
            pipe_with(PipeFlags::CLOEXEC).map_err(Error::set_up("making the pipe for the plugin's standard error"))?;
        fcntl_setfl(&stderr, OFlags::NONBLOCK)
            .map_err(Error::set_up("making the pipe for the plugin's standard error non-blocking"))?;
        children::must_be_waited_for()?;
        let (pidfd, reports, own_id) = match sandbox {
            Sandbox::None => (start_bare(command, socket, plugin_stderr)?, None, None),
            Sandbox::Jail(config) => {
                let (init, reports, own_id) = jail::start(command, config, socket, plugin_stderr)?;
                (init, Some(reports), own_id)
            }
        };
        let plugin = Self {
            command: command.clone(),
            pidfd,
            reports,
            end: None,
            without_listener: false,
            reaped: false,
            _own_id: own_id,
        };
        Ok((plugin, stderr))
    }

    /// How it ended. Waits for it where it has not.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let own =
            wait_for(&self.pidfd).map_err(|errno| Error::Wait { plugin: self.command.name(), source: errno.into() })?;
        self.reaped = true;
        while matches!(self.hear()?, Heard::Filtered(_) | Heard::FilteredWithoutListener) {}
        let end = self.end.take();
        how_it_ended(end, own, self.reports.is_some()).map_err(|fault| jail::jail_error(&self.command, fault))
    }

    /// Whether an end with `status` is that by a system call which its filter does not allow, and which nobody can name.
    pub(crate) fn was_unnamed_violation(&self, status: ExitStatus) -> bool {
        self.without_listener && status.signal() == Some(libc::SIGSYS)
    }

    /// Where its jail tells how it goes, as a descriptor; `None` without a jail.
    pub(crate) fn reports(&self) -> Option<BorrowedFd<'_>> {
        self.reports.as_ref().map(AsFd::as_fd)
    }

    /// Takes in what its jail has told.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] where it cannot be heard. How the plugin ended is then unknown.
    pub(crate) fn hear(&mut self) -> Result<Heard> {
        let Some(reports) = &self.reports else { return Ok(Heard::All) };
        loop {
            match reports.take() {
                Ok(Some(Report::Filtered(listener))) => return Ok(Heard::Filtered(listener)),
                Ok(Some(Report::FilteredWithoutListener)) => {
                    self.without_listener = true;
                    return Ok(Heard::FilteredWithoutListener);
                }
                // The first word counts: what did not become the plugin has an end too.
                Ok(Some(Report::Failed(fault))) => {
                    self.end.get_or_insert(JailsWord::Failed(fault));
                }
                Ok(Some(Report::Ended(status))) => {
                    self.end.get_or_insert(JailsWord::Ended(ExitStatus::from_raw(status)));
                }
                Ok(Some(Report::Born(_))) => {}
                Ok(None) => return Ok(Heard::All),
                Err(Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(errno) => return Err(Error::set_up("hearing how the plugin's jail goes")(errno)),
            }
        }
    }

    /// Kills it, and all in its jail. Its end is then seen as any other.
    pub(crate) fn kill(&mut self) {
        // It fails only for a child that has been reaped.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Nothing is left to be done where waiting fails.
            let _ = wait_for(&self.pidfd);
        }
    }
}

impl AsFd for PluginProcess {
    /// Readable once the plugin has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How a plugin ended: by its jail's word, by the status of the child, which is the jail's init where there is a jail, or why
/// it never was the plugin.
fn how_it_ended(word: Option<JailsWord>, child: ExitStatus, jailed: bool) -> std::result::Result<ExitStatus, Fault> {
    let inits = child.code().filter(|code| jailed && ![0, jail::HELPER_IS_GONE.raw_os_error()].contains(code));
    match word {
        // An init that could not tell ends with an errno. What the helper then failed at came of that.
        _ if let Some(errno) = inits => Err(Fault::of(Part::Init)(Errno::from_raw_os_error(errno))),
        // Who cannot go on without its init, which was killed, is not what went wrong.
        Some(JailsWord::Failed(fault)) if child.signal().is_none() => Err(fault),
        Some(JailsWord::Ended(status)) => Ok(status),
        // An init that ends by itself without a word has waited without success for its helper's.
        None if jailed && child.signal().is_none() => Err(Fault::of(Part::Helper)(jail::HELPER_IS_GONE)),
        // Without a jail; or its init was killed before it could tell, and the plugin with it.
        Some(JailsWord::Failed(_)) | None => Ok(child),
    }
}

/// Waits for a child, and reaps it.
fn wait_for(pidfd: &OwnedFd) -> std::result::Result<ExitStatus, Errno> {
    let status = retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED))?;
    // Without NOHANG there is always one, of a process that has exited or was killed.
    let status = status.ok_or(Errno::CHILD)?;
    let raw = match status.exit_status() {
        Some(code) => (code & 0xff) << 8,
        None => status.terminating_signal().unwrap_or_default(),
    };
    Ok(ExitStatus::from_raw(raw))
}

/// Starts the plugin as it is, with what the VMM's user may do.
fn start_bare(command: &PluginCommand, socket: OwnedFd, stderr: OwnedFd) -> Result<OwnedFd> {
    let kept = socket.as_raw_fd();
    let mut process = Command::new(as_path(&command.path).as_ref());
    process.arg0(&command.path).args(&command.args);
    process.env(SOCKET_VARIABLE, kept.to_string()).stderr(Stdio::from(stderr));
    prepare(&mut process, vec![kept]);
    let mut child = process.spawn().map_err(|source| start_error(&command.path, source))?;
    // Our copy of the socket goes: the plugin's end is the plugin's.
    drop(socket);

    pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|errno| {
        // Killing our own unreaped child cannot fail, and waiting for it neither.
        let _ = child.kill();
        let _ = child.wait();
        Error::SetUp { what: "pidfd_open on the plugin", source: errno.into() }
    })
}

/// A name without a slash is a file here, not one to look for in `PATH`.
pub(crate) fn as_path(path: &Path) -> std::borrow::Cow<'_, Path> {
    if path.parent() == Some(Path::new("")) { Path::new(".").join(path).into() } else { path.into() }
}

/// Lets `process` begin with the standard descriptors and `kept` alone, the limit of descriptors that was before, and no
/// signal ignored.
pub(crate) fn prepare(process: &mut Command, kept: Vec<RawFd>) {
    let before_exec = move || {
        keep_only(&kept)?;
        descriptor_limit::restore()?;
        default_signals();
        Ok(())
    };
    // SAFETY: it makes system calls only, and writes no memory but its own stack.
    unsafe { process.pre_exec(before_exec) };
}

/// All descriptors but the standard ones and `kept`, which are open, close at exec.
pub(crate) fn keep_only(kept: &[RawFd]) -> std::result::Result<(), Errno> {
    const FIRST: u32 = 3;
    // SAFETY: plain numbers; the flag only marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(last_error());
    }
    for fd in kept {
        // SAFETY: a plain number of a descriptor that the caller holds open until after the exec.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

/// Puts all signals to their default dispositions.
pub(crate) fn default_signals() {
    // The kernel's own call, since the C library keeps two signals from its callers that the VMM may have inherited
    // ignored. A `sigaction` of zeros is the default disposition; signals that have no other are refused.
    let default = [0_u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads 32 bytes from `default`, of which its `sigaction` with a mask of 8 bytes consists.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null_mut::<u64>(), 8) };
    }
}

/// Why the last call of the C library's failed.
pub(crate) fn last_error() -> Errno {
    as_errno(&io::Error::last_os_error())
}

/// The number of an error of the operating system's; those of other makes do not come from system calls.
pub(crate) fn as_errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exit code, a signal.
    fn ended(code: i32, signal: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8 | signal)
    }

    #[test]
    fn an_init_that_ended_without_a_word_is_not_taken_for_the_plugin() {
        let part = |errno: Errno| how_it_ended(None, ended(errno.raw_os_error(), 0), true).unwrap_err().part();
        assert_eq!((part(jail::HELPER_IS_GONE), part(Errno::NOBUFS)), (Part::Helper, Part::Init));
        let helpers = Some(JailsWord::Failed(Fault::of(Part::UserMap)(Errno::ACCESS)));
        assert_eq!(how_it_ended(helpers, ended(Errno::NOBUFS.raw_os_error(), 0), true).unwrap_err().part(), Part::Init);
        assert_eq!(how_it_ended(None, ended(0, 9), true).unwrap(), ended(0, 9));
        assert_eq!(how_it_ended(None, ended(1, 0), false).unwrap(), ended(1, 0));
        let word = Some(JailsWord::Ended(ended(7, 0)));
        assert_eq!(how_it_ended(word, ended(0, 0), true).unwrap(), ended(7, 0));
    }

    #[test]
    fn a_bare_name_is_a_file_in_the_working_directory() {
        assert_eq!(&*as_path(Path::new("adder")), Path::new("./adder"));
        assert_eq!(&*as_path(Path::new("bin/adder")), Path::new("bin/adder"));
        assert_eq!(&*as_path(Path::new("/bin/adder")), Path::new("/bin/adder"));
    }
}
