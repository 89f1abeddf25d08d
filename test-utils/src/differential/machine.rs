//! One VM that runs one program after the other.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hypervisor::mock::{Executed, Mock, SoftVcpu};
use hypervisor::{
    AddressSpace, Direction, GuestAddress, GuestMemoryRegion, Hypervisor, Vcpu, VcpuId, Vm, kvm_debugregs,
    kvm_mp_state, kvm_regs, kvm_sregs,
};

use iced_x86::{Code as Opcode, Decoder};

use super::drive::{End, Seen, Watchdog};
use super::layout::{self, AREAS, FINAL_PORT, RAM_LEN, TRAPS, VECTORS};
use super::program::Start;
use crate::memory;

/// What a program did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The accesses that exited, in order.
    pub exits: Vec<Seen>,
    /// Why it ended.
    pub end: End,
    /// General registers at the end.
    pub regs: kvm_regs,
    /// Segment and control registers at the end.
    pub sregs: kvm_sregs,
    /// Debug registers at the end.
    pub debug_regs: kvm_debugregs,
    /// All RAM at the end, in the memfd's order.
    pub memory: Vec<u8>,
}

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
        let vcpu = vm.create_vcpu(VcpuId(0)).expect("create_vcpu");
        Self::with(vm, vcpu, ram)
    }
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

    /// Runs `code` like [`run`](Self::run), and tells the instructions that were executed, the repetitions of one counted
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
        let decode = |executed: &Executed| Decoder::new(start.mode.bits(), executed.bytes(), 0).decode().code();
        (outcome, executed.iter().map(decode).collect())
    }
}

/// Maps all RAM, and gives it.
fn lay_out(vm: &dyn Vm) -> OwnedFd {
    let ram = memory::sealed_memfd(RAM_LEN as u64);
    for area in AREAS {
        let memfd = ram.try_clone().expect("dup");
        let region = GuestMemoryRegion::new(GuestAddress(area.start), memfd, area.offset() as u64, area.len);
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
        memory::write_at(&self.ram, 0, &layout::image(start, code));
        let vcpu = &mut *self.vcpu;
        vcpu.set_sregs(&layout::sregs(start.mode, &self.reset)).expect("set_sregs");
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

fn end(seen: &Seen) -> Option<End> {
    if seen.space != AddressSpace::Pio || seen.direction != Direction::Write {
        return None;
    }
    let port = u16::try_from(seen.address).ok()?;
    match port {
        FINAL_PORT => Some(End::Done),
        0..VECTORS if !TRAPS.contains(&port) => Some(End::Exception(port)),
        _ => None,
    }
}
