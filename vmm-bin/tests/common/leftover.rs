//! Sees that a run leaves no process behind.
//!
//! This process takes in orphans, so that a plugin which its VMM has not waited for turns up as a child here, dead or
//! alive, and stays.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

/// The children that were started here and not waited for.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Starts a process.
pub(crate) fn spawn(command: &mut Command) -> Child {
    set_child_subreaper(Some(getpid())).expect("becoming a subreaper");
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn().expect("spawning");
    own.insert(child.id());
    child
}

/// Runs a program that is not looked after by [`Running`](super::Running), a compiler for example, to its end. Started in
/// another way it would be taken for an orphan by the test beside.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        own.insert(child.id());
        child
    };
    let pid = child.id();
    let output = child.wait_with_output();
    OWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    output
}

/// A process that will be an orphan, which the test waits for itself.
pub(crate) struct Adopted(Pid);

/// Announces an orphan.
pub(crate) fn adopt(pid: Pid) -> Adopted {
    OWN.lock().unwrap_or_else(PoisonError::into_inner).insert(pid.as_raw_nonzero().get() as u32);
    Adopted(pid)
}

impl Adopted {
    /// Waits for it.
    pub(crate) fn reap(self) {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        waitpid(Some(self.0), WaitOptions::empty()).expect("waiting for an orphan");
        own.remove(&(self.0.as_raw_nonzero().get() as u32));
    }
}

/// Sees that a process that was waited for, and any other, left nothing.
pub(crate) fn assert_none(waited_for: u32, call: &str) {
    let orphans = kill_all(waited_for);
    assert!(orphans.is_empty(), "left behind by {call} or one beside it: {orphans:#?}");
}

/// Waits until what is left has ended by itself.
pub(crate) fn await_ends(waited_for: u32) {
    test_utils::wait::until("orphans have ended", || {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        own.remove(&waited_for);
        let mut left = orphans(&own);
        left.retain(|(pid, _)| !matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(Some(_))));
        left.is_empty()
    });
}

/// Kills what is left and tells what it was.
pub(crate) fn kill_all(waited_for: u32) -> Vec<String> {
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    own.remove(&waited_for);
    let orphans = orphans(&own);
    for (pid, _) in &orphans {
        let _ = kill_process(*pid, Signal::KILL);
        let _ = waitpid(Some(*pid), WaitOptions::empty());
    }
    orphans.into_iter().map(|(_, stat)| stat).collect()
}

/// This process's children that are not its `own`, with what /proc says of them.
fn orphans(own: &BTreeSet<u32>) -> Vec<(Pid, String)> {
    let mut orphans = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc") {
        let name = entry.expect("/proc").file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Behind the name in parentheses: the state and the parent.
        let parent = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1));
        if parent == Some(&std::process::id().to_string()) && !own.contains(&pid) {
            orphans.push((Pid::from_raw(pid as i32).expect("a pid"), stat));
        }
    }
    orphans
}
