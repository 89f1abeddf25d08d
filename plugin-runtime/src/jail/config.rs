//! What is asked of a jail.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Result;
use crate::seccomp::Filter;

/// How a plugin is kept from what it was not given.
#[derive(Clone, Debug)]
pub enum Sandbox {
    /// Not at all: it can do what the VMM's user can.
    None,
    /// By a jail.
    Jail(Box<JailConfig>),
}

/// A jail to be made. The default suits a plugin that needs nothing but what the protocol hands it, and has no system call
/// filter; [`with_filter`](JailConfig::with_filter) has the built-in one.
#[derive(Clone, Debug, Default)]
pub struct JailConfig {
    /// The program that makes the jail.
    pub helper: Helper,
    /// Who the plugin is outside the jail. `None` for an id of `id_range` where the VMM is root, else for the VMM's own user.
    pub user: Option<User>,
    /// The ids of which the plugin gets one that no other live plugin process has; an ordinary user's must be subordinate ids,
    /// and are mapped by `newuidmap`. `None` for the default range where the VMM is root, or user and group 65534 with a warning
    /// where its ids cannot be had; else for none.
    pub id_range: Option<IdRange>,
    /// Groups that exist in the jail beside the plugin's own, and that the plugin is a member of.
    pub gid_maps: Vec<GidMap>,
    /// The directory that is the plugin's root, in which the plugin's executable and its libraries lie. `None` for an empty
    /// root with the executable and the system's libraries in it.
    pub root: Option<PathBuf>,
    /// What else is in its file system.
    pub mounts: Vec<Mount>,
    /// Whether it has the VMM's standard input and output; otherwise they are `/dev/null`.
    pub stdio: bool,
    /// Whether it keeps the VMM's real-time priority, nice value below 0, and protection from the OOM killer. Otherwise it has
    /// the priority of any process.
    pub realtime: bool,
    /// What it may use up.
    pub limits: Limits,
    /// Which system calls it may make; `None` for all.
    pub seccomp: Option<Filter>,
}

impl JailConfig {
    /// The default with the built-in system call filter.
    ///
    /// # Errors
    ///
    /// [`Filter::builtin`]'s.
    pub fn with_filter() -> Result<Self> {
        Self::with_mounts(Vec::new())
    }

    /// The default with `mounts`, and with the built-in system call filter that suits them.
    ///
    /// # Errors
    ///
    /// [`Filter::builtin`]'s.
    pub fn with_mounts(mounts: Vec<Mount>) -> Result<Self> {
        Ok(Self { seccomp: Some(Filter::builtin_for(&mounts)?), mounts, ..Self::default() })
    }
}

/// A program whose `main` calls [`helper_main`](super::helper_main) before anything else.
#[derive(Clone, Debug)]
pub struct Helper {
    /// Its executable.
    pub program: PathBuf,
}

impl Default for Helper {
    /// The running program.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into() }
    }
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The group's id.
    pub gid: u32,
}

impl User {
    /// Who owns nothing.
    pub(super) const NOBODY: Self = Self { uid: 65534, gid: 65534 };
}

/// A range of user ids; the groups of a plugin have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    count: u32,
}

impl IdRange {
    /// `count` ids from `first` on. `None` where there is none, where root's 0 is among them, or where one of them is
    /// 4294967295, which stands for no id, or above.
    pub const fn new(first: u32, count: u32) -> Option<Self> {
        match first.checked_add(count) {
            Some(_) if first > 0 && count > 0 => Some(Self { first, count }),
            _ => None,
        }
    }

    /// The first.
    pub const fn first(self) -> u32 {
        self.first
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        self.count
    }
}

impl Default for IdRange {
    /// 65536 ids from 0x7f000000 (2130706432) on. They are positive as 32-bit numbers, and nobody else hands them out: the
    /// shadow tools end at 600100000 (`SUB_UID_MAX`), systemd's containers at 0x6fffffff, and its foreign ids begin at 0x7ffe0000.
    fn default() -> Self {
        Self { first: 0x7f00_0000, count: 0x1_0000 }
    }
}

