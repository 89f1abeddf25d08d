//! mockall expectations for the traits that have supertraits, which `automock` does not do.
#![allow(missing_docs, reason = "the traits say what the methods mean")]

use std::sync::Arc;

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pic_state, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use vmm_sys_util::eventfd::EventFd;

use super::{Capability, Coalescing, Gsi, Irqs, Pic, Route, SlotId, Vcpu, VcpuId, VcpuState, Vm, VmState};
use crate::{Access, AddressSpace, Exit, GuestMemoryRegion, IoEvent, Kick, Result};

mockall::mock! {
    pub Vm {}

    impl Vm for Vm {
        fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>>;
        fn check_extension(&self, number: u32) -> i32;
        fn set_identity_map_address(&self, address: u64) -> Result<()>;
        fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId>;
        fn unmap_memory(&self, slot: SlotId) -> Result<()>;
        fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>>;
        fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()>;
        fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()>;
    }

    impl Irqs for Vm {
        fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()>;
        fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()>;
        fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()>;
        fn set_routing(&self, routes: &[Route]) -> Result<()>;
    }

    impl Coalescing for Vm {
        fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()>;
        fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()>;
        fn has_coalesced(&self) -> bool;
        fn take_coalesced(&self, into: &mut Vec<Access>);
    }

    impl VmState for Vm {
        fn pic(&self, which: Pic) -> Result<kvm_pic_state>;
        fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()>;
        fn ioapic(&self) -> Result<kvm_ioapic_state>;
        fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()>;
        fn pit(&self) -> Result<kvm_pit_state2>;
        fn set_pit(&self, state: &kvm_pit_state2) -> Result<()>;
        fn clock(&self) -> Result<kvm_clock_data>;
        fn set_clock(&self, clock: &kvm_clock_data) -> Result<()>;
    }
}

mockall::mock! {
    pub Vcpu {}

    impl Vcpu for Vcpu {
        fn id(&self) -> VcpuId;
        fn kick_handle(&self) -> Kick;
        fn run(&mut self) -> Result<Exit>;
        fn commit(&mut self) -> Result<Exit>;
        fn answer(&mut self, data: &[u8]) -> Result<()>;
        fn access_data(&self) -> &[u8];
    }

    impl VcpuState for Vcpu {
        fn regs(&self) -> Result<kvm_regs>;
        fn set_regs(&mut self, regs: &kvm_regs) -> Result<()>;
        fn sregs(&self) -> Result<kvm_sregs>;
        fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()>;
        fn mp_state(&self) -> Result<kvm_mp_state>;
        fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()>;
        fn fpu(&self) -> Result<kvm_fpu>;
        fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()>;
        fn debug_regs(&self) -> Result<kvm_debugregs>;
        fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()>;
        fn lapic(&self) -> Result<kvm_lapic_state>;
        fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()>;
        fn xcrs(&self) -> Result<kvm_xcrs>;
        fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()>;
        fn vcpu_events(&self) -> Result<kvm_vcpu_events>;
        fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()>;
        fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>>;
        fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize>;
        fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()>;
        fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>>;
        fn enable_capability(&mut self, capability: Capability) -> Result<()>;
    }
}
