//! Putting a plugin's file system together, and entering it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, fstat, mkdirat, openat, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::fault::{Fault, Part};
use super::layout::{Layout, Placed, Taken};
use super::trees::restrict_alone;
use crate::process::as_errno;

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOEXEC;

/// Makes `layout` this process's file system, and leaves the old one.
pub(super) fn enter(layout: &Layout, taken: Taken) -> Result<(), Fault> {
    let failed = Fault::of(Part::Root);
    // What is made here must be readable whatever the user hides from others. The plugin has the user's again.
    let umask = rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let root = match taken.root {
        Some(tree) => Root::of_directory(tree.mount)?,
        None => Root::empty().map_err(&failed)?,
    };
    for (at, to) in &layout.links {
        root.link(at, to).map_err(Fault::at(Part::MountPoint, at))?;
    }
    for Placed { target, tree, .. } in taken.places {
        let point = root.mount_point(&target, tree.is_directory).map_err(Fault::at(Part::MountPoint, &target))?;
        attach(tree.mount.as_fd(), point.as_fd()).map_err(Fault::at(Part::MountPoint, &target))?;
    }
    // While the host's is still to be seen: the kernel makes no new one for those who have none.
    root.mount_proc()?;
    root.finish().map_err(failed)?;
    rustix::process::umask(umask);
    Ok(())
}

/// A root directory, attached on top of the old one.
struct Root {
    directory: OwnedFd,
    /// File systems of the jail's own, in which mount points can be made.
    own: Vec<(Dev, OwnedFd)>,
}

impl Root {
    fn empty() -> Result<Self, Errno> {
        let directory = tmpfs()?;
        attach_on_top(directory.as_fd())?;
        let own = vec![(fstat(&directory)?.st_dev, directory.try_clone().map_err(|error| as_errno(&error))?)];
        Ok(Self { directory, own })
    }

    /// `mount` as it is, with a `/dev` of its own.
    fn of_directory(mount: OwnedFd) -> Result<Self, Fault> {
        let (failed, path) = (Fault::of(Part::Root), Path::new("/dev"));
        attach_on_top(mount.as_fd()).map_err(&failed)?;
        let mut root = Self { directory: mount, own: Vec::new() };
        let point = root.mount_point(path, true).map_err(Fault::at(Part::MountPoint, path))?;
        let dev = tmpfs().map_err(&failed)?;
        attach(dev.as_fd(), point.as_fd()).map_err(&failed)?;
        root.own.push((fstat(&dev).map_err(failed)?.st_dev, dev));
        Ok(root)
    }

    /// The place at `target`, made where it is missing. A symbolic link on the way, which a plugin may have put there in an
    /// earlier life, leads nowhere.
    fn mount_point(&self, target: &Path, is_directory: bool) -> Result<OwnedFd, Errno> {
        let (parent, name) = (target.parent().ok_or(Errno::INVAL)?, target.file_name().ok_or(Errno::INVAL)?);
        let parent = self.directory(parent)?;
        if is_directory {
            return self.open_or_make_directory(parent.as_fd(), name.as_ref());
        }
        if self.can_make_in(parent.as_fd())? {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            match openat(&parent, name, flags, Mode::from_raw_mode(0o444)) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        let file = openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::Symlink => Err(Errno::LOOP),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Ok(file),
        }
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut directory = self.directory.try_clone().map_err(|error| as_errno(&error))?;
        for component in path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => directory = self.open_or_make_directory(directory.as_fd(), name.as_ref())?,
                _ => return Err(Errno::INVAL),
            }
        }
        Ok(directory)
    }

    fn open_or_make_directory(&self, parent: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) if self.can_make_in(parent)? => {
                mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                openat(parent, name, flags, Mode::empty())
            }
            opened => opened,
        }
    }

    fn can_make_in(&self, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        let dev = statat(directory, "", AtFlags::EMPTY_PATH)?.st_dev;
        Ok(self.own.iter().any(|(own, _)| *own == dev))
    }

    fn link(&self, at: &Path, to: &std::ffi::OsStr) -> Result<(), Errno> {
        let (parent, name) = (at.parent().ok_or(Errno::INVAL)?, at.file_name().ok_or(Errno::INVAL)?);
        symlinkat(to, self.directory(parent)?, name)
    }

    /// Processes only: what else `/proc` shows is the host's.
    fn mount_proc(&self) -> Result<(), Fault> {
        let make = || {
            let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "subset", "pid")?;
            fsconfig_create(&context)?;
            let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        };
        let proc = make().map_err(Fault::of(Part::Proc))?;
        let path = Path::new("/proc");
        let point = self.mount_point(path, true).map_err(Fault::at(Part::MountPoint, path))?;
        attach(proc.as_fd(), point.as_fd()).map_err(Fault::of(Part::Proc))
    }

    /// Makes it the root directory, and lets go of the old one.
    fn finish(self) -> Result<(), Errno> {
        for (_, mount) in &self.own {
            seal(mount.as_fd())?;
        }
        fchdir(&self.directory)?;
        // The old root comes to lie on top of the new one, and is taken off.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        chdir("/")
    }
}

/// An empty file system, which can still be written to.
fn tmpfs() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0755")?;
    // Directories and empty files take none of it.
    fsconfig_set_string(&context, "size", "64k")?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Onto the root directory that is to be left.
fn attach_on_top(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    attach(mount, openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?.as_fd())
}

fn attach(mount: BorrowedFd<'_>, point: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", point, "", flags)
}

/// Nothing can be written to it any more.
fn seal(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    restrict_alone(mount, READ_ONLY)
}
