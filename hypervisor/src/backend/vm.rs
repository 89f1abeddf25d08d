//! A virtual machine: memory, interrupts, and the state of its chips.

use std::sync::Arc;

use kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use vmm_sys_util::eventfd::EventFd;

use super::{Coalescing, Gsi, SlotId, Vcpu, VcpuId};
use crate::{GuestMemoryRegion, IoEvent, Result};

/// A virtual machine. Its interrupts, the state of its chips and its coalesced writes are in its supertraits.
pub trait Vm: Irqs + VmState + Coalescing + Send + Sync {
    /// Makes a vCPU in its state at reset. Each id can be made once; vCPU 0 is runnable, the others wait for a
    /// start-up interrupt unless their MP state is set.
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>>;

    /// What the backend says of capability `number` (`KVM_CHECK_EXTENSION`): 0 or less where it lacks it.
    fn check_extension(&self, number: u32) -> i32;

    /// Where the page tables lie that some processors need in real mode (`KVM_SET_IDENTITY_MAP_ADDR`); 0 is the
    /// default. `EINVAL` once a vCPU exists.
    fn set_identity_map_address(&self, address: u64) -> Result<()>;

    /// Maps memory into the guest. Memory that overlaps what is mapped is refused and changes nothing.
    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId>;

    /// Takes memory away again. The guest's next access there is an exit.
    fn unmap_memory(&self, slot: SlotId) -> Result<()>;

    /// The pages of a slot that were written since the last call, one bit a page, lowest first, in whole words.
    /// `ENOENT` where the slot's writes are not logged.
    fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>>;

    /// From now on matching writes signal `event` and do not exit. `EEXIST` where some write would match one that is
    /// registered too.
    fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()>;

    /// Undoes [`register_ioevent`](Self::register_ioevent) with the same arguments; `ENOENT` if there was none.
    fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()>;
}

/// A VM's interrupt lines.
///
/// A line is high while [`set_irq`](Self::set_irq) holds it so, or since one of its irqfds was written until the guest
/// has acknowledged the interrupt.
pub trait Irqs {
    /// From now on a write to `trigger` raises `gsi`. When the guest acknowledges, the line is lowered and `resample`
    /// is signalled. `EBUSY` where `trigger` has a GSI already.
    fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()>;

    /// Undoes [`register_irqfd`](Self::register_irqfd). One that is unknown is no error.
    fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()>;

    /// Sets the line's level. A GSI that leads nowhere is no error.
    fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()>;

    /// Replaces the whole routing table. `EINVAL` for a GSI of 4096 or more, a pin that its chip lacks, or more than one
    /// route to the same chip; the table is then as it was.
    fn set_routing(&self, routes: &[Route]) -> Result<()>;
}

/// Where a GSI leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a pin of an interrupt controller.
    Irqchip {
        /// The GSI.
        gsi: Gsi,
        /// `KVM_IRQCHIP_*`: 0 and 1 are the PICs, 2 is the IOAPIC.
        chip: u32,
        /// From 0 in each chip.
        pin: u32,
    },
    /// To a local APIC, as a message.
    Msi {
        /// The GSI.
        gsi: Gsi,
        /// The message's address.
        address: u64,
        /// The message's data.
        data: u32,
    },
}

/// One of the two 8259s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pic {
    /// The one with the lines 0 to 7.
    Primary,
    /// The one with the lines 8 to 15, behind line 2 of the other.
    Secondary,
}

/// The state of a VM's chips, as the kernel's structures have it.
pub trait VmState {
    /// A PIC (`KVM_GET_IRQCHIP`).
    fn pic(&self, which: Pic) -> Result<kvm_pic_state>;
    /// Sets a PIC.
    fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()>;
    /// The IOAPIC (`KVM_GET_IRQCHIP`).
    fn ioapic(&self) -> Result<kvm_ioapic_state>;
    /// Sets the IOAPIC.
    fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()>;
    /// The PIT (`KVM_GET_PIT2`).
    fn pit(&self) -> Result<kvm_pit_state2>;
    /// Sets the PIT. A count of 0 is 65536, and times begin anew.
    fn set_pit(&self, state: &kvm_pit_state2) -> Result<()>;
    /// The guest's clock in nanoseconds (`KVM_GET_CLOCK`).
    fn clock(&self) -> Result<kvm_clock_data>;
    /// Sets the guest's clock. `EINVAL` for an unknown flag.
    fn set_clock(&self, clock: &kvm_clock_data) -> Result<()>;
}
