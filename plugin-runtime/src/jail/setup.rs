//! What the VMM tells the helper: all there is to know about one jail, in a memfd.

use std::ffi::OsString;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::config::{GidMap, JailConfig, Limits, Mount, User, deserialize_path, serialize_path};
use super::fault::{Fault, Part};
use super::limits;
use super::own_id::OwnId;
use crate::PluginCommand;
use crate::process::as_errno;
use crate::seccomp::Filter;

/// All there is to know about one jail.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    #[serde(serialize_with = "serialize_path", deserialize_with = "deserialize_path")]
    pub(super) executable: PathBuf,
    /// The first of the plugin's arguments: the path as it was asked for.
    pub(super) name: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) user: Option<User>,
    /// Whether that is an id that the plugin has this time alone.
    pub(super) has_own_id: bool,
    pub(super) gid_maps: Vec<GidMap>,
    pub(super) root: Option<OsString>,
    pub(super) mounts: Vec<Mount>,
    /// Whether it keeps the VMM's priority.
    pub(super) realtime: bool,
    pub(super) limits: Limits,
    /// The system call filter's bytes.
    filter: Option<Vec<u8>>,
}

impl Setup {
    /// For a plugin whose user outside the jail is `own_id`, where it has one.
    pub(super) fn new(
        command: &PluginCommand,
        executable: PathBuf,
        config: &JailConfig,
        own_id: Option<&OwnId>,
    ) -> Self {
        Self {
            executable,
            name: command.path.clone().into(),
            args: command.args.clone(),
            user: own_id.map(OwnId::user).or(config.user),
            has_own_id: own_id.is_some(),
            gid_maps: config.gid_maps.clone(),
            root: config.root.clone().map(OsString::from),
            mounts: config.mounts.clone(),
            realtime: config.realtime,
            limits: limits::allowed(config.limits),
            filter: config.seccomp.as_ref().map(Filter::to_bytes),
        }
    }

    /// The system call filter.
    pub(super) fn filter(&self) -> Result<Option<Filter>, Fault> {
        let read = |bytes: &Vec<u8>| Filter::from_bytes(bytes).ok_or_else(|| Fault::of(Part::Seccomp)(Errno::BADMSG));
        self.filter.as_ref().map(read).transpose()
    }

    /// Writes it down.
    pub(super) fn to_memfd(&self) -> Result<OwnedFd, Errno> {
        let bytes = postcard::to_stdvec(self).map_err(|_| Errno::INVAL)?;
        let mut file = std::fs::File::from(memfd_create("jail", MemfdFlags::CLOEXEC)?);
        let written = file.write_all(&bytes).and_then(|()| file.rewind());
        written.map_err(|error| as_errno(&error))?;
        Ok(file.into())
    }

    /// Reads what was written down.
    pub(super) fn from_memfd(memfd: OwnedFd) -> Result<Self, Fault> {
        let mut bytes = Vec::new();
        let read = std::fs::File::from(memfd).read_to_end(&mut bytes);
        read.map_err(|error| Fault::of(Part::Helper)(as_errno(&error)))?;
        postcard::from_bytes(&bytes).map_err(|_| Fault::of(Part::Helper)(Errno::BADMSG))
    }
}
