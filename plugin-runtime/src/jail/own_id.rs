//! A user id that no other live plugin process has.
//!
//! The kernel counts many things by user: descriptors in flight, epoll watches, pipe pages, keys. Where two plugins share a user,
//! one of them can use up what the other needs. So each process of root's plugins gets an id of its own, and an ordinary user's
//! where a range of subordinate ids was given.
//!
//! An id is taken by a lock on one byte of a file, at the id's own offset. The lock belongs to the open file, which the VMM and
//! the jail's init share: the kernel releases it when both have ended, however they end. Init closes its files a moment before
//! the kernel ends the other processes in its namespaces; the VMM, which waits for that, holds the lock meanwhile, unless it was
//! killed itself.
#![allow(unsafe_code, reason = "rustix has no locks of open files")]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::config::{IdRange, JailConfig, User};
use super::fault::{Fault, Part};
use super::ids;
use crate::process::{as_errno, last_error};

/// Where root's file lies. `/run` is emptied when the host starts, and only root may write to it.
const RUN: &str = "/run";
/// The variable with the directory of an ordinary user's that is as `/run`.
const RUN_VARIABLE: &str = "XDG_RUNTIME_DIR";
/// The directory of our own there.
const DIRECTORY: &str = "outboard";
/// The file. It stays empty: a lock needs no byte to be there.
const FILE: &str = "ids";

/// An id, taken for as long as a copy of the descriptor is open in any process.
#[derive(Debug)]
pub(crate) struct OwnId {
    id: u32,
    lock: OwnedFd,
}

impl OwnId {
    /// The id for the plugin that `config` describes; `None` where its user is not one of the range: the configuration names a
    /// user, or no range and the VMM may not run a plugin as another user. An ordinary user's range is one of its subordinate
    /// ids.
    ///
    /// Where no id of the default range can be taken, a warning says that root's plugins share a user.
    pub(super) fn for_plugin(config: &JailConfig) -> Result<Option<Self>, Fault> {
        let is_root = geteuid().is_root();
        let may_choose = is_root && ids::is_privileged().map_err(Fault::of(Part::User))?;
        if config.user.is_some() || (!may_choose && config.id_range.is_none()) {
            return Ok(None);
        }
        match (Self::take(config.id_range.unwrap_or_default()), config.id_range) {
            (Ok(id), _) => Ok(Some(id)),
            (Err(fault), Some(_)) => Err(fault),
            (Err(fault), None) => {
                tracing::warn!("the plugin has no user of its own and shares user 65534 with others: {fault}");
                Ok(None)
            }
        }
    }

    fn take(range: IdRange) -> Result<Self, Fault> {
        for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
            let text =
                fs::read_to_string(map).map_err(|error| Fault::at(Part::User, map.as_ref())(as_errno(&error)))?;
            if !is_mapped(range, &text) {
                return Err(Fault::at(Part::User, map.as_ref())(Errno::INVAL));
            }
        }
        let directory = if geteuid().is_root() { Some(RUN.into()) } else { std::env::var_os(RUN_VARIABLE) };
        let directory = directory.ok_or_else(|| Fault::new(Part::User, RUN_VARIABLE, Errno::NOENT))?;
        let directory = Path::new(&directory).join(DIRECTORY);
        let path = directory.join(FILE);
        let lock = open_file(&directory).map_err(Fault::at(Part::User, &path))?;
        // Another beginning each time, so that an id is not used again soon: keys and pipes may outlive their process a little.
        let begin = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs() % range.count();
        for nth in 0..range.count() {
            let id = range.first() + (begin + nth) % range.count();
            if lock_byte(lock.as_fd(), id).map_err(Fault::at(Part::User, &path))? {
                return Ok(Self { id, lock });
            }
        }
        Err(Fault::at(Part::User, &path)(Errno::BUSY))
    }

    /// The plugin's user: the group has the same number.
    pub(super) fn user(&self) -> User {
        User { uid: self.id, gid: self.id }
    }
}

impl AsFd for OwnId {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Opens the file in `directory`, makes both where they are missing, and sees that they are this user's alone: who can open the
/// file can take every id.
fn open_file(path: &Path) -> Result<OwnedFd, Errno> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | flags, Mode::empty())?;
    let file = openat(&directory, FILE, OFlags::RDWR | OFlags::CREATE | flags, Mode::RUSR | Mode::WUSR)?;
    for (opened, file_type, others) in [(&directory, FileType::Directory, 0o022), (&file, FileType::RegularFile, 0o066)]
    {
        let status = fstat(opened)?;
        let is_own = status.st_uid == geteuid().as_raw() && status.st_mode & others == 0;
        if !is_own || FileType::from_raw_mode(status.st_mode) != file_type {
            return Err(Errno::ACCESS);
        }
    }
    Ok(file)
}

/// Locks the byte at `offset` for the open file; `false` if another open file has it locked.
fn lock_byte(file: BorrowedFd<'_>, offset: u32) -> Result<bool, Errno> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: i64::from(offset),
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the kernel reads `lock`, which has its layout.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match (locked, last_error()) {
        (0, _) => Ok(true),
        (_, Errno::AGAIN | Errno::ACCESS) => Ok(false),
        (_, errno) => Err(errno),
    }
}

/// Whether all ids of the range exist in the user namespace whose map (user_namespaces(7)) is `map`. They may not be spread over
/// several lines.
fn is_mapped(range: IdRange, map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let (first, count) = (first.unwrap_or(0), count.unwrap_or(0));
        let end = u64::from(range.first()) + u64::from(range.count());
        first <= u64::from(range.first()) && end <= first + count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_lie_in_one_line_of_the_map() {
        let range = IdRange::new(1000, 10).unwrap();
        let all = "         0          0 4294967295\n";
        for (map, expected) in [
            (all, true),
            ("0 100000 65536\n", true),
            ("0 0 1\n1000 5 10\n", true),
            ("0 0 1009\n", false),
            ("1001 0 100\n", false),
            ("0 0 1005\n1005 0 100", false),
            ("", false),
        ] {
            assert_eq!(is_mapped(range, map), expected, "{map:?}");
        }
        assert!(is_mapped(IdRange::default(), all));
    }

    #[test]
    fn a_byte_is_locked_once_until_all_copies_are_closed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || OwnedFd::from(fs::File::options().read(true).write(true).open(file.path()).unwrap());
        let (first, second) = (open(), open());
        let offset = IdRange::default().first();
        assert_eq!(lock_byte(first.as_fd(), offset), Ok(true));
        assert_eq!(lock_byte(second.as_fd(), offset), Ok(false));
        assert_eq!(lock_byte(second.as_fd(), offset + 1), Ok(true));
        let copy = first.try_clone().unwrap();
        drop(first);
        assert_eq!(lock_byte(second.as_fd(), offset), Ok(false));
        drop(copy);
        assert_eq!(lock_byte(second.as_fd(), offset), Ok(true));
    }
}
