//! One VM that runs one program after the other.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hypervisor::mock::{Executed, Mock, SoftVcpu};
use hypervisor::{
    Access, AddressSpace, Direction, Exit, GuestAddress, GuestMemoryRegion, Hypervisor, Kick, Vcpu, VcpuId, Vm,
    kvm_debugregs, kvm_mp_state, kvm_regs, kvm_sregs,
};

use iced_x86::{Code as Opcode, Decoder};
use rustix::time::{ClockId, clock_gettime};

use super::layout::{self, AREAS, FINAL_PORT, RAM_LEN, TRAPS, VECTORS};
use super::program::Start;
use crate::memory;

/// A program that exits more often runs away.
const MOST_EXITS: usize = 4000;
/// A program that is not at its end after this is kicked, again and again.
const KICKED_EVERY: Duration = Duration::from_millis(75);
/// A program that has had the processor for so long and is kicked runs away. One takes less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(150);
/// One that is kicked so often, and may have halted, runs away too.
const MOST_KICKS: usize = 40;

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

/// An access that exited.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Port or memory.
    pub space: AddressSpace,
    /// First byte.
    pub address: u64,
    /// Read or write.
    pub direction: Direction,
    /// Bytes of an item.
    pub width: u8,
    /// Items.
    pub count: u16,
    /// What was written, or what the read was answered with.
    pub data: Vec<u8>,
    /// The general registers within the exit, without the flags.
    pub regs: kvm_regs,
}

/// Why a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to its last instruction.
    Done,
    /// An exception's handler told its vector.
    Exception(u16),
    /// A triple fault.
    Shutdown,
    /// The backend gave up, as it does where there is no code.
    InternalError,
    /// It had to be stopped.
    RanAway,
    /// An exit that no program should make.
    Unexpected(Exit),
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
        self.watchdog.programs.fetch_add(1, Ordering::Relaxed);
        memory::write_at(&self.ram, 0, &layout::image(start, code));
        let vcpu = &mut *self.vcpu;
        vcpu.set_sregs(&layout::sregs(start.mode, &self.reset)).expect("set_sregs");
        vcpu.set_regs(&layout::regs(start)).expect("set_regs");
        let mut exits = Vec::new();
        let mut answers = start.memory;
        let (begun, mut kicks) = (thread_time(), 0);
        let end = loop {
            match vcpu.run().expect("run") {
                Exit::Access(access) => {
                    let seen = see(vcpu, &access, &mut answers);
                    let end = end(&seen);
                    exits.push(seen);
                    if let Some(end) = end {
                        break end;
                    }
                    if exits.len() >= MOST_EXITS {
                        break End::RanAway;
                    }
                }
                Exit::Interrupted => {
                    kicks += 1;
                    // One kick may have been meant for the program before, or comes of a machine that was asleep.
                    if kicks == MOST_KICKS || kicks > 1 && thread_time() - begun >= PATIENCE {
                        break End::RanAway;
                    }
                }
                Exit::Shutdown => break End::Shutdown,
                Exit::InternalError(_) => break End::InternalError,
                other => break End::Unexpected(other),
            }
        };
        // What is under way is finished, so that registers may be set.
        while let Exit::Access(access) = vcpu.commit().expect("commit") {
            see(vcpu, &access, &mut answers);
        }
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

/// How long the calling thread has had a processor: a busy machine makes no program late.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Notes an access; answers a read with what comes next in `answers`.
fn see<V: Vcpu + ?Sized>(vcpu: &mut V, access: &Access, answers: &mut u64) -> Seen {
    let regs = vcpu.regs().expect("regs");
    let data = match access.direction() {
        Direction::Write => vcpu.access_data().to_vec(),
        Direction::Read => {
            let words = std::iter::repeat_with(|| super::random(answers).to_le_bytes());
            let data: Vec<u8> = words.flatten().take(access.len()).collect();
            vcpu.answer(&data).expect("answer");
            data
        }
    };
    Seen {
        space: access.space(),
        address: access.address(),
        direction: access.direction(),
        width: access.width(),
        count: access.count(),
        data,
        regs: kvm_regs { rflags: 0, ..regs },
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

/// Kicks the vCPU when the count of programs stands still.
struct Watchdog {
    programs: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn new(kick: Kick) -> Self {
        let (programs, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (Arc::clone(&programs), Arc::clone(&stop));
        let watch = move || {
            let mut last = 0;
            while !stopped.load(Ordering::Relaxed) {
                thread::park_timeout(KICKED_EVERY);
                let now = count.load(Ordering::Relaxed);
                if now == last && now > 0 {
                    kick.kick();
                }
                last = now;
            }
        };
        Self { programs, stop, thread: Some(thread::spawn(watch)) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}
