//! The ways of an exit to the one who answers it.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Instant;

use clap::ValueEnum;
use hypervisor::{AddressSpace, Direction, Exit, Hypervisor, Vcpu, VcpuId};
use plugin_runtime::jail::JailConfig;
use plugin_runtime::{PluginCommand, Sandbox, Transport};
use vmm_core::{
    Action, Bytes, Claim, Exchange, ExitHandler, HandlerThread, LinkError, Machine, Notice, PostedWrite, Service,
    State, StateKind, StopReason, StoppedVcpu, VcpuExit,
};

use super::guest::{self, Case, Posts};
use super::line::Line;
use crate::error::Failure;

/// A way of an exit to the one who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// None: the answer is given where the vCPU is run
    Bare,
    /// None, but a cache line goes to another thread and back before an answer that is waited for: the least that shared
    /// memory costs on this host
    Line,
    /// The channels of a machine, answered on the vCPU's own thread
    ChannelInline,
    /// The channels of a machine, answered on another thread
    ChannelThread,
    /// The channels of a machine, and from there the pipes to a plugin process without a jail
    PipeUnjailed,
    /// The same in its jail, as plugins run by default
    Pipe,
    /// The same over rings whose waiters sleep at once
    RingSleep,
    /// The same over rings as they are by default: whose waiters look for a while first, where there are processors for it
    RingPoll,
}

/// What runs behind a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) case: Case,
    /// More than one only where a plugin answers.
    pub(super) vcpus: NonZeroU32,
    /// How many ranges are reserved, the one of the exits among them.
    pub(super) reservations: u32,
    /// The processor that the plugin keeps to.
    pub(super) plugin_core: Option<usize>,
}

impl Setup {
    /// One vCPU, and what it needs.
    pub(super) fn of(case: Case) -> Self {
        Self { case, vcpus: NonZeroU32::MIN, reservations: 1, plugin_core: None }
    }
}

/// The memory ranges that are reserved beside that of the exits, as `reservations` are in all.
pub(super) fn other_ranges(reservations: u32) -> impl Iterator<Item = (u64, u64)> {
    const START: u64 = 0x10_0000;
    const LENGTH: u64 = 8;
    (1..u64::from(reservations)).map(|index| (START + index * 2 * LENGTH, LENGTH))
}

impl Link {
    /// All, beginning with the one the others are compared with.
    pub(super) const ALL: [Self; 8] = [
        Self::Bare,
        Self::Line,
        Self::ChannelInline,
        Self::ChannelThread,
        Self::PipeUnjailed,
        Self::Pipe,
        Self::RingSleep,
        Self::RingPoll,
    ];
    /// Those with a process to start, beginning with the one the other is compared with.
    pub(super) const PROCESSES: [Self; 2] = [Self::PipeUnjailed, Self::Pipe];
    /// Those on which a plugin in its jail answers.
    pub(super) const JAILED: [Self; 3] = [Self::Pipe, Self::RingSleep, Self::RingPoll];

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Line => "line",
            Self::ChannelInline => "channel-inline",
            Self::ChannelThread => "channel-thread",
            Self::PipeUnjailed => "pipe-unjailed",
            Self::Pipe => "pipe",
            Self::RingSleep => "ring-sleep",
            Self::RingPoll => "ring-poll",
        }
    }

    /// Whether a plugin process answers.
    pub(super) fn has_plugin(self) -> bool {
        !matches!(self, Self::Bare | Self::Line | Self::ChannelInline | Self::ChannelThread)
    }

    /// Whether writes that may be coalesced are.
    pub(super) fn coalesces(self) -> bool {
        !matches!(self, Self::Bare | Self::Line)
    }

    /// Runs a VM behind this link, until the guest shuts down.
    pub(super) fn run(self, hypervisor: &dyn Hypervisor, setup: Setup) -> Result<(), Failure> {
        match self {
            Self::Bare => bare(hypervisor, setup.case, None),
            Self::Line => bare(hypervisor, setup.case, Some(Line::new(setup.plugin_core)?)),
            Self::ChannelInline => channel(hypervisor, setup, HandlerThread::Vcpu),
            Self::ChannelThread => channel(hypervisor, setup, HandlerThread::Own),
            Self::PipeUnjailed => process(hypervisor, setup, Sandbox::None, Transport::Pipe, None),
            Self::Pipe => process(hypervisor, setup, jail()?, Transport::Pipe, None),
            Self::RingSleep => process(hypervisor, setup, jail()?, Transport::Ring, Some(0)),
            Self::RingPoll => process(hypervisor, setup, jail()?, Transport::Ring, None),
        }
    }
}

