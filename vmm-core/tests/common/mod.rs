//! A machine on the mock whose exits the test handles.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Access, AddressSpace, Hypervisor, VcpuId};
use test_utils::wait::LIMIT;
use vmm_core::{
    Action, Claim, Config, Exchange, HandlerEnd, Machine, Notice, Notices, OwnerId, Service, State, StopReason,
    StoppedVcpu, Unclaimed, VcpuExit, VcpuMessage,
};

pub const PORT: u16 = 0x3f8;
pub const PIO: AddressSpace = AddressSpace::Pio;
pub const MMIO: AddressSpace = AddressSpace::Mmio;

pub struct Rig {
    pub machine: Machine,
    pub notices: Notices,
    pub owner: OwnerId,
    pub ends: Vec<HandlerEnd>,
}

pub fn config(vcpus: u32) -> Config {
    Config { vcpus: NonZeroU32::new(vcpus).unwrap(), exit_timeout: None, cgroup: None, unclaimed: Unclaimed::Ignore }
}

pub fn claim(owner: OwnerId) -> Claim {
    Claim { owner, service: Service::Synchronous }
}

impl Rig {
    /// A machine whose vCPUs all follow `steps`, with one owner called `tester`, not started.
    pub fn new(vcpus: u32, steps: impl IntoIterator<Item = Step>) -> Self {
        Self::with(config(vcpus), &Mock::new(Script::once(steps)))
    }

    pub fn with(config: Config, hypervisor: &dyn Hypervisor) -> Self {
        let (mut machine, notices) = Machine::new(hypervisor.create_vm().unwrap(), &config).unwrap();
        let (owner, ends) = machine.attach_ends("tester").unwrap();
        Self { machine, notices, owner, ends }
    }

    pub fn reserve(&self, space: AddressSpace, start: u64, len: u64) {
        self.machine.map().reserve(space, start, len, claim(self.owner)).unwrap();
    }

    pub fn reserve_posted(&self, space: AddressSpace, start: u64, len: u64) {
        let claim = Claim { owner: self.owner, service: Service::PostedWrites };
        self.machine.map().reserve(space, start, len, claim).unwrap();
    }

    pub fn expect_posted(&self, vcpu: usize, expected: &[u8]) {
        match self.message(vcpu) {
            VcpuMessage::Posted(write) => assert_eq!(write.data(), expected),
            other => panic!("{other:?} instead of a posted write"),
        }
    }

    pub fn start(&mut self) {
        self.machine.start().unwrap();
    }

    /// Starts, and lets every vCPU run.
    pub fn start_running(&mut self) {
        self.start();
        for vcpu in 0..self.ends.len() {
            self.expect_init(vcpu);
            self.make_runnable_and_resume(vcpu);
        }
    }

    pub fn make_runnable_and_resume(&self, vcpu: usize) {
        self.set(vcpu, State::MpState(hypervisor::kvm_mp_state { mp_state: 0 }));
        self.resume(vcpu);
    }

    pub fn message(&self, vcpu: usize) -> VcpuMessage {
        match self.ends[vcpu].messages.recv_timeout(LIMIT) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("vCPU {vcpu} sent nothing within {LIMIT:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("vCPU {vcpu} is gone: {:?}", self.notices),
        }
    }

    pub fn exit(&self, vcpu: usize) -> VcpuExit {
        match self.message(vcpu) {
            VcpuMessage::Exit(exit) => exit,
            other => panic!("{other:?} instead of an exit"),
        }
    }

    pub fn expect_init(&self, vcpu: usize) {
        assert!(matches!(self.exit(vcpu), VcpuExit::Init));
    }

    pub fn expect_access(&self, vcpu: usize) -> (Access, Vec<u8>) {
        match self.exit(vcpu) {
            VcpuExit::Access { access, exchange } => (access, exchange.write_data(&access).to_vec()),
            other => panic!("{other:?} instead of an access"),
        }
    }

    pub fn expect_write(&self, vcpu: usize, expected: &[u8]) {
        assert_eq!(&self.expect_access(vcpu).1[..], expected);
    }

    pub fn expect_paused(&self, vcpu: usize, expected: u64) {
        match self.exit(vcpu) {
            VcpuExit::Paused { user } => assert_eq!(user, expected),
            other => panic!("{other:?} instead of a pause"),
        }
    }

    /// The vCPU, which has sent an exit that is not finished.
    pub fn vcpu(&self, vcpu: usize) -> StoppedVcpu<'_> {
        self.ends[vcpu].stopped_vcpu()
    }

    pub fn resume(&self, vcpu: usize) {
        self.resume_with(vcpu, Box::default());
    }

    pub fn resume_with(&self, vcpu: usize, exchange: Box<Exchange>) {
        self.ends[vcpu].finish(Ok(Action::Resume(exchange))).unwrap();
    }

    pub fn resume_read(&self, vcpu: usize, data: &[u8]) {
        self.resume_with(vcpu, Exchange::read_data(data));
    }

    pub fn regs(&self, vcpu: usize) -> hypervisor::kvm_regs {
        self.vcpu(vcpu).regs().unwrap().unwrap()
    }

    pub fn set(&self, vcpu: usize, state: State) {
        self.vcpu(vcpu).set(state).unwrap().unwrap();
    }

    pub fn notice(&self) -> Notice {
        self.notices.channel.recv_timeout(LIMIT).expect("a notice")
    }

    /// Waits for the vCPU's end, passing over other notices.
    pub fn stop_reason(&self) -> (VcpuId, StopReason) {
        loop {
            if let Notice::Stopped(vcpu, reason) = self.notice() {
                return (vcpu, reason);
            }
        }
    }

    /// True where no message of the vCPU waits. Only for moments when none can be on its way.
    pub fn is_silent(&self, vcpu: usize) -> bool {
        self.ends[vcpu].messages.is_empty()
    }
}

pub fn mov_out(value: u64) -> [Step; 2] {
    [Step::Mov(value), Step::Out { port: PORT, width: 1 }]
}

pub fn timeout(millis: u64) -> Option<Duration> {
    Some(Duration::from_millis(millis))
}
