//! Who is who in a jail.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::config::{GidMap, User};
use super::fault::{Fault, Part};
use super::setup::Setup;
use crate::process::as_errno;

/// The most groups that a plugin may be a member of beside its own.
const MOST_GROUPS: u32 = 64;

/// Users and groups of a jail. A user or group of the plugin's own has the same number inside as outside.
pub(super) struct Ids {
    user: User,
    extra: Vec<GidMap>,
    /// Whether this process may name others than itself.
    pub(super) privileged: bool,
    /// Whether it may have others named for it: the user is one of its own user's subordinate ids.
    is_subordinate: bool,
}

impl Ids {
    /// What this process, in the VMM's namespaces, may ask for.
    pub(super) fn new(setup: &Setup) -> Result<Self, Fault> {
        let extra = setup.gid_maps.clone();
        let own = User { uid: geteuid().as_raw(), gid: getegid().as_raw() };
        let privileged = is_privileged().map_err(Fault::of(Part::User))?;
        let default = if privileged && own.uid == 0 { User::NOBODY } else { own };
        let user = setup.user.unwrap_or(default);
        let is_subordinate = setup.has_own_id && !privileged;
        if user != own && !privileged && !is_subordinate {
            return Err(Fault::new(Part::User, user.uid.to_string(), Errno::PERM));
        }
        if is_subordinate && !extra.is_empty() {
            return Err(Fault::of(Part::GroupMap)(Errno::PERM));
        }
        let groups = extra.iter().fold(0_u32, |sum, map| sum.saturating_add(map.count));
        if groups > MOST_GROUPS {
            return Err(Fault::new(Part::GroupMap, format!("{groups} groups, more than {MOST_GROUPS}"), Errno::INVAL));
        }
        Ok(Self { user, extra, privileged, is_subordinate })
    }

    /// Says in the namespaces of `process`, a child in them, who is who.
    pub(super) fn write_maps(&self, process: Pid) -> Result<(), Fault> {
        let User { uid, gid } = self.user;
        if self.is_subordinate {
            write_by(NEWUIDMAP, Part::UserMap, process, uid)?;
            return write_by(NEWGIDMAP, Part::GroupMap, process, gid);
        }
        let file = |name: &str| format!("/proc/{}/{name}", process.as_raw_nonzero());
        write_once(&file("uid_map"), &format!("{uid} {uid} 1\n"))
            .map_err(|errno| Fault::new(Part::UserMap, uid.to_string(), errno))?;
        if !self.privileged {
            // The kernel's price for a group map by an ordinary user: nobody in the jail can leave a group.
            write_once(&file("setgroups"), "deny").map_err(Fault::of(Part::GroupMap))?;
        }
        let mut map = format!("{gid} {gid} 1\n");
        for GidMap { inner, outer, count } in &self.extra {
            // Writing to a string does not fail.
            let _ = writeln!(map, "{inner} {outer} {count}");
        }
        write_once(&file("gid_map"), &map)
            .map_err(|errno| Fault::new(Part::GroupMap, map.trim_end().replace('\n', ", "), errno))
    }

    /// Becomes the plugin's user, in the namespaces.
    pub(super) fn become_plugin(&self) -> Result<(), Fault> {
        let failed = Fault::of(Part::User);
        if self.privileged || self.is_subordinate {
            let extra = self.extra.iter().flat_map(|map| (0..map.count).map(|nth| map.inner.saturating_add(nth)));
            set_thread_groups(&extra.map(Gid::from_raw).collect::<Vec<_>>()).map_err(&failed)?;
        }
        let (uid, gid) = (Uid::from_raw(self.user.uid), Gid::from_raw(self.user.gid));
        set_thread_res_gid(gid, gid, gid).map_err(&failed)?;
        set_thread_res_uid(uid, uid, uid).map_err(&failed)
    }
}

/// Whether this process may run a plugin as another user.
pub(super) fn is_privileged() -> Result<bool, Errno> {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID;
    Ok(capabilities(None)?.effective.contains(needed))
}

/// The programs of shadow that write maps of subordinate ids, those of `/etc/subuid` and `/etc/subgid`.
const NEWUIDMAP: &str = "newuidmap";
const NEWGIDMAP: &str = "newgidmap";

/// Has `program` map an id in the namespaces of `process` to itself. What it has to say goes to the log.
fn write_by(program: &str, part: Part, process: Pid, id: u32) -> Result<(), Fault> {
    let failed = |errno| Fault::new(part, format!("{program}, {id}"), errno);
    let id = id.to_string();
    let mut command = Command::new(program);
    command.arg(process.as_raw_nonzero().to_string()).args([&id, &id, "1"]).stdin(Stdio::null());
    let status = command.status().map_err(|error| failed(as_errno(&error)))?;
    if status.success() { Ok(()) } else { Err(failed(Errno::PERM)) }
}

/// These files want all in one `write`.
fn write_once(path: &str, text: &str) -> Result<(), Errno> {
    fs::write(path, text).map_err(|error| as_errno(&error))
}
