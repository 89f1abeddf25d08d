//! The barrier at which vCPUs wait until all are ready to start.

use parking_lot::{Condvar, Mutex};

/// Opens when the last vCPU has arrived, and stays open.
#[derive(Debug)]
pub(crate) struct StartBarrier {
    missing: Mutex<usize>,
    changed: Condvar,
}

impl StartBarrier {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self { missing: Mutex::new(vcpus), changed: Condvar::new() }
    }

    /// Notes that one more vCPU is ready to run.
    pub(crate) fn arrive(&self) {
        let mut missing = self.missing.lock();
        *missing = missing.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits until all have arrived (true), or until `interrupted` (false), which is checked again after each
    /// [`notify`](Self::notify).
    pub(crate) fn wait(&self, interrupted: impl Fn() -> bool) -> bool {
        let mut missing = self.missing.lock();
        while *missing > 0 {
            if interrupted() {
                return false;
            }
            self.changed.wait(&mut missing);
        }
        true
    }

    /// Makes the waiting vCPUs check again whether they are interrupted.
    pub(crate) fn notify(&self) {
        // With the lock held, no vCPU is between its check and its wait.
        let _missing = self.missing.lock();
        self.changed.notify_all();
    }
}
