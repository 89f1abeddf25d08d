//! How much guest memory a plugin may map into its VM.
//!
//! A memfd has any length for nothing, but a memory slot costs the kernel memory for each page of it, touched or not, and the
//! kernel counts that for the VMM. docs/security.md says how much.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::time::Instant;

use rustix::system::sysinfo;

use crate::errno::Errno;
use crate::log_budget::{Admission, LogBudget};

/// The sum of the lengths of a VM's memories, in bytes, and its limit.
pub(crate) struct MemoryQuota {
    most: u64,
    used: u64,
    log: LogBudget,
}

impl MemoryQuota {
    /// A limit of `most` bytes; without one, of as much as this host has RAM.
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { most: most.unwrap_or_else(host_memory), used: 0, log: LogBudget::new() }
    }

    /// The limit.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// Takes `len` bytes, or refuses with `ENOMEM`, and says in the log why.
    pub(crate) fn take(&mut self, len: u64) -> Result<(), Errno> {
        let most = self.most;
        match self.used.checked_add(len).filter(|used| *used <= most) {
            Some(used) => {
                self.used = used;
                Ok(())
            }
            None => {
                if let Admission::Log { dropped } = self.log.admit(Instant::now()) {
                    let used = self.used;
                    tracing::warn!(
                        dropped,
                        "guest memory of {len} bytes refused: with the {used} there are it is more than the {most} that \
                         the plugin may map; --max-memory allows more"
                    );
                }
                Err(Errno::NOMEM)
            }
        }
    }

    /// Gives `len` bytes back.
    pub(crate) fn give_back(&mut self, len: u64) {
        self.used = self.used.saturating_sub(len);
    }
}

/// Bytes of RAM of the host's.
fn host_memory() -> u64 {
    let info = sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_the_limit_is_refused_and_what_is_given_back_counts_no_more() {
        let mut quota = MemoryQuota::new(Some(100));
        quota.take(60).unwrap();
        assert_eq!(quota.take(41), Err(Errno::NOMEM));
        assert_eq!(quota.take(u64::MAX), Err(Errno::NOMEM));
        quota.take(40).unwrap();
        quota.give_back(60);
        quota.take(60).unwrap();
        assert_eq!(quota.take(1), Err(Errno::NOMEM));
    }

    #[test]
    fn without_a_limit_it_is_the_hosts_memory() {
        let total = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = total.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")).unwrap();
        assert_eq!(MemoryQuota::new(None).most, total.parse::<u64>().unwrap() * 1024);
    }
}
