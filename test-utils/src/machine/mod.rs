//! A machine whose devices are one closure of the test's.

mod io;
mod line;
mod seen;

use std::num::NonZeroU32;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Select;
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Access, AddressSpace, Direction, Gsi, Hypervisor, VcpuId, Vm, kvm_mp_state};
use vmm_core::{
    Action, Claim, Config, Exchange, HandlerEnd, Machine, Notice, Notices, OwnerId, Service, State, StateKind,
    VcpuExit, VcpuMessage,
};

pub use io::Io;
pub use line::Line;
pub use seen::{End, Run, Seen};

use crate::guest::{ENTRY, Program};
use crate::{memory, wait};

/// A write to this port ends the run: the guest is done, and AL is its result. Each program and script ends in it.
pub const DONE_PORT: u16 = 0xf4;

/// Guest-physical addresses of the RAM. All other memory is the devices'.
pub const RAM: Range<u64> = 0..0x8000;

/// Where the program may keep data of its own: the RAM's last page. vCPUs' stacks lie below it.
pub const DATA: u16 = 0x7000;

/// Bytes of a vCPU's stack.
const STACK: u64 = 0x100;

/// vCPUs whose stacks have room.
const MOST_VCPUS: u32 = 16;

/// A machine, before it runs: 32 KiB of RAM, a program at [`ENTRY`], interrupt lines as a PC has them, and devices that are
/// [`run`](Self::run)'s closure.
///
/// vCPUs begin in real mode at [`ENTRY`], each with a stack, its number in BX, and all other general registers 0.
/// The data segments reach all of the first 4 GiB.
pub struct TestMachine {
    vm: Arc<dyn Vm>,
    ram: OwnedFd,
    vcpus: NonZeroU32,
    claims: Vec<(AddressSpace, u64, u64)>,
    limit: Duration,
}

impl TestMachine {
    /// A machine on the mock, which needs no `/dev/kvm`.
    pub fn new(program: &Program) -> Self {
        Self::on(&Mock::guest_code(), program)
    }

    /// A machine on the mock whose vCPUs follow a list of steps in place of code.
    pub fn from_steps(steps: impl IntoIterator<Item = Step>) -> Self {
        let done = Step::Out { port: DONE_PORT, width: 1 };
        Self::on(&Mock::new(Script::once(steps.into_iter().chain([done]))), &Program::new())
    }

    /// [`from_steps`](Self::from_steps), with the steps in words: see [`Script::parse`].
    ///
    /// # Panics
    ///
    /// If a line cannot be understood: the message names it.
    pub fn from_script(text: &str) -> Self {
        let script = Script::parse(&format!("{text}\nout {DONE_PORT} 1")).unwrap_or_else(|error| panic!("{error}"));
        Self::on(&Mock::new(script), &Program::new())
    }

    /// A machine on any backend.
    ///
    /// # Panics
    ///
    /// If the backend refuses, or the program does not fit below the stacks.
    pub fn on(hypervisor: &dyn Hypervisor, program: &Program) -> Self {
        let vm = hypervisor.create_vm().unwrap_or_else(|error| panic!("making a VM of {}: {error}", hypervisor.name()));
        let (region, ram) = memory::region(RAM.start, RAM.end);
        let code = program.clone().done(DONE_PORT as u8).code();
        assert!(code.len() as u64 <= lowest_stack() - ENTRY, "the program has {} bytes", code.len());
        memory::write_at(&ram, ENTRY, &code);
        for (vector, address) in &program.vectors {
            // Offset, and segment 0.
            memory::write_at(&ram, 4 * u64::from(*vector), &u32::from(*address).to_le_bytes());
        }
        vm.map_memory(region).unwrap_or_else(|error| panic!("mapping RAM: {error}"));
        Self { vm, ram, vcpus: NonZeroU32::MIN, claims: Vec::new(), limit: wait::LIMIT }
    }

    /// As many vCPUs, up to 16; they are one without this.
    ///
    /// # Panics
    ///
    /// If they are 0, or more than 16.
    #[must_use]
    pub fn vcpus(self, count: u32) -> Self {
        assert!(count <= MOST_VCPUS, "up to {MOST_VCPUS} vCPUs");
        Self { vcpus: NonZeroU32::new(count).expect("a vCPU at least"), ..self }
    }

