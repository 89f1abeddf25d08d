//! What a process holds, as /proc tells: for tests that nothing leaks.

use std::fs;

use rustix::process::{Pid, getpid};

/// Descriptors, threads, children and mappings of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    fds: usize,
    threads: usize,
    children: usize,
    maps: usize,
    shared_maps: usize,
}

impl Resources {
    /// Those of a process.
    ///
    /// # Panics
    ///
    /// If there is no such process.
    #[must_use]
    pub fn of(pid: Pid) -> Self {
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
        let directory = |name| fs::read_dir(format!("/proc/{pid}/{name}")).expect("a process").count();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
        // The last of a mapping's rights tells whether it is shared.
        let shared = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.ends_with('s')));
        Self {
            fds: directory("fd"),
            threads: directory("task"),
            // Those that nobody has waited for among them, where the kernel tells of children.
            children: tasks.flatten().map(|task| children(task).split_whitespace().count()).sum(),
            maps: maps.lines().count(),
            shared_maps: shared.count(),
        }
    }

    /// Those of this process. A test that compares them wants a process of its own: an integration test with a single test
    /// function.
    ///
    /// # Panics
    ///
    /// Never, where /proc is mounted.
    #[must_use]
    pub fn own() -> Self {
        Self::of(getpid())
    }

    /// Whether nothing has grown. The allocator takes a few mappings more for each thread beside which it had none before;
    /// what leaks with each of many rounds is more than that. Shared mappings are nobody's but the code's under test.
    #[must_use]
    pub fn is_no_more_than(&self, before: Self) -> bool {
        self.fds <= before.fds
            && self.threads <= before.threads
            && self.children <= before.children
            && self.shared_maps <= before.shared_maps
            && self.maps <= before.maps + 16
    }

    /// This process holds no more than it did `before`, as soon as its threads that have ended are gone from /proc.
    ///
    /// # Panics
    ///
    /// If it still does after [`LIMIT`](crate::wait::LIMIT), naming `what` was done.
    #[track_caller]
    pub fn assert_no_more_than(before: Self, what: &str) {
        let mut now = Self::own();
        let nothing = crate::wait::holds(|| {
            now = Self::own();
            now.is_no_more_than(before)
        });
        assert!(nothing, "{what}: grown from {before:?} to {now:?}");
    }
}
