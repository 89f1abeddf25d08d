//! What the plugin would inherit of the VMM's importance to the host, and does not.
#![allow(unsafe_code, reason = "rustix has none of these calls")]

use std::fs;

use rustix::io::Errno;

use super::fault::{Fault, Part};
use crate::process::{as_errno, last_error};

/// Scheduling policies that outweigh those of ordinary processes (sched(7)).
const REAL_TIME: [i32; 3] = [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE];

/// `IOPRIO_CLASS_RT` and `IOPRIO_CLASS_SHIFT` of `linux/ioprio.h`.
const IO_REAL_TIME: i64 = 1;
const IO_CLASS_SHIFT: u32 = 13;
/// `IOPRIO_WHO_PROCESS`.
const IO_WHO_PROCESS: i64 = 1;

/// Gives this process, and all that come from it, the priority of any process where it has a higher one: scheduling policy,
/// nice value, priority at disks, and protection from the OOM killer. A lower one stays.
pub(super) fn lower() -> Result<(), Fault> {
    let failed = Fault::of(Part::Priority);
    // SAFETY: plain numbers.
    let policy = checked(unsafe { libc::sched_getscheduler(0) }.into()).map_err(&failed)?;
    if REAL_TIME.map(i64::from).contains(&(policy & !i64::from(libc::SCHED_RESET_ON_FORK))) {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: `none` is what the call reads.
        checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const none) }.into()).map_err(&failed)?;
    }
    // The bare call returns 20 minus the nice value, 1 to 40.
    // SAFETY: plain numbers.
    let nice = 20 - checked(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) }).map_err(&failed)?;
    if nice < 0 {
        // SAFETY: plain numbers.
        checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) }.into()).map_err(&failed)?;
    }
    // SAFETY: plain numbers.
    let io = checked(unsafe { libc::syscall(libc::SYS_ioprio_get, IO_WHO_PROCESS, 0) }).map_err(&failed)?;
    if io >> IO_CLASS_SHIFT == IO_REAL_TIME {
        // SAFETY: plain numbers; 0 is no class, by which the nice value counts.
        checked(unsafe { libc::syscall(libc::SYS_ioprio_set, IO_WHO_PROCESS, 0, 0) }).map_err(&failed)?;
    }
    lower_oom_protection().map_err(|error| Fault::new(Part::Priority, OOM, as_errno(&error)))
}

const OOM: &str = "/proc/self/oom_score_adj";

fn lower_oom_protection() -> std::io::Result<()> {
    if fs::read_to_string(OOM)?.starts_with('-') { fs::write(OOM, "0") } else { Ok(()) }
}

/// What a call returned, unless it failed.
fn checked(result: i64) -> Result<i64, Errno> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

/// Puts the process's personality to the usual one: the plugin's addresses are random whatever the VMM's are.
pub(super) fn reset_personality() -> Result<(), Fault> {
    // SAFETY: a plain number.
    checked(unsafe { libc::personality(0) }.into()).map(drop).map_err(Fault::of(Part::Priority))
}
