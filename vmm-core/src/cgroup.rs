//! A control group that vCPU threads are moved into.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// The files by which a thread is moved: in version 2 of the kernel's control groups, and in version 1.
const FILES: [&str; 2] = ["cgroup.threads", "tasks"];

/// A control group, of version 1 or 2, open for threads to join.
///
/// A group of version 2 takes single threads only if it is threaded, in the same threaded domain as the process's own.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    file: File,
}

impl Cgroup {
    /// Opens the group whose directory `path` is.
    ///
    /// # Errors
    ///
    /// [`Error::Cgroup`] where `path` is no such directory, or this user may move no threads there.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |source| Error::Cgroup { path: path.to_owned(), source };
        // A named pipe in place of a group's file would otherwise be waited for.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        for name in FILES {
            match OpenOptions::new().write(true).custom_flags(nonblock).open(path.join(name)) {
                Ok(file) => return Ok(Self { path: path.to_owned(), file }),
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(error(source)),
            }
        }
        Err(error(io::Error::new(io::ErrorKind::NotFound, format!("no {} and no {} in it", FILES[0], FILES[1]))))
    }

    /// Moves the calling thread there.
    pub(crate) fn join(&self) -> Result<()> {
        self.write_own_id().map_err(|source| Error::Cgroup { path: self.path.clone(), source })
    }

    fn write_own_id(&self) -> io::Result<()> {
        // In one write, since the kernel takes each for a whole request.
        (&self.file).write_all(format!("{}\n", rustix::thread::gettid()).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_joins_by_its_own_id_in_the_newer_file_where_both_are() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["tasks", "cgroup.threads"] {
            let file = directory.path().join(name);
            fs::write(&file, "").unwrap();
            Cgroup::open(directory.path()).unwrap().join().unwrap();
            assert_eq!(fs::read_to_string(file).unwrap(), format!("{}\n", rustix::thread::gettid()));
        }
        assert_eq!(fs::read_to_string(directory.path().join("tasks")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_directory_that_is_no_group_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Cgroup::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&directory.path().display().to_string()) && error.contains("cgroup.threads"), "{error}");
    }
}
