//! The machine: its memory with the guests' code, its addresses, its eventfds.

use plugin_sdk::{
    AddressSpace, Connection, Error, GuestMemory, IoEvent, MemoryFlags, PAGE_SIZE, State, WriteMatch, kvm_mp_state,
};

use super::shared::Shared;
use crate::soak::layout::{self, VCPUS};
use crate::soak::{model, program};

/// A vCPU's eventfds: of a port, of an address in memory.
pub(super) type Bells = [IoEvent; 2];

/// Gives the VM memory and addresses: the eventfds of each vCPU.
pub(super) fn set_up(vm: &mut Connection, shared: &Shared) -> Result<Vec<Bells>, Error> {
    let ram = GuestMemory::new(layout::RAM_SIZE)?;
    for (vcpu, program) in shared.plan.programs.iter().enumerate() {
        ram.write(layout::code(vcpu), &program.code(vcpu))?;
        ram.write(layout::source(vcpu), &model::source(shared.plan.seed, vcpu))?;
    }
    for line in [layout::EVENT_LINE, layout::PULSE_LINE] {
        let handler = layout::HANDLERS + layout::HANDLER_SIZE * line as u16;
        ram.write(handler.into(), &program::handler(line))?;
        // A vector is an offset and a segment, here 0.
        let vector = u64::from(layout::FIRST_VECTOR) + u64::from(line);
        ram.write(4 * vector, &u32::from(handler).to_le_bytes())?;
    }
    let _mapped = vm.map_memory(&ram, 0..ram.size(), 0, MemoryFlags::default())?;

    for ports in [layout::SYNC_PORTS, layout::SUM_PORTS, layout::STRING_PORTS, layout::DONE_PORTS] {
        vm.reserve_range(AddressSpace::Pio, ports, layout::PORTS)?;
    }
    vm.reserve_range(AddressSpace::Pio, layout::READY_PORT, 1)?;
    vm.reserve_async_write_range(AddressSpace::Pio, layout::POSTED_PORTS, layout::PORTS)?;
    if shared.plan.handlers_wait {
        vm.reserve_range(AddressSpace::Pio, layout::LINE_PORTS, layout::PORTS)?;
    } else {
        vm.reserve_async_write_range(AddressSpace::Pio, layout::LINE_PORTS, layout::PORTS)?;
    }
    vm.reserve_range(AddressSpace::Mmio, layout::SYNC_PAGE, PAGE_SIZE)?;
    vm.reserve_async_write_range(AddressSpace::Mmio, layout::POSTED_PAGE, PAGE_SIZE)?;
    vm.reserve_range(AddressSpace::Mmio, layout::WINDOW, PAGE_SIZE)?;
    vm.reserve_coalesced_write_range(AddressSpace::Pio, layout::COALESCED_PORTS, layout::PORTS)?;
    vm.reserve_coalesced_write_range(AddressSpace::Mmio, layout::COALESCED_PAGE, PAGE_SIZE)?;

    let mut bells = |vcpu| -> Result<Bells, Error> {
        Ok([
            vm.create_io_event(AddressSpace::Pio, layout::bell_port(vcpu), WriteMatch::Any)?,
            vm.create_io_event(AddressSpace::Mmio, layout::bell_address(vcpu), WriteMatch::Any)?,
        ])
    };
    (0..VCPUS).map(&mut bells).collect()
}

/// Puts a vCPU at its first instruction, in 16-bit real mode with all segments at 0.
pub(super) fn boot(vcpu: usize, rounds: u32, state: &mut State<'_>) -> Result<(), Error> {
    let mut sregs = state.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);
    let mut regs = state.regs()?;
    regs.rip = layout::code(vcpu);
    regs.rsp = layout::STACK_TOP;
    regs.rbp = rounds.into();
    (regs.rbx, regs.rsi) = (0, 0);
    state.set_regs(&regs);
    // KVM's others wait for a start-up interrupt. 0 is KVM_MP_STATE_RUNNABLE.
    state.set_mp_state(&kvm_mp_state { mp_state: 0 })
}
