//! A VM of the mock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use parking_lot::Mutex;

use super::io::coalesced::Coalesced;
use super::io::ioeventfd::IoEventfds;
use super::irq::irqchip::Irqchip;
use super::irq::time_source::Clock;
use super::memory::Memory;
use super::model::capabilities;
use super::model::kvmclock::Kvmclock;
use super::vcpu::SoftVcpu;
use super::vcpu::event_inbox::EventInbox;
use super::{Scripts, refused};
use crate::{
    Access, AddressSpace, Coalescing, EventFd, Gsi, GuestMemoryRegion, IoEvent, Irqs, Pic, Result, Route, SlotId, Vcpu,
    VcpuId, Vm, VmState,
};

/// A VM of the mock. It makes vCPUs that can be led step by step.
pub struct SoftVm {
    scripts: Arc<Scripts>,
    is_scripted: bool,
    platform: Arc<Platform>,
    made: Mutex<BTreeSet<VcpuId>>,
}

/// What vCPUs touch of their VM.
pub(super) struct Platform {
    pub(super) memory: Memory,
    pub(super) ioevents: IoEventfds,
    pub(super) coalesced: Coalesced,
    pub(super) irqs: Irqchip,
    pub(super) clock: Kvmclock,
}

impl Platform {
    /// Whether a write that no memory takes ends here, without an exit.
    pub(super) fn takes_write(&self, space: AddressSpace, address: u64, data: &[u8], inbox: &EventInbox) -> bool {
        self.irqs.takes_write(space, address, data, inbox) || self.keeps_write(space, address, data)
    }

    /// Whether a write ends in what the VMM has asked for: a signal, or a place among those that are coalesced.
    pub(super) fn keeps_write(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        self.ioevents.signal(space, address, data) || self.coalesced.takes_write(space, address, data)
    }
}

impl SoftVm {
    pub(super) fn new(scripts: Arc<Scripts>, is_scripted: bool, clock: Clock) -> Result<Self> {
        let platform = Platform {
            memory: Memory::default(),
            ioevents: IoEventfds::default(),
            coalesced: Coalesced::default(),
            irqs: Irqchip::new(clock)?,
            clock: Kvmclock::default(),
        };
        Ok(Self { scripts, is_scripted, platform: Arc::new(platform), made: Mutex::default() })
    }

    pub(super) fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// [`Vm::create_vcpu`], with all that a vCPU of the mock can do.
    ///
    /// # Errors
    ///
    /// `EEXIST` where there is one of that id; what the kernel says where it has no eventfd left.
    pub fn create_soft_vcpu(&self, id: VcpuId) -> Result<SoftVcpu> {
        let mut made = self.made.lock();
        if made.contains(&id) {
            return Err(refused("KVM_CREATE_VCPU", libc::EEXIST));
        }
        let vcpu = SoftVcpu::new(id, (self.scripts)(id), Arc::clone(&self.platform))?;
        made.insert(id);
        Ok(vcpu)
    }

    /// Moves the VM's clock: that of the PIT, of the local APICs' timers, of the time-stamp counters and of kvmclock.
    /// From the first call on it is still between calls, whatever [`Clock`] the VM began with.
    pub fn advance(&self, by: Duration) {
        self.platform.irqs.advance(by);
    }
}

impl Vm for SoftVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        Ok(Box::new(self.create_soft_vcpu(id)?))
    }

    fn check_extension(&self, number: u32) -> i32 {
        capabilities::check(number, self.is_scripted)
    }

    /// Nothing lies there: scripts need no page tables.
    fn set_identity_map_address(&self, _: u64) -> Result<()> {
        if self.made.lock().is_empty() { Ok(()) } else { Err(refused("KVM_SET_IDENTITY_MAP_ADDR", libc::EINVAL)) }
    }

    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        self.platform.memory.map(region)
    }

    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        self.platform.memory.unmap(slot)
    }

    fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>> {
        self.platform.memory.dirty_log(slot)
    }

    fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.platform.ioevents.register(at, event)
    }

    fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.platform.ioevents.unregister(at, event)
    }
}

impl Irqs for SoftVm {
    fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        self.platform.irqs.register_irqfd(gsi, trigger, resample)
    }

    fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()> {
        self.platform.irqs.unregister_irqfd(gsi, trigger);
        Ok(())
    }

    fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.platform.irqs.set_irq(gsi, level);
        Ok(())
    }

    fn set_routing(&self, routes: &[Route]) -> Result<()> {
        self.platform.irqs.set_routing(routes)
    }
}

impl Coalescing for SoftVm {
    fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.platform.coalesced.add(space, start, len);
        Ok(())
    }

    fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.platform.coalesced.remove(space, start, len);
        Ok(())
    }

    fn has_coalesced(&self) -> bool {
        self.platform.coalesced.any()
    }

    fn take_coalesced(&self, into: &mut Vec<Access>) {
        self.platform.coalesced.take(into);
    }
}

impl VmState for SoftVm {
    fn pic(&self, which: Pic) -> Result<kvm_pic_state> {
        Ok(self.platform.irqs.pic(which))
    }

    fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()> {
        self.platform.irqs.set_pic(which, state);
        Ok(())
    }

    fn ioapic(&self) -> Result<kvm_ioapic_state> {
        Ok(self.platform.irqs.ioapic())
    }

    fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()> {
        self.platform.irqs.set_ioapic(state);
        Ok(())
    }

    fn pit(&self) -> Result<kvm_pit_state2> {
        Ok(self.platform.irqs.pit())
    }

    fn set_pit(&self, state: &kvm_pit_state2) -> Result<()> {
        self.platform.irqs.set_pit(state);
        Ok(())
    }

    fn clock(&self) -> Result<kvm_clock_data> {
        Ok(self.platform.clock.get(self.platform.irqs.time.now()))
    }

    fn set_clock(&self, clock: &kvm_clock_data) -> Result<()> {
        self.platform.clock.set(clock, self.platform.irqs.time.now())
    }
}
