//! What this process and those that it started use of the processors, and where they may run.

use std::collections::BTreeSet;
use std::fs;
use std::ops::{AddAssign, Sub};
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{ClockId, CpuSet, sched_setaffinity};
use rustix::time::clock_gettime;

use crate::error::Error;

/// The time that both sides of a link spent on processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// This process, which is the VMM.
    pub(super) vmm: Duration,
    /// The plugin, and the rest of its jail.
    pub(super) plugin: Duration,
}

impl Spent {
    /// What was spent until now, `plugin` being the processes of the plugin's side.
    pub(super) fn now(plugin: &BTreeSet<u32>) -> Self {
        let now = clock_gettime(ClockId::ProcessCPUTime);
        // Neither is negative.
        let vmm = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32);
        Self { vmm, plugin: plugin.iter().copied().map(spent_by).sum() }
    }
}

impl Sub for Spent {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let (vmm, plugin) = (self.vmm.saturating_sub(before.vmm), self.plugin.saturating_sub(before.plugin));
        Self { vmm, plugin }
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.vmm += more.vmm;
        self.plugin += more.plugin;
    }
}

/// What a process has spent; nothing where it is gone.
fn spent_by(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanoseconds = tasks.filter_map(|task| {
        let schedstat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Keeps the calling thread, and those it starts from now on, to these processors.
pub(super) fn pin_this_thread(cores: &[usize]) -> Result<(), Error> {
    pin(None, cores)
}

/// Keeps all threads of this process to one processor.
pub(super) fn pin_this_process(core: usize) -> Result<(), Error> {
    let tasks = fs::read_dir("/proc/self/task").map_err(Error::system("looking for this process's threads"))?;
    for task in tasks.flatten() {
        let thread = task.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if thread.is_some() {
            pin(thread, &[core])?;
        }
    }
    Ok(())
}

fn pin(thread: Option<Pid>, cores: &[usize]) -> Result<(), Error> {
    let mut set = CpuSet::new();
    // What is no number of a processor is refused below.
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    sched_setaffinity(thread, &set)
        .map_err(|errno| Error::system(format!("keeping to the processors {cores:?}"))(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_a_process_spends_is_found() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let before = spent_by(pid);
        test_utils::wait::until("it has spent some time", || spent_by(pid) > before + Duration::from_millis(5));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(spent_by(pid), Duration::ZERO);
    }

    #[test]
    fn a_processor_that_is_not_there_is_an_error() {
        std::thread::spawn(|| assert!(pin_this_thread(&[1 << 20]).is_err())).join().unwrap();
    }
}