fn bare(hypervisor: &dyn Hypervisor, case: Case, mut line: Option<Line>) -> Result<(), Failure> {
    let vm = hypervisor.create_vm()?;
    case.load(&*vm)?;
    let mut vcpu = vm.create_vcpu(VcpuId(0))?;
    let mut sregs = vcpu.sregs()?;
    guest::enter_real_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&guest::regs())?;
    loop {
        match vcpu.run()? {
            Exit::Access(access) => {
                // The others need not be answered before the guest runs on.
                if let Some(line) = &mut line
                    && Case::waits_for(&access)
                {
                    line.there_and_back();
                }
                if access.direction() == Direction::Read {
                    vcpu.answer(&[guest::ANSWER])?;
                    if case.sets_registers() {
                        // They may be set when the read is complete.
                        vcpu.commit()?;
                    }
                }
                if case.sets_registers() {
                    change_registers(&mut *vcpu)?;
                }
            }
            Exit::Interrupted => {}
            Exit::Shutdown => return Ok(()),
            other => return Err(format!("unexpected exit {other:?}").into()),
        }
    }
}

fn change_registers(vcpu: &mut dyn Vcpu) -> hypervisor::Result<()> {
    let mut regs = vcpu.regs()?;
    guest::change(&mut regs);
    vcpu.set_regs(&regs)
}

fn channel(hypervisor: &dyn Hypervisor, setup: Setup, thread: HandlerThread) -> Result<(), Failure> {
    let config = vmm_core::Config {
        vcpus: NonZeroU32::MIN,
        exit_timeout: None,
        cgroup: None,
        unclaimed: vmm_core::Unclaimed::default(),
    };
    let (mut machine, notices) = Machine::new(hypervisor.create_vm()?, &config)?;
    setup.case.load(&**machine.vm())?;
    let owner = machine.attach("bench", thread, |_| Box::new(Device { case: setup.case, posts: Posts::default() }))?;
    let claim = Claim { owner, service: Service::Synchronous };
    let map = machine.map();
    map.reserve(AddressSpace::Pio, guest::PORT.into(), 1, claim)?;
    map.reserve(AddressSpace::Pio, guest::POSTED_PORT.into(), 1, Claim { owner, service: Service::PostedWrites })?;
    if setup.case == Case::Coalesced {
        machine.reserve_coalesced(AddressSpace::Pio, guest::COALESCED_PORT.into(), 1, owner)?;
    }
    map.reserve(AddressSpace::Mmio, guest::ADDRESS.into(), 1, claim)?;
    for (start, length) in other_ranges(setup.reservations) {
        map.reserve(AddressSpace::Mmio, start, length, claim)?;
    }
    machine.start()?;
    let reason = notices.channel.iter().find_map(|notice| match notice {
        Notice::Stopped(_, reason) => Some(reason),
        Notice::Started(_) | Notice::Paused(_) => None,
    });
    machine.join();
    match reason {
        Some(StopReason::Shutdown { .. }) => Ok(()),
        Some(other) => Err(other.into()),
        None => Err("the vCPU ended without a reason".into()),
    }
}

/// The device of the channel links: sets the first registers, then handles accesses.
struct Device {
    case: Case,
    posts: Posts,
}

