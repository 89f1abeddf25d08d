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
    let failed = |_| Error::system("resetting signals")(io::Error::last_os_error());
    // SAFETY: a `sigset_t` of zeros is valid.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is what the first call writes and the second reads. No thread has been started.
    let set = unsafe {
        libc::sigemptyset(&raw mut none) | libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    checked(set).map_err(failed)?;
    // SAFETY: the default action runs no code of this program's.
    let old = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    checked(if old == libc::SIG_ERR { -1 } else { 0 }).map_err(failed)
}

fn checked(result: i32) -> Result<(), ()> {
    if result == 0 { Ok(()) } else { Err(()) }
}
