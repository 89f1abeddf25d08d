//! Where a mount cannot be: where it would not be seen, or would hide what the jail or another mount has there.

use std::path::Path;

use rustix::io::Errno;

use super::config::Mount;
use super::fault::{Fault, Part};
use super::layout::DEVICES;

/// The jail's own mounts come last and hide what is below them.
const PROC: &str = "/proc";
/// A mount here would hide the jail's devices.
const DEV: &str = "/dev";

/// Refuses mounts that the plugin would not see, or that would take the jail's own from it, its executable among that.
pub(super) fn check(mounts: &[Mount], executable: &Path) -> Result<(), Fault> {
    for (index, mount) in mounts.iter().enumerate() {
        let target = &*mount.target;
        let is_the_jails = target.starts_with(PROC)
            || target == Path::new(DEV)
            || target.starts_with(executable)
            || DEVICES.iter().any(|device| target.starts_with(device));
        // A later mount at the same place or above hides this one.
        let is_hidden = mounts.iter().skip(index + 1).any(|later| target.starts_with(&later.target));
        if is_the_jails || is_hidden {
            return Err(Fault::at(Part::MountPoint, target)(Errno::BUSY));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(targets: &[&str]) -> bool {
        let mounts: Vec<_> = targets.iter().map(Mount::read_only).collect();
        check(&mounts, "/opt/plugin".as_ref()).is_err()
    }

    #[test]
    fn a_mount_that_would_be_hidden_or_hide_the_jails_own_is_refused() {
        for targets in [
            &["/proc"][..],
            &["/proc/self"],
            &["//proc/./x"],
            &["/dev"],
            &["/dev/null"],
            &["/dev/zero/x"],
            &["/opt/plugin"],
            &["/a", "/a"],
            &["/a/b", "/c", "/a"],
        ] {
            assert!(is_refused(targets), "{targets:?}");
        }
        for targets in
            [&[][..], &["/dev/net/tun", "/process", "/sys", "/usr/lib"], &["/a", "/a/b"], &["/ab", "/a"], &["/opt"]]
        {
            assert!(!is_refused(targets), "{targets:?}");
        }
    }
}
