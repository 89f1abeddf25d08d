//! The processes that descend from this one, as /proc tells.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, io};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// All processes that descend from this one.
pub(crate) fn descendants() -> io::Result<BTreeSet<u32>> {
    let parents = parents()?;
    let own = std::process::id();
    let mut found = BTreeSet::from([own]);
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        found.extend(children.collect::<Vec<_>>());
        if found.len() == before {
            found.remove(&own);
            return Ok(found);
        }
    }
}

/// Whether this process has a child.
pub(crate) fn has_child() -> io::Result<bool> {
    let own = std::process::id();
    Ok(parents()?.values().any(|parent| *parent == own))
}

/// Kills the last of a line of descendants: a plugin without a jail, or one whose parent is its jail's init. Whether there
/// was one.
pub(crate) fn kill_last_descendant() -> io::Result<bool> {
    let mut parents = parents()?;
    let mut parent = std::process::id();
    let mut last = None;
    while let Some(child) = parents.iter().find(|(_, of)| **of == parent).map(|(pid, _)| *pid) {
        // Numbers that were taken again while /proc was read could lead in a circle.
        parents.remove(&child);
        last = Some((parent, child));
        parent = child;
    }
    let Some((parent, child)) = last else { return Ok(false) };
    let Some(pid) = Pid::from_raw(child.cast_signed()) else { return Ok(false) };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
    // The number may have become another's before it was opened.
    if parent_of(child) != Some(parent) {
        return Ok(false);
    }
    Ok(pidfd_send_signal(&pidfd, Signal::KILL).is_ok())
}

/// Each process and its parent.
fn parents() -> io::Result<BTreeMap<u32, u32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        all.extend(parent_of(pid).map(|parent| (pid, parent)));
    }
    Ok(all)
}

/// `None` where there is no such process, any more.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name in parentheses: the state and the parent (proc_pid_stat(5)).
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_and_its_child_are_found_until_they_end() {
        // The shell waits for its child, which waits for the end of its input.
        let mut shell = Command::new("sh").args(["-c", "cat; :"]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = shell.id();
        assert!(has_child().unwrap());
        let grandchild = || parents().unwrap().into_iter().find(|(_, parent)| *parent == pid).map(|(child, _)| child);
        test_utils::wait::until("it has a child", || grandchild().is_some());
        let grandchild = grandchild().unwrap();
        let found = descendants().unwrap();
        assert!(found.contains(&pid) && found.contains(&grandchild), "{found:?}");
        assert_eq!((parent_of(grandchild), parent_of(pid)), (Some(pid), Some(std::process::id())));
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(descendants().unwrap().is_disjoint(&[pid, grandchild].into()));
        assert_eq!(parent_of(pid), None);
    }
}
