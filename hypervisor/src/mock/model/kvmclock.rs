//! The guest's clock. It does not count: it shows what was set.

use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, kvm_clock_data};
use parking_lot::Mutex;

use crate::Result;
use crate::mock::refused;

/// Nanoseconds.
#[derive(Default)]
pub(in crate::mock) struct Kvmclock(Mutex<u64>);

impl Kvmclock {
    pub(in crate::mock) fn get(&self) -> kvm_clock_data {
        kvm_clock_data { clock: *self.0.lock(), ..Default::default() }
    }

    pub(in crate::mock) fn set(&self, new: &kvm_clock_data) -> Result<()> {
        if new.flags & !(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC) != 0 {
            return Err(refused("KVM_SET_CLOCK", libc::EINVAL));
        }
        *self.0.lock() = new.clock;
        Ok(())
    }
}
