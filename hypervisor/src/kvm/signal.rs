//! The signal that gets a vCPU's thread out of the guest: SIGURG.
//!
//! A standard signal needs no entry in the queue of pending signals, which the kernel counts for a user
//! (`RLIMIT_SIGPENDING`): a plugin that has used its user's entries up cannot keep it from arriving. Of the standard signals
//! SIGURG is ignored by default and has no meaning to a program that asks for no urgent data of its sockets.
//!
//! A program that has a handler of its own for SIGURG keeps it, since `KVM_RUN` returns for any signal that is handled. Where
//! the signal is ignored, by default or by wish, a handler is installed that does nothing.
#![allow(unsafe_code, reason = "sigaction and tgkill have no safe wrapper")]

use std::ffi::c_int;
use std::io;

use libc::{SIG_DFL, SIG_IGN, SIGURG};
use rustix::process::Pid;
use vmm_sys_util::signal::unblock_signal;

use crate::{Error, Result};

/// Nothing is to be done: that the signal arrives is what ends `KVM_RUN`.
extern "C" fn do_nothing(_: c_int) {}

/// Installs the handler of the kick signal where it has none, so that the kernel would drop the signal.
pub(super) fn ensure_kick_handler() -> Result<()> {
    let failed = |source| Error::System { what: "sigaction for the kick signal", source };
    let before = sigaction(None).map_err(failed)?;
    if before.sa_sigaction != SIG_DFL && before.sa_sigaction != SIG_IGN {
        return Ok(());
    }
    // SAFETY: a `sigaction` of zeros is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(c_int) as libc::sighandler_t;
    // The threads of vCPUs may be those of a program that uses alternate stacks. System calls of other threads that the signal
    // happens to interrupt are begun again; `KVM_RUN` never is.
    action.sa_flags = libc::SA_ONSTACK | libc::SA_RESTART;
    sigaction(Some(&action)).map(drop).map_err(failed)
}

/// Sets the disposition of the kick signal, if there is one to be set: what it was.
fn sigaction(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    // SAFETY: a `sigaction` of zeros is a valid one.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or a `sigaction` that is borrowed, and `before` has room for one.
    match unsafe { libc::sigaction(SIGURG, new, &raw mut before) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unblocks the kick signal in this thread.
pub(super) fn unblock_kick() {
    // It fails for numbers that are no signals only.
    let _ = unblock_signal(SIGURG);
}

/// Sends the kick signal to a thread of this process. The caller sees by the vCPU whether it arrived, and sends it again:
/// there is nothing that the result could add.
pub(super) fn interrupt(thread: Pid) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: tgkill takes plain numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread.as_raw_nonzero().get(), SIGURG) };
}
