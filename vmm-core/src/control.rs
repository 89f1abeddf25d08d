//! What other threads hold of a vCPU: its kick, and the pauses it owes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use hypervisor::Kick;
use parking_lot::Mutex;

use crate::owner::OwnerId;

/// The outside of one vCPU. It exists before the vCPU does.
#[derive(Debug, Default)]
pub(crate) struct Control {
    kick: OnceLock<Kick>,
    /// Pauses not yet delivered: one an owner, a newer one in place of the older.
    pauses: Mutex<BTreeMap<OwnerId, u64>>,
}

impl Control {
    /// Tells of the vCPU. Called once, before its thread starts.
    pub(crate) fn set_kick(&self, kick: Kick) {
        // A second vCPU for the same control cannot be: machines start once.
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

    /// Wishes the vCPU to stop for `owner` at its next safe point. The wish is written down before the kick, so the
    /// kick's `Interrupted` finds it; without a kick yet, the vCPU looks before its first run.
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