    /// The devices have these ports. Without this they have all ports. Which memory they have is another matter: see
    /// [`memory`](Self::memory). What nobody has reads zeros.
    #[must_use]
    pub fn ports(self, ports: Range<u16>) -> Self {
        self.claim(AddressSpace::Pio, ports.start.into(), ports.end.into())
    }

    /// The devices have this guest-physical memory. Without this they have all memory that is no RAM, whatever
    /// [`ports`](Self::ports) they have.
    #[must_use]
    pub fn memory(self, addresses: Range<u64>) -> Self {
        self.claim(AddressSpace::Mmio, addresses.start, addresses.end)
    }

    fn claim(mut self, space: AddressSpace, start: u64, end: u64) -> Self {
        self.claims.push((space, start, end));
        self
    }

    /// How long the guest may go without an exit before the run fails; 30 seconds without this.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Interrupt line `gsi`. Lines 0 to 15 lead to the PICs, of which line 2 is their own.
    pub fn line(&self, gsi: u8) -> Line {
        Line::new(Arc::clone(&self.vm), Gsi(gsi.into()))
    }

    /// The VM itself.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.vm
    }

    /// The memfd that is the guest's RAM, to look into it: guest-physical addresses are offsets.
    pub fn ram(&self) -> &OwnedFd {
        &self.ram
    }

    /// Runs the machine until the guest is done or a vCPU stops for good. `device` gets every access to what the devices
    /// have, on the thread of the test.
    ///
    /// # Panics
    ///
    /// If the machine cannot be started, or does nothing for too long: the message has the exits until then.
    pub fn run(self, mut device: impl FnMut(Io<'_>)) -> Run {
        self.run_vcpus(|_, io| device(io))
    }

    /// [`run`](Self::run) for a device that wants to know which vCPU it was.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_vcpus(self, device: impl FnMut(VcpuId, Io<'_>)) -> Run {
        let config =
            Config { vcpus: self.vcpus, exit_timeout: None, cgroup: None, unclaimed: vmm_core::Unclaimed::default() };
        let (mut machine, notices) = Machine::new(self.vm, &config).expect("a machine");
        let (owner, ends) = machine.attach_ends("the test's device").expect("not started");
        reserve(&machine, owner, &self.claims);
        machine.start().unwrap_or_else(|error| panic!("starting the machine: {error}"));
        let stage = Stage { machine, ends, notices, limit: self.limit, exits: Vec::new() };
        for vcpu in 0..stage.ends.len() {
            stage.boot(vcpu);
        }
        stage.play(device)
    }
}

fn lowest_stack() -> u64 {
    u64::from(DATA) - STACK * u64::from(MOST_VCPUS)
}

/// Gives `owner` what the devices have: in each address space the claims in it, or all of it where there are none.
fn reserve(machine: &Machine, owner: OwnerId, claims: &[(AddressSpace, u64, u64)]) {
    let done = (AddressSpace::Pio, DONE_PORT.into(), u64::from(DONE_PORT) + 1);
    let all_ports = (AddressSpace::Pio, 0, 0x1_0000);
    let all_memory = (AddressSpace::Mmio, RAM.end, u64::MAX);
    let has_claims_in = |space| claims.iter().any(|(claimed, ..)| *claimed == space);
    let mut ranges = claims.to_vec();
    ranges.push(if has_claims_in(AddressSpace::Pio) { done } else { all_ports });
    if !has_claims_in(AddressSpace::Mmio) {
        ranges.push(all_memory);
    }
    for (space, start, end) in ranges {
        let claim = Claim { owner, service: Service::Synchronous };
        let reserved = machine.map().reserve(space, start, end.saturating_sub(start), claim);
        reserved.unwrap_or_else(|error| panic!("what the devices are to have: {error}"));
    }
}

/// A machine that runs, and whose exits the test handles.
struct Stage {
    machine: Machine,
    ends: Vec<HandlerEnd>,
    notices: Notices,
    limit: Duration,
    exits: Vec<(VcpuId, Seen)>,
}

/// Something happened.
enum Happened {
    Message(usize, VcpuMessage),
    Notice(Notice),
}

