//! What a process holds, as /proc tells.

use rustix::process::Pid;

/// Descriptors, threads and mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    fds: usize,
    threads: usize,
    maps: usize,
}

impl Resources {
    pub(crate) fn of(pid: Pid) -> Self {
        let directory = |name| std::fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        Self { fds: directory("fd"), threads: directory("task"), maps: maps.lines().count() }
    }

    /// Whether nothing has grown. The allocator may take a mapping or two more, once; what leaks with each of many rounds
    /// is more than that.
    pub(crate) fn is_no_more_than(&self, before: Self) -> bool {
        self.fds <= before.fds && self.threads <= before.threads && self.maps <= before.maps + 4
    }
}
