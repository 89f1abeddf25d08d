//! The options of `outboard run` that are about the plugin's jail.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use plugin_runtime::jail::{GidMap, IdRange, JailConfig, Limits, Mount, User};
use plugin_runtime::{Filter, Sandbox, read_text};

use crate::error::Error;

#[derive(Args, Debug, Default, PartialEq)]
#[command(next_help_heading = "Jail")]
pub(crate) struct JailArgs {
    /// Run the plugin without a jail: it can do all that this user can. The other options here have no effect then
    #[arg(long)]
    disable_sandbox: bool,
    /// The plugin's root directory, read-only, in which --plugin is looked up; it has directories `proc` and `dev`, and the
    /// plugin's libraries. Without it the root is empty but for the plugin and the system's libraries
    #[arg(long, value_name = "DIR")]
    plugin_root: Option<PathBuf>,
    /// Show the plugin a file or directory, at the same place or at DST; read-only, unless WRITABLE is 1 or true
    #[arg(long, value_name = "SRC[:DST[:WRITABLE]]", value_parser = mount)]
    plugin_mount: Vec<Mount>,
    /// The same from a file with one mount a line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    plugin_mount_file: Vec<PathBuf>,
    /// Make the plugin a member of COUNT groups (1) that are from INNER on in the jail, from OUTER (INNER) on outside; for
    /// root only
    #[arg(long, value_name = "INNER[:OUTER[:COUNT]]", value_parser = gid_map)]
    plugin_gid_map: Vec<GidMap>,
    /// The same from a file with one map a line; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    plugin_gid_map_file: Vec<PathBuf>,
    /// Who the plugin is outside the jail, for root only; without it root's plugin has an id of its own, of
    /// --plugin-id-range, and another user's is that user
    #[arg(long, value_name = "UID[:GID]", value_parser = user)]
    plugin_user: Option<User>,
    /// The ids of which root's plugin gets one, as user and as group, that no other live plugin has; 2130706432:65536
    ///
    /// An ordinary user may name a range of its subordinate ids (/etc/subuid, /etc/subgid), which newuidmap and newgidmap map. The
    /// plugin then is another user outside: its executable must be everyone's to read, and so must what is mounted.
    #[arg(long, value_name = "FIRST:COUNT", value_parser = id_range, conflicts_with = "plugin_user")]
    plugin_id_range: Option<IdRange>,
    /// Let the plugin keep this program's real-time priority, negative nice value, and protection from the OOM killer
    #[arg(long)]
    plugin_realtime: bool,
    /// Let the plugin have this program's standard input and output, not /dev/null
    #[arg(long)]
    plugin_stdio: bool,
    /// How many descriptors each process of the plugin may have open; 2048, fewer where the host has little memory
    ///
    /// Times --plugin-max-processes it is what the plugin can take of the host's file table, with 0.5 KiB of kernel memory and
    /// more each: by default 264,192 with one vCPU and 782,336 with 254, and at most a quarter of fs.file-max, unless that is
    /// less than 64 and four to each vCPU for each process. A plugin that keeps descriptors of thousands of objects needs more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(16..))]
    plugin_max_descriptors: Option<u64>,
    /// How many processes and threads may be in the jail, one of which is its own; 128 and one to each vCPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    plugin_max_processes: Option<u64>,
    /// Take the system calls the plugin may make from plugin.policy in this directory, not from the built-in policy
    #[arg(long, value_name = "DIR")]
    seccomp_policy_dir: Option<PathBuf>,
    /// Tell of system calls that the policy does not allow, and let them be made
    #[arg(long)]
    seccomp_log: bool,
}

impl JailArgs {
    /// What was asked for.
    pub(crate) fn sandbox(&self, vcpus: NonZeroU32) -> Result<Sandbox, Error> {
        if self.disable_sandbox {
            let alone = Self { disable_sandbox: true, ..Self::default() };
            let others = if *self == alone { "" } else { "; the other options for its jail have no effect" };
            tracing::warn!("the plugin runs without a jail: it can do all that this user can{others}");
            return Ok(Sandbox::None);
        }
        let mut mounts = self.plugin_mount.clone();
        for file in &self.plugin_mount_file {
            mounts.extend(lines(file, mount)?);
        }
        let mut gid_maps = self.plugin_gid_map.clone();
        for file in &self.plugin_gid_map_file {
            gid_maps.extend(lines(file, gid_map)?);
        }
        let default = Limits::for_vcpus(vcpus);
        let limits = Limits {
            descriptors: self.plugin_max_descriptors.unwrap_or(default.descriptors),
            processes: self.plugin_max_processes.unwrap_or(default.processes),
        };
        let filter = match &self.seccomp_policy_dir {
            Some(directory) => Filter::from_policy_dir(directory)?,
            None => Filter::builtin_for(&mounts)?,
        };
        Ok(Sandbox::Jail(Box::new(JailConfig {
            user: self.plugin_user,
            id_range: self.plugin_id_range,
            realtime: self.plugin_realtime,
            gid_maps,
            root: self.plugin_root.clone(),
            mounts,
            stdio: self.plugin_stdio,
            limits,
            seccomp: Some(if self.seccomp_log { filter.logging() } else { filter }),
            ..JailConfig::default()
        })))
    }
}

