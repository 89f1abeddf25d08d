//! What this process inherited that would keep it from its work, put right before anything else happens.
//!
//! docs/security.md lists all that is inherited, and what becomes of it.
#![allow(unsafe_code, reason = "signals are set by calls of the C library's")]

use std::io;

use crate::error::Error;

/// Blocks no signal, and lets the kernel keep the status of children.
///
/// A parent may have blocked SIGTERM, which ends a VM, or ignored SIGCHLD, by which children's ends are lost.
pub(crate) fn reset() -> Result<(), Error> {
    // SAFETY: a `sigset_t` of zeros is valid.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is what the call writes.
    check(unsafe { libc::sigemptyset(&raw mut none) } == 0)?;
    // SAFETY: `none` is what the call reads. No thread has been started.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) } == 0)?;
    // SAFETY: the default action runs no code of this program's.
    check(unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } != libc::SIG_ERR)
}

fn check(succeeded: bool) -> Result<(), Error> {
    if succeeded { Ok(()) } else { Err(Error::system("resetting signals")(io::Error::last_os_error())) }
}
