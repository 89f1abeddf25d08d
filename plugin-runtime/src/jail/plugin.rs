//! The last steps before the plugin is the plugin.
#![allow(unsafe_code, reason = "exec")]

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::fault::{Fault, Part};
use super::landlock;
use super::reports::Reports;
use super::setup::Setup;
use crate::process;
use crate::process::last_error;

/// Becomes the plugin, or says why not.
pub(super) fn become_plugin(setup: &Setup, socket: BorrowedFd<'_>, reports: &Reports) -> Fault {
    match try_to(setup, socket, reports) {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

enum Never {}

fn try_to(setup: &Setup, socket: BorrowedFd<'_>, _reports: &Reports) -> Result<Never, Fault> {
    let failed = |errno| Fault::at(Part::Executable, &setup.executable)(errno);
    let executable = c_string(setup.executable.as_os_str()).map_err(failed)?;
    let args = [&setup.name].into_iter().chain(&setup.args);
    let args = args.map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut argv: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());

    landlock::confine(setup)?;
    process::keep_only(&[socket.as_raw_fd()]).map_err(failed)?;
    process::default_signals();
    // SAFETY: all of these end with 0, or with a null pointer, and live until the call fails.
    unsafe { libc::execv(executable.as_ptr(), argv.as_ptr()) };
    Err(failed(last_error()))
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::INVAL)
}
