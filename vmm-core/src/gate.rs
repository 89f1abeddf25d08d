//! The gate at which vCPUs wait until all are there.

use parking_lot::{Condvar, Mutex};

/// Opens when the last vCPU has arrived, and stays open. It can be broken, which lets all go.
#[derive(Debug)]
pub(crate) struct Gate {
    missing: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new(vcpus: usize) -> Self {
        Self { missing: Mutex::new(vcpus), changed: Condvar::new() }
    }

    /// Says that one more vCPU is ready to run.
    pub(crate) fn arrive(&self) {
        let mut missing = self.missing.lock();
        *missing = missing.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Waits until all have arrived (true), or until `interrupted` (false), which is asked again after each
    /// [`poke`](Self::poke).
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

    /// Makes those who wait look again at what may interrupt them.
    pub(crate) fn poke(&self) {
        // Behind the lock nobody is between looking and waiting.
        let _missing = self.missing.lock();
        self.changed.notify_all();
    }
}
