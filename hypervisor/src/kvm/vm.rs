//! A VM on KVM.

use std::sync::Arc;

use kvm_bindings::{KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS, kvm_pit_config};
use kvm_ioctls::{Kvm as KvmFd, VmFd};

use super::coalesced::Coalesced;
use super::memory::Memory;
use super::vcpu::KvmVcpu;
use super::{irqs, system};
use crate::{EventFd, GuestMemoryRegion, IoEvent, Result, SlotId, Vcpu, VcpuId, Vm};

/// A VM with the kernel's interrupt controllers and PIT.
pub(super) struct KvmVm {
    pub(super) fd: VmFd,
    memory: Memory,
    pub(super) coalesced: Coalesced,
}

impl KvmVm {
    pub(super) fn new(kvm: &KvmFd, huge_pages: bool) -> Result<Self> {
        let fd = create_vm_retrying(kvm)?;
        fd.create_irq_chip().map_err(system("KVM_CREATE_IRQCHIP"))?;
        fd.create_pit2(kvm_pit_config::default()).map_err(system("KVM_CREATE_PIT2"))?;
        let max_slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX);
        Ok(Self { fd, memory: Memory::new(max_slots, huge_pages), coalesced: Coalesced::default() })
    }

    /// Whether the kernel gives the general registers with each exit.
    fn gives_regs(&self) -> bool {
        let fields = self.check_extension(KVM_CAP_SYNC_REGS);
        u32::try_from(fields).is_ok_and(|fields| fields & KVM_SYNC_X86_REGS != 0)
    }
}

/// `KVM_CREATE_VM` can be interrupted by a signal before it has done anything.
fn create_vm_retrying(kvm: &KvmFd) -> Result<VmFd> {
    loop {
        match kvm.create_vm() {
            Err(errno) if errno.errno() == libc::EINTR => {}
            other => return other.map_err(system("KVM_CREATE_VM")),
        }
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        let fd = self.fd.create_vcpu(u64::from(id.0)).map_err(system("KVM_CREATE_VCPU"))?;
        let slots = Arc::clone(&self.memory.slots);
        let vcpu = KvmVcpu::new(id, fd, self.fd.run_size(), self.gives_regs(), slots)?;
        self.coalesced.are_seen_through(&vcpu.page);
        Ok(Box::new(vcpu))
    }

    fn check_extension(&self, number: u32) -> i32 {
        self.fd.check_extension_raw(number.into())
    }

    fn set_identity_map_address(&self, address: u64) -> Result<()> {
        self.fd.set_identity_map_address(address).map_err(system("KVM_SET_IDENTITY_MAP_ADDR"))
    }

    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        self.memory.map(&self.fd, region)
    }

    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        self.memory.unmap(&self.fd, slot)
    }

    fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>> {
        self.memory.dirty_log(&self.fd, slot)
    }

    fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        irqs::set_ioevent(&self.fd, at, event, 0)
    }

    fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        irqs::set_ioevent(&self.fd, at, event, irqs::DEASSIGN)
    }
}
