//! Why a jail could not be made.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// A part of the jail that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    part: Part,
    /// What it was about, where the part alone does not say: a path, an id.
    subject: String,
    errno: i32,
}

/// The parts of a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Part {
    /// The helper that makes it.
    Helper,
    /// Its first process, which starts the plugin and waits for its end.
    Init,
    /// Its namespaces.
    Namespaces,
    /// The users that exist in it.
    UserMap,
    /// The groups that exist in it.
    GroupMap,
    /// Who the plugin is in it.
    User,
    /// That no namespaces and no file notifications are made in it.
    Nesting,
    /// A file or directory that is to be in it.
    Source,
    /// Who owns what is in it.
    Owners,
    /// The place for one.
    MountPoint,
    /// Its root directory.
    Root,
    /// Its `/proc`.
    Proc,
    /// Its host name.
    HostName,
    /// What the plugin may use up.
    Limits,
    /// That it has the priority of any process.
    Priority,
    /// That the plugin has no privileges.
    Privileges,
    /// That it ends with the VMM.
    Life,
    /// The landlock rules.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// The plugin's executable.
    Executable,
}

impl Fault {
    pub(super) fn new(part: Part, subject: impl Into<String>, errno: Errno) -> Self {
        Self { part, subject: subject.into(), errno: errno.raw_os_error() }
    }

    /// What to do with the refusal of a system call that a part of the jail needs.
    pub(crate) fn of(part: Part) -> impl Fn(Errno) -> Self {
        move |errno| Self::new(part, "", errno)
    }

    /// The same where it is about a path.
    pub(super) fn at(part: Part, path: &Path) -> impl Fn(Errno) -> Self {
        move |errno| Self::new(part, path.display().to_string(), errno)
    }

    /// Which part could not be made.
    pub fn part(&self) -> Part {
        self.part
    }

    /// What the operating system said, and what can be done.
    pub(crate) fn to_io_error(&self) -> io::Error {
        let error = io::Error::from_raw_os_error(self.errno);
        match self.remedy() {
            Some(remedy) => io::Error::new(error.kind(), format!("{error}; {remedy}")),
            None => error,
        }
    }

    /// What can be done.
    fn remedy(&self) -> Option<&'static str> {
        let errno = Errno::from_raw_os_error(self.errno);
        Some(match (self.part, errno) {
            // It has ended before there was an init.
            (Part::Helper, Errno::SRCH) => {
                "the helper is the VMM's own program: its `main` must call plugin_runtime::jail::helper_main() before \
                 anything else, and return the exit code that it gives"
            }
            (Part::Namespaces, Errno::NOSPC | Errno::USERS) => {
                "the limits in /proc/sys/user are reached: raise max_user_namespaces and the like"
            }
            // Containers' default filters answer so to calls that they do not know.
            (_, Errno::NOSYS) => FILTERED,
            // A new /proc would show what the container hides of its own.
            (Part::Proc, Errno::PERM) => {
                "a container whose /proc is masked may mount none: run it with an unmasked one \
                 (--security-opt systempaths=unconfined, or a pod's procMount: Unmasked)"
            }
            (Part::Nesting, Errno::ROFS | Errno::NOENT) => {
                "the container's /proc/sys is read-only or missing: run it with a writable one \
                 (--security-opt systempaths=unconfined, or a pod's procMount: Unmasked)"
            }
            (Part::UserMap | Part::GroupMap, Errno::NOENT) => {
                "newuidmap and newgidmap, of the package uidmap or shadow, must be in PATH"
            }
            (Part::UserMap | Part::GroupMap, Errno::PERM) if self.subject.starts_with("new") => {
                "/etc/subuid and /etc/subgid must give the VMM's user the ids of --plugin-id-range"
            }
            (Part::Namespaces | Part::Proc | Part::UserMap, _) => USER_NAMESPACES,
            // Ubuntu lets a namespace be made, and takes away what could be done in it.
            (
                Part::Nesting | Part::Root | Part::HostName | Part::Privileges | Part::Limits,
                Errno::PERM | Errno::ACCESS,
            ) => USER_NAMESPACES,
            (Part::Seccomp, Errno::INVAL | Errno::PERM | Errno::ACCESS) => {
                "the kernel has no filters of system calls, or its host or container forbids them: allow seccomp"
            }
            (Part::GroupMap, Errno::PERM) => "only root may map groups that are not its own",
            (Part::GroupMap, Errno::INVAL) => "groups may not be mapped twice, nor the plugin's own again",
            (Part::User, Errno::PERM) => "only root may run a plugin as another user",
            (Part::User, Errno::INVAL) => {
                "the ids must exist in the VMM's user namespace: choose others by --plugin-id-range"
            }
            (Part::User, Errno::BUSY) => {
                "other plugins have all ids of the range: choose a larger one by --plugin-id-range"
            }
            (Part::User, Errno::ACCESS) => "nobody but the VMM's user may own the file or write to it: remove it",
            (Part::Landlock, _) => "the host or its container filters the calls of landlock: allow them",
            (Part::Source, Errno::NOENT) => "make it, or leave the mount out",
            (Part::Source, Errno::ACCESS | Errno::PERM) => "let the VMM's user see it, or leave the mount out",
            (Part::MountPoint, Errno::LOOP | Errno::NOTDIR) => {
                "a mount point cannot be reached through a symbolic link or a file"
            }
            (Part::MountPoint, Errno::NOENT | Errno::ROFS) => {
                "in a directory of the host's the mount point must be there already"
            }
            (Part::MountPoint, Errno::BUSY) => {
                "the jail has something of its own there, or another mount hides it: choose another place"
            }
            (Part::MountPoint, Errno::ISDIR) => "files go onto files, and directories onto directories",
            (Part::Executable, Errno::NOENT) => {
                "if the file is there, its loader or interpreter is not in the jail: add it by --plugin-mount"
            }
            (Part::Executable, Errno::ACCESS) => "the user that it runs as must be allowed to read and execute it",
            _ => return None,
        })
    }
}

