//! What this process holds, as /proc tells.

use std::{fmt, fs, io};

/// What this process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    descriptors: usize,
    threads: usize,
    mappings: usize,
    /// Of memory that is no file's.
    kibibytes: u64,
}

/// Mappings and memory that an allocator may have taken more, for caches of its own and for stacks of threads that ended.
const SPARE_MAPPINGS: usize = 32;
const SPARE_KIBIBYTES: u64 = 16 * 1024;

impl Resources {
    pub(super) fn now() -> io::Result<Self> {
        let entries = |path| fs::read_dir(path).map(Iterator::count);
        let status = fs::read_to_string("/proc/self/status")?;
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        Ok(Self {
            descriptors: entries("/proc/self/fd")?,
            threads: entries("/proc/self/task")?,
            mappings: fs::read_to_string("/proc/self/maps")?.lines().count(),
            kibibytes: kibibytes.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default(),
        })
    }

    /// The most of either.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
            mappings: self.mappings.max(other.mappings),
            kibibytes: self.kibibytes.max(other.kibibytes),
        }
    }

    /// Whether it is no more than `before`, but for what an allocator keeps.
    pub(super) fn is_flat_since(self, before: Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.mappings <= before.mappings + SPARE_MAPPINGS
            && self.kibibytes <= before.kibibytes + SPARE_KIBIBYTES
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, threads, mappings, kibibytes } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {mappings} mappings, {kibibytes} KiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_what_an_allocator_keeps_is_noticed() {
        let before = Resources { descriptors: 9, threads: 2, mappings: 100, kibibytes: 5000 };
        assert!(before.is_flat_since(before));
        assert!(!Resources { descriptors: 10, ..before }.is_flat_since(before));
        assert!(!Resources { threads: 3, ..before }.is_flat_since(before));
        assert!(Resources { mappings: 132, kibibytes: 5000 + 16384, ..before }.is_flat_since(before));
        assert!(!Resources { mappings: 133, ..before }.is_flat_since(before));
        assert!(!Resources { kibibytes: 21385, ..before }.is_flat_since(before));
    }

    #[test]
    fn this_process_holds_something() {
        let now = Resources::now().unwrap();
        assert!(now.descriptors >= 3 && now.threads >= 1 && now.mappings >= 5 && now.kibibytes > 0, "{now}");
    }
}
