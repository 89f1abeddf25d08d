//! Work of devices in this process, which a virtual clock must not jump over.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::vm::Platform;

/// Tells the VMs of a [`Mock`](super::Mock) that devices in this process have work to do, so that a
/// [virtual clock](super::Clock::Virtual) does not jump over it. Clones are the same.
///
/// A device that works on a thread of its own [begins](Self::begin) before it takes a request from the guest's access
/// and ends when its interrupt is raised. What is served within an exit needs none: the vCPU is not idle then. Plugins
/// in other processes cannot hold one yet: serve them with [`Clock::Host`](super::Clock::Host).
#[derive(Clone, Default)]
pub struct OutstandingWork(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    vms: Vec<Weak<Platform>>,
    tokens: usize,
}

impl OutstandingWork {
    /// There is a VM whose clock is to know.
    pub(super) fn add(&self, platform: &Arc<Platform>) {
        let mut shared = self.0.lock();
        for _ in 0..shared.tokens {
            platform.irqs.begin_work();
        }
        shared.vms.retain(|vm| vm.strong_count() != 0);
        shared.vms.push(Arc::downgrade(platform));
    }

    /// Begins some work, which ends with the token.
    #[must_use = "the work ends when the token is dropped"]
    pub fn begin(&self) -> WorkToken {
        let mut shared = self.0.lock();
        shared.tokens = shared.tokens.saturating_add(1);
        shared.vms.iter().filter_map(Weak::upgrade).for_each(|vm| vm.irqs.begin_work());
        WorkToken(self.clone())
    }
}

/// Some work that is not done. As long as there is a token, virtual clocks keep pace with the host's at most.
pub struct WorkToken(OutstandingWork);

impl Drop for WorkToken {
    fn drop(&mut self) {
        let mut shared = self.0.0.lock();
        shared.tokens = shared.tokens.saturating_sub(1);
        shared.vms.iter().filter_map(Weak::upgrade).for_each(|vm| vm.irqs.end_work());
    }
}
