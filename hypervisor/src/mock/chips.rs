//! The mock's PIT and clock. Neither counts: they show what was set.

use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, kvm_clock_data, kvm_pit_state2};
use parking_lot::Mutex;

use super::{refused, reset};
use crate::Result;

/// The count that is written as 0.
const LARGEST_COUNT: u32 = 0x1_0000;

pub(super) struct Chips {
    pit: Mutex<kvm_pit_state2>,
    clock: Mutex<u64>,
}

impl Default for Chips {
    fn default() -> Self {
        Self { pit: Mutex::new(reset::pit()), clock: Mutex::new(0) }
    }
}

impl Chips {
    pub(super) fn pit(&self) -> kvm_pit_state2 {
        *self.pit.lock()
    }

    pub(super) fn set_pit(&self, new: &kvm_pit_state2) {
        let mut pit = kvm_pit_state2 { reserved: [0; 9], ..*new };
        for channel in pit.channels.iter_mut().filter(|channel| channel.count == 0) {
            channel.count = LARGEST_COUNT;
        }
        *self.pit.lock() = pit;
    }

    pub(super) fn clock(&self) -> kvm_clock_data {
        kvm_clock_data { clock: *self.clock.lock(), ..Default::default() }
    }

    pub(super) fn set_clock(&self, new: &kvm_clock_data) -> Result<()> {
        if new.flags & !(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC) != 0 {
            return Err(refused("KVM_SET_CLOCK", libc::EINVAL));
        }
        *self.clock.lock() = new.clock;
        Ok(())
    }
}
