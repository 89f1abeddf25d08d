//! The ways of an exit to the one who answers it.

use std::ffi::OsString;
use std::num::NonZeroU32;

use hypervisor::{AddressSpace, Direction, Exit, Hypervisor, VcpuId};
use plugin_runtime::jail::JailConfig;
use plugin_runtime::{PluginCommand, Sandbox, Transport};
use vmm_core::{Claim, Command, Event, Machine, Notice, Resume, Service, State, StateKind, Stepping, StopReason};

use super::guest::{self, Case};
use crate::error::Failure;

/// A way of an exit to the one who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// None: the answer is given where the vCPU is run.
    Bare,
    /// The channels of a machine, answered on the vCPU's own thread.
    ChannelInline,
    /// The channels of a machine, answered on another thread.
    ChannelThread,
    /// The channels of a machine, and from there the pipes to a plugin process without a jail.
    PipeUnjailed,
    /// The same in its jail, as plugins run by default.
    Pipe,
    /// The same over rings whose waiters sleep at once.
    RingSleep,
    /// The same over rings as they are by default: whose waiters look for a while first, where there are processors for it.
    RingPoll,
}

impl Link {
    /// All, beginning with the one the others are compared with.
    pub(super) const ALL: [Self; 7] = [
        Self::Bare,
        Self::ChannelInline,
        Self::ChannelThread,
        Self::PipeUnjailed,
        Self::Pipe,
        Self::RingSleep,
        Self::RingPoll,
    ];
    /// Those with a process to start, beginning with the one the other is compared with.
    pub(super) const PROCESSES: [Self; 2] = [Self::PipeUnjailed, Self::Pipe];

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::ChannelInline => "channel-inline",
            Self::ChannelThread => "channel-thread",
            Self::PipeUnjailed => "pipe-unjailed",
            Self::Pipe => "pipe",
            Self::RingSleep => "ring-sleep",
            Self::RingPoll => "ring-poll",
        }
    }

    /// Runs a VM with the guest of `case` behind this link, until the guest shuts down.
    pub(super) fn run(self, hypervisor: &dyn Hypervisor, case: Case) -> Result<(), Failure> {
        match self {
            Self::Bare => bare(hypervisor, case),
            Self::ChannelInline => channel(hypervisor, case, Stepping::Inline),
            Self::ChannelThread => channel(hypervisor, case, Stepping::Threaded),
            Self::PipeUnjailed => process(hypervisor, case, Sandbox::None, Transport::Pipe, None),
            Self::Pipe => process(hypervisor, case, jail()?, Transport::Pipe, None),
            Self::RingSleep => process(hypervisor, case, jail()?, Transport::Ring, Some(0)),
            Self::RingPoll => process(hypervisor, case, jail()?, Transport::Ring, None),
        }
    }
}

fn bare(hypervisor: &dyn Hypervisor, case: Case) -> Result<(), Failure> {
    let vm = hypervisor.create_vm()?;
    case.load(&*vm)?;
    let mut vcpu = vm.create_vcpu(VcpuId(0))?;
    let mut sregs = vcpu.sregs()?;
    guest::enter_real_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&guest::regs())?;
    loop {
        match vcpu.run()? {
            Exit::Access(access) if access.direction() == Direction::Read => vcpu.answer(&[guest::ANSWER])?,
            Exit::Access(_) | Exit::Interrupted => {}
            Exit::Shutdown => return Ok(()),
            other => return Err(format!("unexpected exit {other:?}").into()),
        }
    }
}

fn channel(hypervisor: &dyn Hypervisor, case: Case, stepping: Stepping) -> Result<(), Failure> {
    let config = vmm_core::Config { vcpus: NonZeroU32::MIN, exit_timeout: None, cgroup: None };
    let (mut machine, notices) = Machine::new(hypervisor.create_vm()?, &config)?;
    case.load(&**machine.vm())?;
    let owner = machine.attach("bench", stepping, |_| Box::new(answer))?;
    let claim = Claim { owner, service: Service::Synchronous };
    machine.map().reserve(AddressSpace::Pio, guest::PORT.into(), 1, claim)?;
    machine.start()?;
    let reason = notices.channel.iter().find_map(|notice| match notice {
        Notice::Stopped(_, reason) => Some(reason),
        Notice::Started(_) | Notice::Paused(_) => None,
    });
    machine.join();
    match reason {
        Some(StopReason::Shutdown) => Ok(()),
        Some(other) => Err(other.into()),
        None => Err("the vCPU ended without a reason".into()),
    }
}

/// The device of the channel links: sets the first registers, then answers.
fn answer(event: Event) -> Command {
    Command::Resume(match event {
        Event::Init => return Command::Get(StateKind::Sregs),
        Event::State(Ok(State::Sregs(mut sregs))) => {
            guest::enter_real_mode(&mut sregs);
            Resume { regs: Some(Box::new(guest::regs())), sregs: Some(sregs), ..Resume::default() }
        }
        Event::Access { access, .. } if access.direction() == Direction::Read => {
            Resume { data: [guest::ANSWER][..].into(), ..Resume::default() }
        }
        _ => Resume::default(),
    })
}

/// The jail in which plugins run by default.
pub(super) fn jail() -> Result<Sandbox, Failure> {
    Ok(Sandbox::Jail(Box::new(JailConfig::with_filter()?)))
}

fn process(
    hypervisor: &dyn Hypervisor,
    case: Case,
    sandbox: Sandbox,
    transport: Transport,
    poll_us: Option<u32>,
) -> Result<(), Failure> {
    let path = std::env::current_exe()?;
    let plugin = PluginCommand { path, args: ["bench-plugin", case.name()].map(OsString::from).to_vec() };
    let config = plugin_runtime::Config {
        vcpus: NonZeroU32::MIN,
        exit_timeout: None,
        vcpu_cgroup: None,
        transport,
        poll_us,
        tap: None,
        sandbox,
        confine: true,
    };
    Ok(plugin_runtime::run(hypervisor, &plugin, config)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hypervisor::mock::Mock;

    use super::*;
    use crate::bench::meter::Metered;

    #[test]
    fn every_link_in_this_process_carries_blocks_and_ends_when_nobody_asks_for_more() {
        for link in [Link::Bare, Link::ChannelInline, Link::ChannelThread] {
            for case in Case::ALL {
                let (metered, meter) = Metered::new(Arc::new(Mock::guest_code()));
                let thread = std::thread::spawn(move || link.run(&metered, case));
                assert_eq!(meter.block(20).map(|samples| samples.len()), Some(20), "{link:?}");
                drop(meter);
                thread.join().unwrap().unwrap();
            }
        }
    }

    #[test]
    fn a_guest_that_ends_otherwise_is_a_failure() {
        for link in [Link::Bare, Link::ChannelInline, Link::ChannelThread] {
            let (metered, meter) = Metered::new(Arc::new(Mock::new(hypervisor::mock::Script::nothing())));
            let thread = std::thread::spawn(move || link.run(&metered, Case::SyncRead));
            assert_eq!(meter.block(1), None);
            assert!(thread.join().unwrap().is_err(), "{link:?}");
        }
    }
}
