//! What is where in a plugin's file system.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use super::config::Mount;
use super::fault::{Fault, Part};
use super::setup::Setup;
use super::trees::{Access, Tree, map_owners};

/// Where systems keep shared libraries and loaders. What of it is not there is left out.
const LIBRARIES: [&str; 6] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"];
/// What the loaders read to find libraries.
const LOADER_FILES: [&str; 2] = ["/etc/ld.so.cache", "/etc/ld-musl-x86_64.path"];
/// The devices of a plugin's `/dev`.
pub(super) const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"];
/// By this variable the VMM's user tells where further libraries are. What the executable itself says of that (its
/// `RUNPATH`) counts for nothing: it is the plugin's word, and could name any directory.
pub(super) const LIBRARY_VARIABLE: &str = "LD_LIBRARY_PATH";

/// What is where, and how it is to be opened.
pub(super) struct Layout {
    /// The directory of the host's that is the root, or `None` for one that is empty but for what follows.
    pub(super) root: Option<PathBuf>,
    /// Symbolic links: where, and to what.
    pub(super) links: Vec<(PathBuf, OsString)>,
    places: Vec<Place>,
}

struct Place {
    mount: Mount,
    /// Whether it may be missing.
    optional: bool,
    /// Whether the user named it.
    is_named: bool,
    resolve: ResolveFlags,
}

/// Something to be put in its place.
pub(super) struct Placed {
    /// Whether the user named it.
    is_named: bool,
    pub(super) target: PathBuf,
    pub(super) tree: Tree,
}

/// All that was taken from the host.
pub(super) struct Taken {
    pub(super) root: Option<Tree>,
    pub(super) places: Vec<Placed>,
}

impl Taken {
    /// Maps the owners of files in the mounts that the user named. Where a file system has no id-mapped mounts (`EINVAL`: network
    /// file systems, overlays), or is id-mapped already or another user's (`EPERM`), its files belong to the plugin's id of this
    /// time.
    pub(super) fn map_owners(&self, owners: BorrowedFd<'_>) -> Result<(), Errno> {
        for place in self.places.iter().filter(|place| place.is_named) {
            match map_owners(place.tree.mount.as_fd(), owners) {
                Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Layout {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut layout = Self { root: setup.root.as_ref().map(PathBuf::from), links: Vec::new(), places: Vec::new() };
        for device in DEVICES {
            layout.add(Mount::read_only(device), false, false);
        }
        if layout.root.is_none() {
            layout.add_system();
            // Canonical, so a link in it was put there after it was looked at.
            layout.add_if_new(&setup.executable, false, ResolveFlags::NO_SYMLINKS);
            for directory in library_directories(std::env::var_os(LIBRARY_VARIABLE).as_deref()) {
                layout.add_if_new(&directory, true, ResolveFlags::empty());
            }
        }
        for mount in &setup.mounts {
            layout.add(mount.clone(), false, true);
        }
        layout
    }

    fn add_system(&mut self) {
        for directory in LIBRARIES.map(PathBuf::from) {
            if let Ok(link) = fs::read_link(&directory) {
                self.links.push((directory, link.into_os_string()));
            } else {
                self.add_if_new(&directory, true, ResolveFlags::empty());
            }
        }
        for file in LOADER_FILES {
            self.add(Mount::read_only(file), true, false);
        }
    }

    fn add(&mut self, mount: Mount, optional: bool, is_named: bool) {
        self.places.push(Place { mount, optional, is_named, resolve: ResolveFlags::empty() });
    }

    /// Adds what is not there already as part of something.
    fn add_if_new(&mut self, path: &Path, optional: bool, resolve: ResolveFlags) {
        if !self.places.iter().any(|place| path.starts_with(&place.mount.target)) {
            self.places.push(Place { mount: Mount::read_only(path), optional, is_named: false, resolve });
        }
    }

    /// Takes it all from the host's file system.
    pub(super) fn take(&self) -> Result<Taken, Fault> {
        let root = self.root.as_deref().map(|root| {
            let tree = Tree::open(root, Access::Read, ResolveFlags::empty());
            match tree.map_err(Fault::at(Part::Root, root))? {
                Tree { is_directory: false, .. } => Err(Fault::at(Part::Root, root)(Errno::NOTDIR)),
                tree => Ok(tree),
            }
        });
        let mut places = Vec::new();
        for Place { mount, optional, is_named, resolve } in &self.places {
            let access = if mount.writable { Access::Write } else { Access::Read };
            match Tree::open(&mount.source, access, *resolve) {
                Ok(tree) => places.push(Placed { is_named: *is_named, target: mount.target.clone(), tree }),
                Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) if *optional => {}
                Err(errno) => return Err(Fault::at(Part::Source, &mount.source)(errno)),
            }
        }
        Ok(Taken { root: root.transpose()?, places })
    }
}

/// A list of directories as it holds in the jail, where only the directories themselves are: without links and `..` on the
/// way to them. `None` where it cannot be said so.
pub(super) fn resolved(list: &OsStr) -> Option<OsString> {
    let resolved = |path: PathBuf| if path.is_absolute() { path.canonicalize().unwrap_or(path) } else { path };
    std::env::join_paths(std::env::split_paths(list).map(resolved)).ok()
}

/// The directories named in a list with colons between. One that is no directory of its own, or is the host's root, is no
/// place for libraries.
fn library_directories(list: Option<&OsStr>) -> Vec<PathBuf> {
    let paths = list.map(std::env::split_paths).into_iter().flatten();
    let absolute = paths.filter(|path| path.is_absolute()).filter_map(|path| path.canonicalize().ok());
    absolute.filter(|path| path.parent().is_some() && path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_would_not_search_is_no_library_directory() {
        let list = OsStr::new("/:relative::/nonexistent:/etc/hostname:/usr/../usr/lib");
        assert_eq!(library_directories(Some(list)), [Path::new("/usr/lib")]);
        assert!(library_directories(None).is_empty());
    }

    #[test]
    fn a_list_of_directories_is_resolved_and_loses_none() {
        let list = OsStr::new("relative::/nonexistent:/usr/../usr/lib");
        assert_eq!(resolved(list).unwrap(), "relative::/nonexistent:/usr/lib");
    }
}
