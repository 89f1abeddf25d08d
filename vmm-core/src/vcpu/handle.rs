//! What other threads have of a vCPU: its kick, and its pending pauses.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use hypervisor::Kick;
use parking_lot::Mutex;

use crate::owner::OwnerId;

/// One vCPU for other threads. It exists before the vCPU does.
#[derive(Debug, Default)]
pub(crate) struct VcpuHandle {
    kick: OnceLock<Kick>,
    /// Pauses not yet delivered: one an owner, a newer one in place of the older.
    pauses: Mutex<BTreeMap<OwnerId, u64>>,
}

impl VcpuHandle {
    /// Sets the kick of the vCPU. Called once, before its thread starts.
    pub(crate) fn set_kick(&self, kick: Kick) {
        // There is no second vCPU for the same handle: a machine starts once.
        let _ = self.kick.set(kick);
    }

    /// Gets the vCPU out of the guest, now or when it next enters.
    pub(crate) fn kick(&self) {
        if let Some(kick) = self.kick.get() {
            kick.kick();
        }
    }

    /// Kicks once more where the last kick has not got the vCPU out of the guest: whether that was so.
    pub(crate) fn repeat_kick(&self) -> bool {
        self.kick.get().is_some_and(Kick::repeat)
    }

    /// Requests a pause for `owner` at the next safe point. The request is stored before the kick, so it is there when the kick
    /// interrupts the run; a vCPU without a kick yet checks it before its first run.
    pub(crate) fn pause(&self, owner: OwnerId, user: u64) {
        self.pauses.lock().insert(owner, user);
        self.kick();
    }

    pub(crate) fn has_pause(&self) -> bool {
        !self.pauses.lock().is_empty()
    }

    pub(crate) fn take_pause(&self) -> Option<(OwnerId, u64)> {
        self.pauses.lock().pop_first()
    }
}
