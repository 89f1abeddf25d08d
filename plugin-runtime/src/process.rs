//! The plugin's process.
#![allow(
    unsafe_code,
    reason = "between fork and exec only async-signal-safe calls are allowed, which std cannot check"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use plugin_proto::limits::SOCKET_VARIABLE;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::PluginCommand;
use crate::descriptor_limit;
use crate::error::{Error, Result};

/// A plugin that was started. Dropping it kills and reaps it.
pub(crate) struct PluginProcess {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    reaped: bool,
}

impl PluginProcess {
    /// Starts `command` with `socket` as the descriptor named in `CROSVM_SOCKET`, and gives the reading end, not
    /// blocking, of its standard error.
    ///
    /// It has the VMM's environment, working directory, standard input and output, signals at their defaults, and no
    /// other descriptor.
    pub(crate) fn start(command: &PluginCommand, socket: OwnedFd) -> Result<(Self, OwnedFd)> {
        let failed = |source| Error::Start { path: command.path.clone(), source };
        let (stderr, plugin_stderr) =
            pipe_with(PipeFlags::CLOEXEC).map_err(Error::set_up("making the pipe for the plugin's standard error"))?;
        fcntl_setfl(&stderr, OFlags::NONBLOCK)
            .map_err(Error::set_up("making the pipe for the plugin's standard error non-blocking"))?;

        let kept = socket.as_raw_fd();
        let mut process = Command::new(as_path(&command.path).as_ref());
        process.arg0(&command.path).args(&command.args);
        process.env(SOCKET_VARIABLE, kept.to_string()).stderr(Stdio::from(plugin_stderr));
        // SAFETY: `prepare` makes system calls only, and writes no memory but its own stack.
        unsafe { process.pre_exec(move || prepare(kept)) };
        let mut child = process.spawn().map_err(failed)?;
        // Our copy of the socket goes: the plugin's end is the plugin's.
        drop(socket);

        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Self { name: command.name(), child, pidfd, reaped: false }, stderr)),
            Err(errno) => {
                // Killing our own unreaped child cannot fail, and waiting for it neither.
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::SetUp { what: "pidfd_open on the plugin", source: errno.into() })
            }
        }
    }

    /// How it ended. Waits for it where it has not.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().map_err(|source| Error::Wait { plugin: self.name.clone(), source })?;
        self.reaped = true;
        Ok(status)
    }

    /// Kills it. Its end is then seen as any other.
    pub(crate) fn kill(&mut self) {
        // It fails only for a child that has been reaped.
        let _ = self.child.kill();
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Nothing is left to be done where waiting fails.
            let _ = self.child.wait();
        }
    }
}

impl AsFd for PluginProcess {
    /// Readable once the plugin has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A name without a slash is a file here, not one to look for in `PATH`.
fn as_path(path: &Path) -> std::borrow::Cow<'_, Path> {
    if path.parent() == Some(Path::new("")) { Path::new(".").join(path).into() } else { path.into() }
}

/// In the child, before exec: all descriptors but the standard ones and `kept` close with it, their limit is what it was,
/// and no signal is ignored.
fn prepare(kept: RawFd) -> io::Result<()> {
    const FIRST: u32 = 3;
    // SAFETY: plain numbers; the flag only marks descriptors.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    descriptor_limit::restore()?;
    // SAFETY: the socket is open: the parent holds it until after the exec.
    if unsafe { libc::fcntl(kept, libc::F_SETFD, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel's own call, since the C library keeps two signals from its callers that the VMM may have inherited
    // ignored. A `sigaction` of zeros is the default disposition; signals that have no other are refused.
    let default = [0_u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads 32 bytes from `default`, of which its `sigaction` with a mask of 8 bytes consists.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null_mut::<u64>(), 8) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_a_file_in_the_working_directory() {
        assert_eq!(&*as_path(Path::new("adder")), Path::new("./adder"));
        assert_eq!(&*as_path(Path::new("bin/adder")), Path::new("bin/adder"));
        assert_eq!(&*as_path(Path::new("/bin/adder")), Path::new("/bin/adder"));
    }
}
