//! What the plugin may do with what is in its root, said to the kernel once more by landlock.
//!
//! Mounts hide what is outside; a descriptor of a directory from there, were one to come in, would lead back to it.
//! Landlock refuses that: it asks whether a file lies below the jail's root.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::io::Errno;
use thiserror::Error;

use super::fault::{Fault, Part};
use super::layout::DEVICES;
use super::setup::Setup;

/// The newest that this was tried with. Of what a kernel is too old for, it leaves out that.
const NEWEST: ABI = ABI::V7;

/// The loaders that the kernel starts for an executable.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];

#[derive(Debug, Error)]
enum Refusal {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error(transparent)]
    Path(#[from] landlock::PathFdError),
}

/// Confines this process and all that come from it: no file but below the root and by the rights given there, no network,
/// no abstract socket and no signal that leads out.
pub(super) fn confine(setup: &Setup) -> Result<(), Fault> {
    restrict(setup).map_err(|refusal| Fault::new(Part::Landlock, refusal.to_string(), Errno::OPNOTSUPP))
}

fn restrict(setup: &Setup) -> Result<(), Refusal> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = BitFlags::from(AccessFs::Execute);
    let everything = AccessFs::from_all(NEWEST);

    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), Refusal> {
        let file = PathFd::new(path)?;
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut rules).add_rule(PathBeneath::new(file, access))?;
        Ok(())
    };

    // Who was given a root was given what is executable there.
    let root = if setup.root.is_some() { read | execute } else { read };
    allow("/".as_ref(), root)?;
    // That it is not there is for exec to say.
    for file in LOADERS.map(Path::new).into_iter().chain([&*setup.executable]).filter(|file| file.exists()) {
        allow(file, execute)?;
    }
    for device in DEVICES {
        allow(device.as_ref(), AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    for mount in &setup.mounts {
        let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock;
        allow(&mount.target, if mount.writable { everything & !never } else { read | execute })?;
    }
    rules.restrict_self()?;
    Ok(())
}
