//! kvmclock: the guest's clock, which it reads in a page of its own memory (`Documentation/virt/kvm/x86/msr.rst` of the
//! kernel).
//!
//! The clock and the time-stamp counter are the VM's clock with an offset each, so what the page says stays true until
//! one of the offsets is set.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, kvm_clock_data};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::mock::irq::irqchip::Irqchip;
use crate::mock::memory::Slots;
use crate::mock::refused;
use crate::mock::vcpu::event_inbox::EventInbox;

/// Seconds from 1970 to the year 2000, when a VM with a virtual clock begins.
const VIRTUAL_START: u64 = 946_684_800;
const NANOSECONDS: u64 = 1_000_000_000;

/// A VM's: by how much its clock is ahead of the VM's time, and how often that was set.
#[derive(Default)]
pub(in crate::mock) struct Kvmclock {
    offset: AtomicU64,
    changes: AtomicU32,
}

impl Kvmclock {
    fn at(&self, now: u64) -> u64 {
        now.wrapping_add(self.offset.load(Ordering::Acquire))
    }

    /// `KVM_GET_CLOCK`.
    pub(in crate::mock) fn get(&self, now: u64) -> kvm_clock_data {
        kvm_clock_data { clock: self.at(now), flags: KVM_CLOCK_TSC_STABLE, ..Default::default() }
    }

    /// `KVM_SET_CLOCK`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for flags that there are not.
    pub(in crate::mock) fn set(&self, new: &kvm_clock_data, now: u64) -> Result<()> {
        if new.flags & !(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC) != 0 {
            return Err(refused("KVM_SET_CLOCK", libc::EINVAL));
        }
        self.offset.store(new.clock.wrapping_sub(now), Ordering::Release);
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// A vCPU's.
#[derive(Default)]
pub(in crate::mock) struct ClockPages {
    /// `MSR_KVM_SYSTEM_TIME`: where the clock's page is, with bit 0 where it is to be kept.
    system_time: u64,
    /// `MSR_KVM_WALL_CLOCK`: where the time of the clock's beginning is.
    wall_clock: u64,
    /// What the page was written for: the changes of the VM's clock, and the offset of the time-stamp counter.
    written: Option<(u32, u64)>,
    wall_clock_is_due: bool,
    version: u32,
}

impl ClockPages {
    pub(in crate::mock) fn system_time(&self) -> u64 {
        self.system_time
    }

    pub(in crate::mock) fn set_system_time(&mut self, value: u64) {
        (self.system_time, self.written) = (value, None);
    }

    pub(in crate::mock) fn wall_clock(&self) -> u64 {
        self.wall_clock
    }

    pub(in crate::mock) fn set_wall_clock(&mut self, value: u64) {
        (self.wall_clock, self.wall_clock_is_due) = (value, true);
    }

    /// Writes what the guest has asked for and what is not true any more. Called before a batch of instructions.
    #[inline]
    pub(in crate::mock) fn update(&mut self, clock: &Kvmclock, irqs: &Irqchip, inbox: &EventInbox, slots: &Slots) {
        if self.system_time & 1 != 0 {
            let wanted = (clock.changes.load(Ordering::Acquire), inbox.tsc_offset());
            if self.written != Some(wanted) {
                self.written = Some(wanted);
                self.write_system_time(clock, irqs, inbox, slots);
            }
        }
        if self.wall_clock_is_due {
            self.wall_clock_is_due = false;
            self.write_wall_clock(clock, irqs, inbox, slots);
        }
    }

    /// `struct pvclock_vcpu_time_info`: version, time stamp, clock at that time, factor and shift from one to the
    /// other, flags.
    #[cold]
    fn write_system_time(&mut self, clock: &Kvmclock, irqs: &Irqchip, inbox: &EventInbox, slots: &Slots) {
        // Both count nanoseconds: (difference << 1) * 2^31 >> 32 is the difference.
        const FACTOR: u32 = 1 << 31;
        const SHIFT: u8 = 1;
        const TSC_IS_STABLE: u8 = 1;
        let now = irqs.now(inbox);
        let mut data = [0; 24];
        let parts: [(usize, &[u8]); 5] = [
            (0, &now.wrapping_add(inbox.tsc_offset()).to_le_bytes()),
            (8, &clock.at(now).to_le_bytes()),
            (16, &FACTOR.to_le_bytes()),
            (20, &[SHIFT]),
            (21, &[TSC_IS_STABLE]),
        ];
        for (at, bytes) in parts {
            data.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
        }
        let page = self.system_time & !1;
        self.write_versioned(slots, page, page.wrapping_add(8), &data);
    }

    /// `struct pvclock_wall_clock`: version, seconds, nanoseconds.
    #[cold]
    fn write_wall_clock(&mut self, clock: &Kvmclock, irqs: &Irqchip, inbox: &EventInbox, slots: &Slots) {
        let now = irqs.now(inbox);
        let wall =
            if irqs.time.is_hosts() { realtime() } else { VIRTUAL_START.wrapping_mul(NANOSECONDS).wrapping_add(now) };
        let start = wall.wrapping_sub(clock.at(now));
        let seconds = start.checked_div(NANOSECONDS).unwrap_or(0) as u32;
        let nanoseconds = start.checked_rem(NANOSECONDS).unwrap_or(0) as u32;
        let data = u64::from(nanoseconds) << 32 | u64::from(seconds);
        let at = self.wall_clock;
        self.write_versioned(slots, at, at.wrapping_add(4), &data.to_le_bytes());
    }

    /// Writes data between two versions, so that another vCPU which reads them meanwhile finds an odd one.
    fn write_versioned(&mut self, slots: &Slots, version: u64, at: u64, data: &[u8]) {
        for part in 0..2_u8 {
            self.version = self.version.wrapping_add(1);
            put(slots, version, &self.version.to_le_bytes());
            if part == 0 {
                put(slots, at, data);
            }
        }
    }
}

/// Writes where there is memory. As in KVM nothing happens where there is none.
fn put(slots: &Slots, address: u64, data: &[u8]) {
    for (at, byte) in (0..).map(|offset| address.wrapping_add(offset)).zip(data) {
        if let Some((slot, offset)) = slots.find(at)
            && !slot.is_read_only()
        {
            slot.store(offset, 1, (*byte).into());
        }
    }
}

fn realtime() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.unsigned_abs().wrapping_mul(NANOSECONDS).wrapping_add(time.tv_nsec.unsigned_abs())
}
