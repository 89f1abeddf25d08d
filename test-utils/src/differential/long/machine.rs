//! One VM that runs one user-mode program after the other.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hypervisor::mock::{Executed, Mock, SoftVcpu};
use hypervisor::{
    AddressSpace, Direction, GuestAddress, GuestMemoryRegion, Hypervisor, Vcpu, VcpuId, Vm, kvm_cpuid_entry2,
    kvm_debugregs, kvm_mp_state, kvm_sregs,
};
use iced_x86::{Code as Opcode, Decoder};

use super::layout::{self, AREAS, RAM_LEN, SOFTWARE_INTERRUPT, TABLES, VECTORS};
use super::program::Start;
use crate::differential::drive::{End, Seen, Watchdog};
use crate::differential::layout::FINAL_PORT;
use crate::differential::machine::Outcome;
use crate::memory;

/// A VM, its vCPU, and the memory that is laid out anew for each program.
pub struct Machine<V: Vcpu + ?Sized = dyn Vcpu> {
    vcpu: Box<V>,
    ram: OwnedFd,
    reset: kvm_sregs,
    debug_regs: kvm_debugregs,
    watchdog: Watchdog,
    _vm: Arc<dyn Vm>,
}

/// More instructions than a program executes, unless it runs away.
const HISTORY: usize = 1024;

impl Machine {
    /// Makes it of any backend.
    ///
    /// # Panics
    ///
    /// If the backend refuses.
    pub fn new(hypervisor: &dyn Hypervisor) -> Self {
        let vm = hypervisor.create_vm().expect("create_vm");
        let ram = lay_out(&*vm);
        let mut vcpu = vm.create_vcpu(VcpuId(0)).expect("create_vcpu");
        let supported = hypervisor.supported_cpuid().expect("supported_cpuid");
        vcpu.set_cpuid(&offered(supported)).expect("set_cpuid");
        Self::with(vm, vcpu, ram)
    }
}

/// What both backends offer: physical addresses of 46 bits, linear ones of 48.
fn offered(mut entries: Vec<kvm_cpuid_entry2>) -> Vec<kvm_cpuid_entry2> {
    for entry in entries.iter_mut().filter(|entry| entry.function == 0x8000_0008) {
        entry.eax = entry.eax & !0xffff | 48 << 8 | 46;
    }
    entries
}

impl Machine<SoftVcpu> {
    /// Makes it of the mock, whose vCPU knows what it has executed.
    ///
    /// # Panics
    ///
    /// If the mock refuses.
    pub fn mock() -> Self {
        let vm = Mock::guest_code().create_soft_vm().expect("create_soft_vm");
        let ram = lay_out(&vm);
        let vcpu = vm.create_soft_vcpu(VcpuId(0)).expect("create_soft_vcpu");
        Self::with(Arc::new(vm), Box::new(vcpu), ram)
    }

    /// Runs `code` like [`run`](Self::run), and returns the instructions that were executed, the repetitions of one counted
    /// once.
    ///
    /// # Panics
    ///
    /// As `run` does.
    pub fn run_noting(&mut self, start: &Start, code: &[u8]) -> (Outcome, Vec<Opcode>) {
        self.vcpu.keep_history(HISTORY);
        let outcome = self.run(start, code);
        let mut executed = self.vcpu.history();
        executed.dedup_by_key(|executed| executed.address());
        let decode = |executed: &Executed| Decoder::new(64, executed.bytes(), 0).decode().code();
        (outcome, executed.iter().map(decode).collect())
    }
}

/// Maps all RAM, with the tables in it, and returns it.
fn lay_out(vm: &dyn Vm) -> OwnedFd {
    let ram = memory::sealed_memfd(RAM_LEN as u64);
    memory::write_at(&ram, 0, &layout::tables());
    for area in AREAS {
        let memfd = ram.try_clone().expect("dup");
        let offset = layout::offset(&area) as u64;
        let region = GuestMemoryRegion::new(GuestAddress(area.start), memfd, offset, area.len);
        vm.map_memory(region.expect("region").read_only(area.read_only)).expect("map_memory");
    }
    ram
}

impl<V: Vcpu + ?Sized> Machine<V> {
    fn with(vm: Arc<dyn Vm>, vcpu: Box<V>, ram: OwnedFd) -> Self {
        let (reset, debug_regs) = (vcpu.sregs().expect("sregs"), vcpu.debug_regs().expect("debug_regs"));
        let watchdog = Watchdog::new(vcpu.kick_handle());
        Self { vcpu, ram, reset, debug_regs, watchdog, _vm: vm }
    }

    /// Runs `code` from `start` to its end.
    ///
    /// # Panics
    ///
    /// If the backend refuses what no backend should.
    pub fn run(&mut self, start: &Start, code: &[u8]) -> Outcome {
        memory::write_at(&self.ram, TABLES.len, &layout::image(start, code));
        let vcpu = &mut *self.vcpu;
        vcpu.set_sregs(&layout::sregs(&self.reset)).expect("set_sregs");
        vcpu.set_regs(&layout::regs(start)).expect("set_regs");
        let (exits, end) = self.watchdog.drive(vcpu, start.memory, end);
        let (regs, sregs) = (vcpu.regs().expect("regs"), vcpu.sregs().expect("sregs"));
        let debug_regs = vcpu.debug_regs().expect("debug_regs");
        if debug_regs != self.debug_regs {
            vcpu.set_debug_regs(&self.debug_regs).expect("set_debug_regs");
        }
        if !matches!(end, End::Done | End::Exception(_)) {
            vcpu.set_vcpu_events(&Default::default()).expect("set_vcpu_events");
            vcpu.set_mp_state(&kvm_mp_state::default()).expect("set_mp_state");
        }
        Outcome { exits, end, regs, sregs, debug_regs, memory: memory::read_at(&self.ram, 0, RAM_LEN) }
    }
}

/// The program's last instruction, or that of a handler.
fn end(seen: &Seen) -> Option<End> {
    if seen.space != AddressSpace::Pio || seen.direction != Direction::Write {
        return None;
    }
    match u16::try_from(seen.address).ok()? {
        FINAL_PORT => Some(End::Done),
        SOFTWARE_INTERRUPT => Some(End::Exception(VECTORS)),
        vector @ 0..VECTORS => Some(End::Exception(vector)),
        _ => None,
    }
}
