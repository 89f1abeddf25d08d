//! What is asked of a jail.

use std::ffi::{OsStr, OsString};
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
    /// Who the plugin is outside the jail; `None` for user and group 65534 where the VMM is root, else for the VMM's own.
    pub user: Option<User>,
    /// Groups that exist in the jail beside the plugin's own, and that the plugin is a member of.
    pub gid_maps: Vec<GidMap>,
    /// The directory that is the plugin's root, in which the plugin's executable and its libraries lie. `None` for an empty
    /// root with the executable and the system's libraries in it.
    pub root: Option<PathBuf>,
    /// What else is in its file system.
    pub mounts: Vec<Mount>,
    /// Whether it has the VMM's standard input and output; otherwise they are `/dev/null`.
    pub stdio: bool,
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
        Ok(Self { seccomp: Some(Filter::builtin()?), ..Self::default() })
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Descriptors of one process.
    pub descriptors: u64,
    /// Processes and threads in the jail, its init among them.
    pub processes: u64,
}

impl Default for Limits {
    /// Descriptors for two to each of the 4096 objects a plugin may have, and the vCPUs; threads for two to each of 254
    /// vCPUs, and some more.
    fn default() -> Self {
        Self { descriptors: 10_000, processes: 600 }
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
