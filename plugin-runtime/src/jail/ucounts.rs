//! What the kernel counts for each user namespace (`/proc/sys/user`), of which the jail may have nothing.
//!
//! These are namespaces of every kind, instances and watches of inotify, groups and marks of fanotify. What is made in the
//! jail counts for the jail's namespace and also for the user who made that, the VMM's. With a limit of 0 in the jail's
//! namespace, the plugin can neither make one nor use up the VMM's user's.

use std::fs::{self, File};
use std::io::Write;

use rustix::io::Errno;

use super::fault::{Fault, Part};
use crate::process::as_errno;

const DIRECTORY: &str = "/proc/sys/user";

/// The limits of the jail's user namespace, opened while `/proc` shows them.
pub(super) struct Ucounts(Vec<(String, File)>);

impl Ucounts {
    /// Opens each that the kernel has, in the user namespace that the caller is in.
    pub(super) fn open() -> Result<Self, Fault> {
        let mut limits = Vec::new();
        for entry in fs::read_dir(DIRECTORY).map_err(failed(DIRECTORY))? {
            let path = entry.map_err(failed(DIRECTORY))?.path();
            let name = path.display().to_string();
            if path.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(b"max_")) {
                let file = File::options().write(true).open(&path).map_err(failed(&name))?;
                limits.push((name, file));
            }
        }
        // Where the kernel has been built without some namespaces, it counts them all the same.
        if limits.is_empty() { Err(Fault::new(Part::Nesting, DIRECTORY, Errno::NOENT)) } else { Ok(Self(limits)) }
    }

    /// Sets each limit to 0. Mounts that are attached nowhere count as mount namespaces, so there must be none any more.
    pub(super) fn forbid(mut self) -> Result<(), Fault> {
        for (name, file) in &mut self.0 {
            file.write_all(b"0").map_err(failed(name))?;
        }
        Ok(())
    }
}

fn failed(name: &str) -> impl Fn(std::io::Error) -> Fault {
    move |error| Fault::new(Part::Nesting, name, as_errno(&error))
}