impl ExitHandler for Device {
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        match exit {
            VcpuExit::Init => {
                let Ok(State::Sregs(mut sregs)) = vcpu.get(StateKind::Sregs)? else { return Ok(Action::Stop) };
                guest::enter_real_mode(&mut sregs);
                let mut exchange = Exchange::with_regs(&guest::regs());
                exchange.set.put_sregs(&sregs);
                Ok(Action::Resume(exchange))
            }
            VcpuExit::Access { access, mut exchange } => {
                if access.direction() == Direction::Read {
                    exchange.data = Bytes::from_slice(&[guest::ANSWER]);
                }
                if !self.posts.are_complete(self.case) {
                    return Ok(Action::Stop);
                }
                if self.case.sets_registers() {
                    let Ok(mut regs) = vcpu.regs()? else { return Ok(Action::Stop) };
                    guest::change(&mut regs);
                    exchange.set.put_regs(&regs);
                }
                Ok(Action::Resume(exchange))
            }
            _ => Ok(Action::resume()),
        }
    }

    fn post(&mut self, _: PostedWrite, _: Option<Instant>) -> Result<(), LinkError> {
        self.posts.add();
        Ok(())
    }
}

/// The jail in which plugins run by default.
pub(super) fn jail() -> Result<Sandbox, Failure> {
    Ok(Sandbox::Jail(Box::new(JailConfig::with_filter()?)))
}

fn process(
    hypervisor: &dyn Hypervisor,
    setup: Setup,
    sandbox: Sandbox,
    transport: Transport,
    poll_us: Option<u32>,
) -> Result<(), Failure> {
    let path = std::env::current_exe()?;
    let mut args = vec!["bench-plugin".into(), setup.case.name().into()];
    args.push(format!("--reservations={}", setup.reservations));
    args.extend(setup.plugin_core.map(|core| format!("--core={core}")));
    let plugin = PluginCommand { path, args: args.into_iter().map(OsString::from).collect() };
    let config = plugin_runtime::Config {
        transport,
        poll_us,
        confine: true,
        ..plugin_runtime::Config::new(setup.vcpus, sandbox)
    };
    Ok(plugin_runtime::run(hypervisor, &plugin, config)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hypervisor::mock::Mock;

    use super::*;
    use crate::bench::meter::Metered;

    const IN_THIS_PROCESS: [Link; 4] = [Link::Bare, Link::Line, Link::ChannelInline, Link::ChannelThread];

    #[test]
    fn every_link_in_this_process_carries_blocks_and_ends_when_nobody_asks_for_more() {
        for link in IN_THIS_PROCESS {
            for case in Case::value_variants().iter().copied().filter(|case| case.has_exits()) {
                let (metered, meter) = Metered::new(Arc::new(Mock::guest_code()), NonZeroU32::MIN);
                let thread = std::thread::spawn(move || link.run(&metered, Setup::of(case)));
                assert_eq!(meter.block(2000).map(|samples| samples.len()), Some(2000), "{link:?} {case:?}");
                drop(meter);
                thread.join().unwrap().unwrap();
            }
        }
    }

    #[test]
    fn a_guest_that_ends_otherwise_is_a_failure() {
        for link in IN_THIS_PROCESS {
            let mock = Arc::new(Mock::new(hypervisor::mock::Script::nothing()));
            let (metered, meter) = Metered::new(mock, NonZeroU32::MIN);
            let thread = std::thread::spawn(move || link.run(&metered, Setup::of(Case::SyncRead)));
            assert_eq!(meter.block(1), None);
            assert!(thread.join().unwrap().is_err(), "{link:?}");
        }
    }

    #[test]
    fn a_posted_write_that_did_not_arrive_is_a_failure() {
        use hypervisor::mock::{Script, Step};
        let script = Script::forever([Step::Out { port: guest::PORT.into(), width: 1 }]);
        let (metered, meter) = Metered::new(Arc::new(Mock::new(script)), NonZeroU32::MIN);
        let thread = std::thread::spawn(move || Link::ChannelInline.run(&metered, Setup::of(Case::Posted)));
        assert_eq!(meter.block(2), None);
        assert!(thread.join().unwrap().is_err());
    }
}