impl Stage {
    /// Gives a vCPU its first registers, and lets it go.
    fn boot(&self, vcpu: usize) {
        let first = self.ends[vcpu].messages.recv_timeout(self.limit);
        assert!(matches!(first, Ok(VcpuMessage::Exit(VcpuExit::Init))), "vCPU {vcpu} begins with its initialisation");
        let mut stopped = self.ends[vcpu].stopped_vcpu();
        let runnable = stopped.set(State::MpState(kvm_mp_state { mp_state: 0 }));
        assert!(matches!(runnable, Ok(Ok(()))), "vCPU {vcpu} cannot be made runnable: {runnable:?}");
        let mut sregs = match stopped.get(StateKind::Sregs) {
            Ok(Ok(State::Sregs(sregs))) => sregs,
            other => panic!("the registers of vCPU {vcpu}: {other:?}"),
        };
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            (segment.base, segment.selector, segment.limit, segment.g) = (0, 0, u32::MAX, 1);
        }
        let regs = hypervisor::kvm_regs {
            rip: ENTRY,
            rflags: 2,
            rbx: vcpu as u64,
            rsp: u64::from(DATA) - STACK * vcpu as u64,
            ..Default::default()
        };
        let mut exchange = Exchange::with_regs(&regs);
        exchange.set.put_sregs(&sregs);
        self.resume_with(vcpu, exchange);
    }

    fn resume_with(&self, vcpu: usize, exchange: Box<Exchange>) {
        // A vCPU that has stopped meanwhile reports that by a notice.
        let _ = self.ends[vcpu].finish(Ok(Action::Resume(exchange)));
    }

    fn resume(&self, vcpu: usize, data: &[u8]) {
        self.resume_with(vcpu, Exchange::read_data(data));
    }

    /// Serves accesses until the end.
    fn play(mut self, mut device: impl FnMut(VcpuId, Io<'_>)) -> Run {
        let end = loop {
            let (index, exit) = match self.next() {
                Happened::Message(vcpu, VcpuMessage::Exit(exit)) => (vcpu, exit),
                Happened::Message(vcpu, other) => panic!("vCPU {vcpu} sent {other:?}"),
                Happened::Notice(Notice::Stopped(vcpu, reason)) => break End::Stopped(vcpu, reason),
                Happened::Notice(_) => continue,
            };
            let vcpu = VcpuId(index as u32);
            match exit {
                VcpuExit::Access { access, exchange } if is_done(&access) => {
                    break End::Done(exchange.write_data(&access).first().copied().unwrap_or_default());
                }
                VcpuExit::Access { access, exchange } => {
                    let data = exchange.write_data(&access);
                    let mut answer = vec![0; if data.is_empty() { access.len() } else { 0 }];
                    device(vcpu, Io::new(&access, data, &mut answer));
                    self.exits.push((vcpu, Seen::from(&Io::new(&access, data, &mut answer))));
                    self.resume(index, &answer);
                }
                VcpuExit::HypervCall { input, params, .. } => {
                    self.exits.push((vcpu, Seen::HypervCall(input, params)));
                    self.resume(index, &[]);
                }
                VcpuExit::HypervSynic(write) => {
                    self.exits.push((vcpu, Seen::HypervSynic(write.msr)));
                    self.resume(index, &[]);
                }
                other => panic!("vCPU {vcpu} sent {other:?}"),
            }
        };
        self.machine.join();
        Run { exits: self.exits, end }
    }

    /// Waits for what comes next.
    fn next(&self) -> Happened {
        let mut select = Select::new();
        for end in &self.ends {
            select.recv(&end.messages);
        }
        select.recv(&self.notices.channel);
        let Ok(ready) = select.select_timeout(self.limit) else {
            let exits = seen::listed(&self.exits);
            panic!("the guest neither exited nor ended within {:?}; it had made these exits:\n{exits}", self.limit);
        };
        let index = ready.index();
        match self.ends.get(index) {
            Some(end) => {
                ready.recv(&end.messages).map_or_else(|_| self.stopped(), |message| Happened::Message(index, message))
            }
            None => Happened::Notice(ready.recv(&self.notices.channel).expect("the machine keeps the channel")),
        }
    }

    /// Waits for the notice of a vCPU that is gone.
    fn stopped(&self) -> Happened {
        loop {
            let notice = self.notices.channel.recv_timeout(self.limit).expect("a vCPU's last notice");
            if matches!(notice, Notice::Stopped(..)) {
                return Happened::Notice(notice);
            }
        }
    }
}

fn is_done(access: &Access) -> bool {
    access.space() == AddressSpace::Pio
        && access.address() == u64::from(DONE_PORT)
        && access.direction() == Direction::Write
}
