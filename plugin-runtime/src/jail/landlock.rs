//! What the plugin may do with what is in its root, said to the kernel once more by landlock.
//!
//! Mounts hide what is outside; a descriptor of a directory from there, were one to come in, would lead back to it.
//! Landlock refuses that: it asks whether a file lies below the jail's root.
#![allow(unsafe_code, reason = "whether the kernel has landlock is asked by a system call")]

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use thiserror::Error;

use super::fault::{Fault, Part};
use super::layout::DEVICES;
use super::setup::Setup;
use crate::process::last_error;

/// The newest that this was tried with. Of what a kernel is too old for, it leaves out that.
const NEWEST: ABI = ABI::V7;

/// The loaders that the kernel starts for an executable.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];

#[derive(Debug, Error)]
enum Refusal {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error(transparent)]
    Path(#[from] PathFdError),
    #[error("looking at {path}: {errno}")]
    Look { path: String, errno: Errno },
}

/// `LANDLOCK_CREATE_RULESET_VERSION` of `linux/landlock.h`: asks for no ruleset, but for the version.
const VERSION: u32 = 1;

/// Confines this process and all that come from it: no file but below the root and by the rights given there, no network,
/// no abstract socket and no signal that leads out. It does without where the kernel has no landlock; who keeps it away by
/// another refusal is told of it.
pub(super) fn confine(setup: &Setup) -> Result<(), Fault> {
    if !is_there().map_err(Fault::of(Part::Landlock))? {
        return Ok(());
    }
    match restrict(setup) {
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(RulesetStatus::NotEnforced) => Err(Fault::new(Part::Landlock, "not in force", Errno::OPNOTSUPP)),
        Err(refusal) => Err(Fault::new(Part::Landlock, refusal.to_string(), Errno::OPNOTSUPP)),
    }
}

fn is_there() -> Result<bool, Errno> {
    // SAFETY: the kernel reads nothing where it is asked for the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    match (version, last_error()) {
        // Too old a kernel, one that was started without, or one whose landlock cannot tell its version.
        (-1, Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
        (-1, errno) => Err(errno),
        _ => Ok(true),
    }
}

/// A file to allow something about; `None` where the plugin's user cannot find it.
fn found(path: &Path) -> Result<Option<PathFd>, PathFdError> {
    match PathFd::new(path) {
        Ok(file) => Ok(Some(file)),
        Err(PathFdError::OpenCall { source, .. }) if is_not_found(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_not_found(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP))
}

fn restrict(setup: &Setup) -> Result<RulesetStatus, Refusal> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = BitFlags::from(AccessFs::Execute);
    let everything = AccessFs::from_all(NEWEST);

    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let mut allow = |path: &Path, file: PathFd, access: BitFlags<AccessFs>| -> Result<(), Refusal> {
        let status = fstat(&file).map_err(|errno| Refusal::Look { path: path.display().to_string(), errno })?;
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        let access = if is_directory { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut rules).add_rule(PathBeneath::new(file, access))?;
        Ok(())
    };

    // Who was given a root was given what is executable there.
    let root = if setup.root.is_some() { read | execute } else { read };
    allow("/".as_ref(), PathFd::new("/")?, root)?;
    // That it is not there is for exec to say.
    for path in LOADERS.map(Path::new).into_iter().chain([&*setup.executable]) {
        if let Some(file) = found(path)? {
            allow(path, file, execute)?;
        }
    }
    for device in DEVICES {
        allow(device.as_ref(), PathFd::new(device)?, AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    for mount in &setup.mounts {
        let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock;
        let access = if mount.writable { everything & !never } else { read | execute };
        allow(&mount.target, PathFd::new(&mount.target)?, access)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