/// What to do where user namespaces are forbidden. The settings are Debian's, Ubuntu's from 23.10 on, and the kernel's own.
const USER_NAMESPACES: &str = "the host or its container forbids user namespaces to this user: allow them \
    (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile with \
    `userns,`, user.max_user_namespaces above 0), or run as root";

/// What to do where a call is not there.
const FILTERED: &str = "the kernel is older than 5.14, or the host or its container filters this system call: allow it";

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Helper => "the helper that makes it",
            Self::Init => "its first process",
            Self::Namespaces => "user, mount, PID, IPC, UTS, cgroup and network namespaces",
            Self::UserMap => "the user map",
            Self::GroupMap => "the group map",
            Self::User => "the plugin's user",
            Self::Nesting => "forbidding namespaces and file notifications within it",
            Self::Source => "what is to be mounted",
            Self::Owners => "the owners of files in mounts",
            Self::MountPoint => "a mount point",
            Self::Root => "the root directory",
            Self::Proc => "/proc",
            Self::HostName => "the host name",
            Self::Limits => "the resource limits",
            Self::Priority => "its priority",
            Self::Privileges => "giving up privileges",
            Self::Life => "ending with the VMM",
            Self::Landlock => "the landlock rules",
            Self::Seccomp => "the system call filter",
            Self::Executable => "the executable",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.part)?;
        if !self.subject.is_empty() {
            write!(f, " ({})", self.subject)?;
        }
        write!(f, ": {}", self.to_io_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_which_part_why_and_what_to_do() {
        let fault = Fault::at(Part::Source, Path::new("/srv/x"))(Errno::NOENT);
        let expected = "what is to be mounted (/srv/x): No such file or directory (os error 2); \
                        make it, or leave the mount out";
        assert_eq!(fault.to_string(), expected);
    }

    /// What distributions and containers forbid, as the parts of a jail meet it.
    #[test]
    fn what_hosts_forbid_has_its_remedy() {
        for (part, errno, remedy) in [
            // kernel.unprivileged_userns_clone=0; user.max_user_namespaces=0.
            (Part::Namespaces, Errno::PERM, "kernel.unprivileged_userns_clone=1"),
            (Part::Namespaces, Errno::NOSPC, "max_user_namespaces"),
            // A user namespace in which AppArmor leaves no capability.
            (Part::UserMap, Errno::PERM, "apparmor_restrict_unprivileged_userns=0"),
            (Part::Nesting, Errno::ACCESS, "apparmor_restrict_unprivileged_userns=0"),
            (Part::Root, Errno::ACCESS, "apparmor_restrict_unprivileged_userns=0"),
            (Part::HostName, Errno::PERM, "apparmor_restrict_unprivileged_userns=0"),
            (Part::Privileges, Errno::PERM, "apparmor_restrict_unprivileged_userns=0"),
            // A container's masked /proc, and its read-only /proc/sys.
            (Part::Proc, Errno::PERM, "systempaths=unconfined"),
            (Part::Nesting, Errno::ROFS, "systempaths=unconfined"),
            (Part::Nesting, Errno::NOENT, "systempaths=unconfined"),
            // Filters of containers, and kernels without.
            (Part::Source, Errno::NOSYS, "filters this system call"),
            (Part::MountPoint, Errno::NOSYS, "filters this system call"),
            (Part::Root, Errno::NOSYS, "filters this system call"),
            (Part::Executable, Errno::NOSYS, "filters this system call"),
            (Part::Helper, Errno::NOSYS, "filters this system call"),
            (Part::Landlock, Errno::PERM, "landlock"),
            (Part::Landlock, Errno::OPNOTSUPP, "landlock"),
            (Part::Seccomp, Errno::INVAL, "allow seccomp"),
            (Part::Seccomp, Errno::NOSYS, "filters this system call"),
        ] {
            let told = Fault::of(part)(errno).to_string();
            assert!(told.contains(remedy), "{told}");
        }
    }
}