/// What stands in `file`, a line each.
fn lines<T>(file: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Error> {
    let text = read_text(file).map_err(Error::system(format!("reading {}", file.display())))?;
    let mut items = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            let problem = |problem| Error::Line { path: file.to_owned(), line: number, problem };
            items.push(parse(line).map_err(problem)?);
        }
    }
    Ok(items)
}

fn mount(text: &str) -> Result<Mount, String> {
    let mut parts = text.splitn(3, ':');
    let source = parts.next().filter(|source| !source.is_empty()).ok_or("no SRC")?;
    let target = parts.next().filter(|target| !target.is_empty()).unwrap_or(source);
    let writable = match parts.next() {
        None | Some("" | "0" | "false") => false,
        Some("1" | "true") => true,
        Some(other) => return Err(format!("WRITABLE is 0 or 1, not `{other}`")),
    };
    let target = PathBuf::from(target);
    if !target.is_absolute() || target.parent().is_none() || target.components().any(|part| part.as_os_str() == "..") {
        return Err(format!("`{}` is no place in the jail: absolute, without `..`, and not /", target.display()));
    }
    Ok(Mount { source: source.into(), target, writable })
}

fn gid_map(text: &str) -> Result<GidMap, String> {
    let mut parts = text.splitn(3, ':');
    let inner = number(parts.next().unwrap_or_default())?;
    let outer = parts.next().map_or(Ok(inner), number)?;
    match parts.next().map_or(Ok(1), number)? {
        0 => Err("COUNT is 1 or more".into()),
        count => Ok(GidMap { inner, outer, count }),
    }
}

fn user(text: &str) -> Result<User, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Ok(User { uid: number(uid)?, gid: number(gid)? })
}

fn id_range(text: &str) -> Result<IdRange, String> {
    let (first, count) = text.split_once(':').ok_or("FIRST:COUNT are two numbers")?;
    IdRange::new(number(first)?, number(count)?)
        .ok_or_else(|| format!("`{text}` is no range of ids from 1 to 4294967294"))
}

fn number(text: &str) -> Result<u32, String> {
    u32::from_str(text).map_err(|_| format!("`{text}` is not a number of 32 bits"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_mount_is_where_it_was_and_read_only_unless_told_otherwise() {
        let of =
            |source: &str, target: &str, writable| Mount { source: source.into(), target: target.into(), writable };
        assert_eq!(mount("/a"), Ok(of("/a", "/a", false)));
        assert_eq!(mount("a:/b"), Ok(of("a", "/b", false)));
        assert_eq!(mount("/a:/b:1"), Ok(of("/a", "/b", true)));
        assert_eq!(mount("/a::true"), Ok(of("/a", "/a", true)));
        for wrong in ["", ":/b", "a", "/a:b", "/a:/", "/a:/b/../c", "/a:/b:yes", "/a:/b:1:2"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_group_maps_to_itself_alone_unless_told_otherwise() {
        assert_eq!(gid_map("5"), Ok(GidMap { inner: 5, outer: 5, count: 1 }));
        assert_eq!(gid_map("5:6:7"), Ok(GidMap { inner: 5, outer: 6, count: 7 }));
        for wrong in ["", "a", "1:", "1:2:0", "1:2:3:4", "-1", "4294967296"] {
            assert!(gid_map(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_has_the_group_of_the_same_number() {
        assert_eq!(user("5"), Ok(User { uid: 5, gid: 5 }));
        assert_eq!(user("5:6"), Ok(User { uid: 5, gid: 6 }));
        assert!(user("root").is_err());
    }

    #[test]
    fn a_range_of_ids_has_a_first_and_a_count() {
        assert_eq!(id_range("5:6"), Ok(IdRange::new(5, 6).unwrap()));
        for wrong in ["", "5", "0:1", "5:0", "4294967294:2", "a:1", "1:2:3"] {
            assert!(id_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# mounts\n\n/a\n  /b:/c:1\n").unwrap();
        assert_eq!(lines(file.path(), mount).unwrap().len(), 2);
        file.write_all(b"d\n").unwrap();
        let error = lines(file.path(), mount).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}, line 5: `d`", file.path().display())), "{error}");
    }
}
