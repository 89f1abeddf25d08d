//! The first process of the namespaces.
#![allow(unsafe_code, reason = "clone in a process of one thread")]

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, setsid, wait};
use rustix::system::sethostname;

use super::fault::{Fault, Part};
use super::ids::Ids;
use super::layout::{Layout, Taken};
use super::reports::{Reports, Words};
use super::setup::Setup;
use super::ucounts::Ucounts;
use super::{limits, plugin, privileges, root, user_limits};
use crate::process::last_error;

/// Init's exit code where it has waited without success for its helper.
pub(crate) const HELPER_IS_GONE: Errno = Errno::SRCH;

/// What init is born with.
pub(super) struct Init {
    pub(super) setup: Setup,
    pub(super) ids: Ids,
    pub(super) layout: Layout,
    /// What the helper took from the host; `None` where that is left to init.
    pub(super) taken: Option<Taken>,
    /// The plugin's socket.
    pub(super) socket: OwnedFd,
    pub(super) reports: Reports,
    /// Keeps the plugin's user id taken while this process lives.
    pub(super) _own_id: Option<OwnedFd>,
}

impl Init {
    /// Lives through it all: the exit code, which is an errno where the VMM could not be told how it went. `told` is readable
    /// once it is said who is who in the namespaces, and ends if that failed.
    pub(super) fn run(mut self, told: OwnedFd) -> i32 {
        let begun = self.reports.send(&Words::Born).and_then(|()| {
            match retry_on_intr(|| rustix::io::read(&told, &mut [0; 1]))? {
                0 => Err(HELPER_IS_GONE),
                _ => Ok(()),
            }
        });
        let ended = begun.and_then(|()| match self.confine().and_then(|()| self.start_plugin()) {
            Ok(plugin) => {
                let reports = self.reports;
                // Nothing of the plugin's is kept open here.
                drop(self.socket);
                close_standard_descriptors();
                outlive(plugin, &reports)
            }
            Err(fault) => self.reports.send(&Words::Failed(fault)),
        });
        ended.map_or_else(Errno::raw_os_error, |()| 0)
    }

    /// Makes this process as small as the plugin is to be.
    fn confine(&mut self) -> Result<(), Fault> {
        // As the VMM's user, who may see more than the plugin's.
        let taken = match self.taken.take() {
            Some(taken) => taken,
            None => self.layout.take()?,
        };
        self.ids.become_plugin()?;
        let ucounts = Ucounts::open()?;
        root::enter(&self.layout, taken)?;
        // In a user namespace of its own the plugin would have every capability over what else belongs to that.
        ucounts.forbid()?;
        sethostname(b"plugin").map_err(Fault::of(Part::HostName))?;
        limits::set(self.setup.limits)?;
        user_limits::lower()?;
        privileges::give_up()?;
        self.end_with_vmm().map_err(Fault::of(Part::Life))
    }

    /// The kernel kills this process when the VMM's thread that runs the VM ends; then all others in the namespaces end
    /// too. A session of its own keeps it from the VMM's terminal.
    fn end_with_vmm(&self) -> Result<(), Errno> {
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The VMM may have ended just before.
        let mut fds = [PollFd::new(&self.reports, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default()))?;
        if fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)) { Err(Errno::SRCH) } else { Ok(()) }
    }

    /// The plugin's process borrows this one's memory until it becomes the plugin; this one waits so long. To copy what is
    /// about to be dropped would make half the cost of starting it.
    fn start_plugin(&self) -> Result<Pid, Fault> {
        let mut stack = vec![0_u128; STACK / size_of::<u128>()];
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: `become_plugin` runs on a stack of its own, which ends where it is told, with a `Self` that outlives it:
        // this thread, the only one, goes on when that process has its own memory, or is gone.
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end;
            libc::clone(become_plugin, top.cast(), flags, std::ptr::from_ref(self).cast_mut().cast())
        };
        if pid < 0 {
            return Err(Fault::of(Part::Executable)(last_error()));
        }
        Pid::from_raw(pid).ok_or_else(|| Fault::of(Part::Executable)(Errno::SRCH))
    }
}

/// The bytes of the stack on which the plugin's process works until it is the plugin.
const STACK: usize = 0x40000;

extern "C" fn become_plugin(init: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it points to the caller's `Init`, which nobody changes meanwhile.
    let init = unsafe { &*init.cast::<Init>() };
    plugin::become_plugin(&init.setup, init.socket.as_fd(), &init.reports)
}

fn close_standard_descriptors() {
    for number in 0..3 {
        // SAFETY: from here on nothing in this process uses them.
        unsafe { libc::close(number) };
    }
}

/// Waits for whatever ends, and tells the VMM when it is the plugin.
fn outlive(plugin: Pid, reports: &Reports) -> Result<(), Errno> {
    loop {
        match retry_on_intr(|| wait(WaitOptions::empty()))? {
            Some((pid, status)) if pid == plugin => return reports.send(&Words::Ended(status.as_raw())),
            _ => {}
        }
    }
}
