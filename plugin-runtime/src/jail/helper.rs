//! The helper: the VMM's program once more, which makes the namespaces and exits.
#![allow(unsafe_code, reason = "clone3, and descriptors that were inherited and are known by their numbers alone")]

use std::env::ArgsOs;
use std::ffi::{OsStr, OsString};
use std::iter::Skip;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::fault::{Fault, Part};
use super::ids::Ids;
use super::init::Init;
use super::layout::Layout;
use super::reports::{Reports, Words};
use super::setup::Setup;
use super::{owners, priority};
use crate::error::Error;
use crate::process::last_error;

/// The first argument of a program that is to be the helper.
const ARGUMENT: &str = "--be-the-helper-that-makes-a-jail";

/// What a program does that was started as the helper; `None` if it was not.
///
/// A program that runs VMs with jailed plugins calls it as the first thing in its `main`, and ends with the code that
/// comes back. It must not have started a thread before.
pub fn helper_main() -> Option<ExitCode> {
    let mut args = helpers_arguments()?;
    IS_HELPING.store(true, Ordering::SeqCst);
    let [setup, reports, socket, own_id] = [args.next(), args.next(), args.next(), args.next()].map(inherited);
    let (Some(setup), Some(reports), Some(socket)) = (setup, reports, socket) else {
        return Some(ExitCode::from(2));
    };
    let reports = Reports::inherited(reports);
    Some(match help(setup, &reports, socket, own_id) {
        Ok(code) => code,
        Err(fault) => {
            // With the VMM gone there is nobody to tell.
            let _ = reports.send(&Words::Failed(fault));
            ExitCode::FAILURE
        }
    })
}

/// Whether this process has been the helper, so that its arguments name nothing any more.
static IS_HELPING: AtomicBool = AtomicBool::new(false);

/// The arguments behind [`ARGUMENT`]; `None` where this process is no helper.
fn helpers_arguments() -> Option<Skip<ArgsOs>> {
    let is_helper = std::env::args_os().nth(1).as_deref() == Some(OsStr::new(ARGUMENT));
    is_helper.then(|| std::env::args_os().skip(2))
}

/// Fails where this process was started as the helper: its `main` has not called [`helper_main`], and would start VMs, whose
/// jails need a helper each, without end. The VMM that waits for the helper gets a report at once.
pub(crate) fn refuse_in_helper() -> Result<(), Error> {
    let Some(mut args) = helpers_arguments() else { return Ok(()) };
    if !IS_HELPING.swap(true, Ordering::SeqCst)
        && let Some(reports) = inherited(args.nth(1))
    {
        // With the VMM gone there is nobody to tell.
        let _ = Reports::inherited(reports).send(&Words::Failed(Fault::of(Part::Helper)(Errno::SRCH)));
    }
    Err(Error::InHelper)
}

/// The helper's arguments: the setup, the reports, the plugin's socket and, where the plugin has an id of its own, its lock.
pub(super) fn arguments(descriptors: &[RawFd]) -> Vec<OsString> {
    let numbers = descriptors.iter().map(|number| OsString::from(number.to_string()));
    [ARGUMENT.into()].into_iter().chain(numbers).collect()
}

fn inherited(number: Option<OsString>) -> Option<OwnedFd> {
    let number = number?.to_str()?.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: the VMM opened it for the helper, and each number is given once. Nothing else here knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

fn help(setup: OwnedFd, reports: &Reports, socket: OwnedFd, own_id: Option<OwnedFd>) -> Result<ExitCode, Fault> {
    let failed = Fault::of(Part::Helper);
    let setup = Setup::from_memfd(setup)?;
    if !setup.realtime {
        priority::lower()?;
    }
    priority::reset_personality()?;
    let ids = Ids::new(&setup)?;
    let layout = Layout::new(&setup);
    // Root sees more here than in a namespace. An ordinary user can take nothing here.
    let taken = if ids.privileged { Some(layout.take()?) } else { None };
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(&failed)?;
    let inits_reports = reports.try_clone().map_err(&failed)?;
    if let (Some(taken), Some(user), true) = (&taken, setup.user, setup.has_own_id && !setup.mounts.is_empty()) {
        match owners::exchanged_with_nobody(user.uid) {
            Ok(owners) => taken.map_owners(owners.as_fd()).map_err(Fault::of(Part::Owners))?,
            // Root without CAP_SETFCAP, as in some containers and services, may not map root's files (user_namespaces(7)).
            Err(Errno::PERM) => {}
            Err(errno) => return Err(Fault::of(Part::Owners)(errno)),
        }
    }
    match enter_namespaces().map_err(Fault::of(Part::Namespaces))? {
        Some(init) => {
            drop(told);
            reports.send(&Words::Bore(init.as_raw_nonzero().get())).map_err(&failed)?;
            ids.write_maps(init)?;
            rustix::io::write(&tell, &[1]).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            drop(tell);
            let code = Init { setup, ids, layout, taken, socket, reports: inits_reports, _own_id: own_id }.run(told);
            // SAFETY: ends this process at once: nothing is left to be cleaned up.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Starts a process in namespaces of its own, as a child of this one's parent, so that the VMM learns of its end and can
/// wait for it. `None` in that process.
fn enter_namespaces() -> Result<Option<Pid>, Errno> {
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWNET;
    // SAFETY: a `clone_args` of zeros is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PARENT) as u64;
    // SAFETY: memory is copied and this process has one thread, so it is a fork; `args` has the size that is told.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    // Filters of containers keep it away, since they cannot look at its flags, so that clone is called.
    if pid == -1 && last_error() == Errno::NOSYS {
        // SAFETY: as above; without a stack of its own the child has a copy of this one.
        pid = unsafe { libc::syscall(libc::SYS_clone, args.flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    }
    match pid {
        -1 => Err(last_error()),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}