/// Groups that exist in the jail: `count` from `inner` on are those from `outer` on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GidMap {
    /// The first id in the jail.
    pub inner: u32,
    /// The first id outside.
    pub outer: u32,
    /// How many there are.
    pub count: u32,
}

/// A file or directory of the host's in the jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is outside.
    #[serde(serialize_with = "serialize_path", deserialize_with = "deserialize_path")]
    pub source: PathBuf,
    /// Where it is in the jail: absolute, without `..`.
    #[serde(serialize_with = "serialize_path", deserialize_with = "deserialize_path")]
    pub target: PathBuf,
    /// Whether the plugin may write to it. If so, nothing in it can be executed.
    pub writable: bool,
}

/// What a plugin may use up. What is above the VMM's own hard limit is lowered to it, with a warning.
///
/// The product is what a plugin can take of the host's file table, with 0.5 KiB of kernel memory and more each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Descriptors of one process.
    pub descriptors: u64,
    /// Processes and threads in the jail, its init among them.
    pub processes: u64,
}

impl Limits {
    /// What suits a plugin of a VM with `vcpus` vCPUs on this host: a thread to each vCPU and 128 more; 2048 descriptors, but so
    /// few that all processes together have no more than a quarter of the host's file table (`fs.file-max`), and no fewer than
    /// four to each vCPU and 64 more.
    pub fn for_vcpus(vcpus: NonZeroU32) -> Self {
        let file_max = std::fs::read_to_string("/proc/sys/fs/file-max").ok();
        let file_max = file_max.and_then(|text| text.trim().parse().ok());
        Self::on_host(vcpus, file_max.unwrap_or(u64::MAX))
    }

    fn on_host(vcpus: NonZeroU32, file_max: u64) -> Self {
        let vcpus = u64::from(vcpus.get());
        let processes = vcpus + 128;
        let share = file_max / 4 / processes;
        Self { descriptors: share.min(2048).max(4 * vcpus + 64), processes }
    }
}

impl Default for Limits {
    /// What suits a VM with 254 vCPUs, on a host of whatever size.
    fn default() -> Self {
        Self { descriptors: 2048, processes: 382 }
    }
}

/// Paths as the bytes that they are, which need not be text.
pub(super) fn serialize_path<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_os_str().serialize(serializer)
}

pub(super) fn deserialize_path<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<PathBuf, D::Error> {
    OsString::deserialize(deserializer).map(PathBuf::from)
}

impl Mount {
    /// The same place inside as outside, read-only.
    pub(super) fn read_only(path: impl AsRef<OsStr>) -> Self {
        let path = PathBuf::from(path.as_ref());
        Self { source: path.clone(), target: path, writable: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_limits_leave_most_of_the_hosts_file_table() {
        let of = |vcpus, file_max| {
            let Limits { descriptors, processes } = Limits::on_host(NonZeroU32::new(vcpus).unwrap(), file_max);
            (descriptors, processes)
        };
        assert_eq!(of(1, u64::MAX), (2048, 129));
        assert_eq!(of(254, u64::MAX), (2048, 382));
        // A host with 2 GiB of memory.
        assert_eq!(of(1, 200_000), (387, 129));
        assert_eq!(of(254, 200_000), (1080, 382));
        let largest = Limits::on_host(NonZeroU32::new(254).unwrap(), u64::MAX);
        assert_eq!(Limits::default(), largest);
    }

    #[test]
    fn an_id_range_holds_neither_root_nor_no_id() {
        for (first, count) in [(0, 10), (5, 0), (u32::MAX, 1), (u32::MAX - 1, 2)] {
            assert_eq!(IdRange::new(first, count), None);
        }
        assert!(IdRange::new(u32::MAX - 1, 1).is_some() && IdRange::new(1, 1).is_some());
    }
}
