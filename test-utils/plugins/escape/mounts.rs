//! Mounts and namespaces.

use crate::{Attempt, Verdict, failed, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("mount", mount),
    ("remount-the-root", remount_the_root),
    ("unmount", unmount),
    ("new-mount-calls", new_mount_calls),
    ("chroot", chroot),
    ("pivot-root", pivot_root),
    ("unshare", unshare),
    ("nested-user-namespace", nested_user_namespace),
    ("clone-into-namespaces", clone_into_namespaces),
    ("setns", setns),
    ("set-host-name", set_host_name),
];

fn mount(_: &[String]) -> Verdict {
    for (source, kind, flags) in [(c"tmpfs", c"tmpfs", 0), (c"proc", c"proc", 0), (c"/usr", c"none", libc::MS_BIND)] {
        let nothing = std::ptr::null();
        // SAFETY: all strings end with 0.
        let mounted = unsafe { libc::mount(source.as_ptr(), c"/etc".as_ptr(), kind.as_ptr(), flags, nothing) };
        refused("mount", mounted)?;
    }
    Ok(())
}

fn remount_the_root(_: &[String]) -> Verdict {
    for at in [c"/", c"/usr/lib", c"/proc"] {
        let (nothing, flags) = (std::ptr::null(), libc::MS_REMOUNT | libc::MS_BIND);
        // SAFETY: all strings end with 0.
        refused("remount", unsafe { libc::mount(nothing, at.as_ptr(), nothing, flags, nothing.cast()) })?;
    }
    failed("writing", std::fs::File::create("/planted"))
}

fn unmount(_: &[String]) -> Verdict {
    for at in [c"/", c"/usr/lib", c"/proc", c"/dev/null"] {
        // SAFETY: the string ends with 0.
        refused("umount2", unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) })?;
    }
    Ok(())
}

fn new_mount_calls(_: &[String]) -> Verdict {
    // SAFETY: all strings end with 0, the others are plain numbers; `attributes` has the size that is told.
    unsafe {
        refused("fsopen", libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))?;
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), libc::OPEN_TREE_CLONE);
        refused("open_tree", tree)?;
        let root = (libc::AT_FDCWD, c"/usr/lib".as_ptr());
        refused("move_mount", libc::syscall(libc::SYS_move_mount, root.0, root.1, root.0, c"/etc".as_ptr(), 0))?;
        let attributes =
            libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
        let size = size_of::<libc::mount_attr>();
        refused("mount_setattr", libc::syscall(libc::SYS_mount_setattr, root.0, root.1, 0, &raw const attributes, size))
    }
}

fn chroot(_: &[String]) -> Verdict {
    // SAFETY: the string ends with 0.
    refused("chroot", unsafe { libc::chroot(c"/usr/lib".as_ptr()) })
}

fn pivot_root(_: &[String]) -> Verdict {
    // SAFETY: the strings end with 0.
    refused("pivot_root", unsafe { libc::syscall(libc::SYS_pivot_root, c"/usr/lib".as_ptr(), c"/usr/lib".as_ptr()) })
}

fn unshare(_: &[String]) -> Verdict {
    for (name, flag) in [
        ("mount", libc::CLONE_NEWNS),
        ("PID", libc::CLONE_NEWPID),
        ("network", libc::CLONE_NEWNET),
        ("IPC", libc::CLONE_NEWIPC),
        ("UTS", libc::CLONE_NEWUTS),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ] {
        // SAFETY: plain numbers.
        refused(name, unsafe { libc::unshare(flag) })?;
    }
    Ok(())
}

/// In a user namespace of its own it would have every capability, over what belongs to that.
fn nested_user_namespace(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    refused("a user namespace", unsafe { libc::unshare(libc::CLONE_NEWUSER) })
}

fn clone_into_namespaces(_: &[String]) -> Verdict {
    for flags in [libc::CLONE_NEWUSER, libc::CLONE_NEWUSER | libc::CLONE_NEWNS, libc::CLONE_NEWNS, libc::CLONE_NEWPID] {
        // SAFETY: without a stack of its own the child is a copy, as of fork.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        refused("clone", pid)?;
    }
    Ok(())
}

fn setns(_: &[String]) -> Verdict {
    for process in ["1", "self"] {
        for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let name = format!("/proc/{process}/ns/{namespace}");
            let file = std::ffi::CString::new(name.as_str()).map_err(|error| error.to_string())?;
            // SAFETY: the string ends with 0; where the first call fails, the second does.
            let set = unsafe { libc::setns(libc::open(file.as_ptr(), libc::O_RDONLY), 0) };
            refused(&name, set)?;
        }
    }
    Ok(())
}

fn set_host_name(_: &[String]) -> Verdict {
    // SAFETY: as long as is told.
    refused("sethostname", unsafe { libc::sethostname(c"x".as_ptr(), 1) })
}
