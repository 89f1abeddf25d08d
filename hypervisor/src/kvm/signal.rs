//! The signal that gets a vCPU's thread out of the guest.
#![allow(unsafe_code, reason = "tgkill has no safe wrapper")]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use rustix::process::Pid;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::{Error, Result};

/// Nothing is to be done: that the signal arrives is what ends `KVM_RUN`.
extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

/// Installs, once for the process, the handler of the kick signal, `SIGRTMIN`.
pub(super) fn install_kick_handler() -> Result<()> {
    static INSTALLED: OnceLock<std::result::Result<(), errno::Error>> = OnceLock::new();
    (*INSTALLED.get_or_init(|| register_signal_handler(SIGRTMIN(), ignore)))
        .map_err(|errno| Error::System { what: "sigaction for the kick signal", source: errno.into() })
}

/// Unblocks the kick signal in this thread.
pub(super) fn let_kick_through() {
    // It fails for numbers that are no signals only.
    let _ = unblock_signal(SIGRTMIN());
}

/// Sends the kick signal to a thread of this process. One that is gone is no error.
pub(super) fn interrupt(thread: Pid) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: tgkill takes plain numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread.as_raw_nonzero().get(), SIGRTMIN()) };
}
