//! A VM some of whose operations fail.

use std::sync::Arc;

use hypervisor::{
    Access, AddressSpace, Coalescing, Error, EventFd, Gsi, GuestMemoryRegion, IoEvent, Irqs, MemoryProblem, Pic,
    Result, Route, SlotId, Vcpu, VcpuId, Vm, VmState, kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2,
};

use super::Faults;
use super::vcpu::FaultyVcpu;

pub(super) struct FaultyVm {
    pub(super) inner: Arc<dyn Vm>,
    pub(super) faults: Faults,
}

impl Vm for FaultyVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        self.faults.ask("KVM_CREATE_VCPU")?;
        Ok(Box::new(FaultyVcpu { inner: self.inner.create_vcpu(id)?, faults: self.faults.clone() }))
    }

    /// One that fails is a capability that is not there.
    fn check_extension(&self, number: u32) -> i32 {
        if self.faults.strike("KVM_CHECK_EXTENSION").is_some() { 0 } else { self.inner.check_extension(number) }
    }

    fn set_identity_map_address(&self, address: u64) -> Result<()> {
        self.faults.ask("KVM_SET_IDENTITY_MAP_ADDR")?;
        self.inner.set_identity_map_address(address)
    }

    /// Two operations, `mmap` and `KVM_SET_USER_MEMORY_REGION`.
    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        if let Some(source) = self.faults.strike("mmap") {
            let (start, len) = (region.start().0, region.len());
            return Err(Error::Memory { start, len, problem: MemoryProblem::System(source) });
        }
        self.faults.ask("KVM_SET_USER_MEMORY_REGION")?;
        self.inner.map_memory(region)
    }

    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        self.faults.ask("KVM_SET_USER_MEMORY_REGION")?;
        self.inner.unmap_memory(slot)
    }

    fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>> {
        self.faults.ask("KVM_GET_DIRTY_LOG")?;
        self.inner.dirty_log(slot)
    }

    fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.faults.ask("KVM_IOEVENTFD")?;
        self.inner.register_ioevent(at, event)
    }

    fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.faults.ask("KVM_IOEVENTFD")?;
        self.inner.unregister_ioevent(at, event)
    }
}

impl Irqs for FaultyVm {
    fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        self.faults.ask("KVM_IRQFD")?;
        self.inner.register_irqfd(gsi, trigger, resample)
    }

    fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()> {
        self.faults.ask("KVM_IRQFD")?;
        self.inner.unregister_irqfd(gsi, trigger)
    }

    fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.faults.ask("KVM_IRQ_LINE")?;
        self.inner.set_irq(gsi, level)
    }

    fn set_routing(&self, routes: &[Route]) -> Result<()> {
        self.faults.ask("KVM_SET_GSI_ROUTING")?;
        self.inner.set_routing(routes)
    }
}

impl Coalescing for FaultyVm {
    fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.faults.ask("KVM_REGISTER_COALESCED_MMIO")?;
        self.inner.coalesce_writes(space, start, len)
    }

    fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.faults.ask("KVM_UNREGISTER_COALESCED_MMIO")?;
        self.inner.stop_coalescing(space, start, len)
    }

    fn has_coalesced(&self) -> bool {
        self.inner.has_coalesced()
    }

    fn take_coalesced(&self, into: &mut Vec<Access>) {
        self.inner.take_coalesced(into);
    }
}

impl VmState for FaultyVm {
    fn pic(&self, which: Pic) -> Result<kvm_pic_state> {
        self.faults.ask("KVM_GET_IRQCHIP")?;
        self.inner.pic(which)
    }

    fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()> {
        self.faults.ask("KVM_SET_IRQCHIP")?;
        self.inner.set_pic(which, state)
    }

    fn ioapic(&self) -> Result<kvm_ioapic_state> {
        self.faults.ask("KVM_GET_IRQCHIP")?;
        self.inner.ioapic()
    }

    fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()> {
        self.faults.ask("KVM_SET_IRQCHIP")?;
        self.inner.set_ioapic(state)
    }

    fn pit(&self) -> Result<kvm_pit_state2> {
        self.faults.ask("KVM_GET_PIT2")?;
        self.inner.pit()
    }

    fn set_pit(&self, state: &kvm_pit_state2) -> Result<()> {
        self.faults.ask("KVM_SET_PIT2")?;
        self.inner.set_pit(state)
    }

    fn clock(&self) -> Result<kvm_clock_data> {
        self.faults.ask("KVM_GET_CLOCK")?;
        self.inner.clock()
    }

    fn set_clock(&self, clock: &kvm_clock_data) -> Result<()> {
        self.faults.ask("KVM_SET_CLOCK")?;
        self.inner.set_clock(clock)
    }
}
