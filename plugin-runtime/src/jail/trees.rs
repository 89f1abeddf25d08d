//! Files and directories of the host's, taken out of its file system as mounts that are attached nowhere yet.
#![allow(unsafe_code, reason = "rustix has no mount_setattr")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::process::last_error;

/// What the plugin may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read it, and map it as code.
    Read,
    /// Read and write it.
    Write,
}

/// A mount that is attached nowhere.
pub(super) struct Tree {
    pub(super) mount: OwnedFd,
    pub(super) is_directory: bool,
}

impl Tree {
    /// Takes what is at `source`, with all that is mounted below it. Symbolic links on the way are followed where
    /// `resolve` does not forbid it.
    ///
    /// It takes part in no mount event of the host's from here on.
    pub(super) fn open(source: &Path, access: Access, resolve: ResolveFlags) -> Result<Self, Errno> {
        let file = openat2(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let file_type = FileType::from_raw_mode(fstat(&file)?.st_mode);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = open_tree(&file, "", flags)?;
        let mut attributes = libc::MOUNT_ATTR_NOSUID;
        if !matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice) {
            attributes |= libc::MOUNT_ATTR_NODEV;
        }
        attributes |= match access {
            Access::Read => libc::MOUNT_ATTR_RDONLY,
            Access::Write => libc::MOUNT_ATTR_NOEXEC,
        };
        restrict(mount.as_fd(), attributes)?;
        Ok(Self { mount, is_directory: file_type == FileType::Directory })
    }
}

/// Adds `MOUNT_ATTR_*` attributes to a mount and all below it, and takes it out of the host's propagation.
fn restrict(mount: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    set_attributes(mount, attributes, libc::AT_RECURSIVE)
}

/// The same for the mount alone.
pub(super) fn restrict_alone(mount: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    set_attributes(mount, attributes, 0)
}

/// Maps the owners of files in a mount and all below it by a user namespace.
pub(super) fn map_owners(mount: BorrowedFd<'_>, owners: BorrowedFd<'_>) -> Result<(), Errno> {
    let userns_fd = owners.as_raw_fd() as u64;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set(mount, attributes, libc::AT_RECURSIVE)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: u64, flags: i32) -> Result<(), Errno> {
    let attributes =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set(mount, attributes, flags)
}

fn set(mount: BorrowedFd<'_>, attributes: libc::mount_attr, flags: i32) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, the path is empty and ends with 0, and `attributes` has the size that is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}
