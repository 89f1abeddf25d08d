//! Who owns the files in a mount: on disk user 65534 in place of the id that the plugin has this time.
//!
//! A plugin of root's has another id each time, and must find its own files again. So its mounts are id-mapped
//! (mount_setattr(2)): what belongs to 65534 on disk belongs to the plugin in the mount, and the other way round.
#![allow(unsafe_code, reason = "fork, unshare and _exit")]

use std::fmt::Write;
use std::fs::{self, File};
use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::config::User;
use crate::process::{as_errno, last_error};

/// The user namespace that maps a mount's owners, for a plugin whose user and group are `id`.
pub(super) fn exchanged_with_nobody(id: u32) -> Result<OwnedFd, Errno> {
    user_namespace(&exchange(User::NOBODY.uid, id))
}

/// A map of all ids to themselves (user_namespaces(7)), but of these two to each other.
fn exchange(one: u32, other: u32) -> String {
    let (low, high) = (one.min(other), one.max(other));
    let mut map = String::new();
    // 4294967295 stands for no id.
    for (inside, outside, count) in [
        (0, 0, low),
        (low, high, 1),
        (low + 1, low + 1, high - low - 1),
        (high, low, 1),
        (high + 1, high + 1, u32::MAX - (high + 1)),
    ] {
        if count > 0 {
            // Writing to a string does not fail.
            let _ = writeln!(map, "{inside} {outside} {count}");
        }
    }
    map
}

/// A user namespace with this map of users and of groups. No process is left in it.
fn user_namespace(map: &str) -> Result<OwnedFd, Errno> {
    let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // SAFETY: this process has one thread, so the child may do what its parent may.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            drop(ours);
            enter_and_wait(&childs);
            // SAFETY: ends this process at once: nothing is left to be cleaned up.
            unsafe { libc::_exit(0) }
        }
        pid => {
            drop(childs);
            let namespace = entered(&ours).and_then(|()| mapped(pid, map));
            drop(ours);
            retry_on_intr(|| waitpid(Pid::from_raw(pid), WaitOptions::empty()))?;
            namespace
        }
    }
}

/// Enters a user namespace of its own, reports the errno, 0 for none, and waits until the helper has what it needs, or is gone.
fn enter_and_wait(helper: &OwnedFd) {
    // SAFETY: this process has one thread, and a user namespace shares nothing of Rust's.
    let entered = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) };
    let errno = entered.map_or_else(Errno::raw_os_error, |()| 0);
    // With the helper gone nobody waits for it.
    let _ = rustix::io::write(helper, &errno.to_ne_bytes());
    let _ = retry_on_intr(|| rustix::io::read(helper, &mut [0; 1]));
}

/// Whether the child has entered its namespace.
fn entered(child: &OwnedFd) -> Result<(), Errno> {
    let mut errno = [0; 4];
    match (retry_on_intr(|| rustix::io::read(child, &mut errno))?, i32::from_ne_bytes(errno)) {
        (4, 0) => Ok(()),
        (4, errno) => Err(Errno::from_raw_os_error(errno)),
        _ => Err(Errno::CHILD),
    }
}

fn mapped(pid: i32, map: &str) -> Result<OwnedFd, Errno> {
    let file = |name| format!("/proc/{pid}/{name}");
    let mapped = fs::write(file("uid_map"), map).and_then(|()| fs::write(file("gid_map"), map));
    mapped.and_then(|()| File::open(file("ns/user"))).map(OwnedFd::from).map_err(|error| as_errno(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_are_exchanged_and_all_others_stay() {
        assert_eq!(exchange(5, 9), "0 0 5\n5 9 1\n6 6 3\n9 5 1\n10 10 4294967285\n");
        assert_eq!(exchange(9, 5), exchange(5, 9));
        assert_eq!(exchange(1, 2), "0 0 1\n1 2 1\n2 1 1\n3 3 4294967292\n");
        assert_eq!(exchange(1, u32::MAX - 1), "0 0 1\n1 4294967294 1\n2 2 4294967292\n4294967294 1 1\n");
    }
}
