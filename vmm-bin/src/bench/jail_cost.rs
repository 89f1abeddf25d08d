//! `outboard bench --jail-cost`: what the jail adds to a start, and to an exit.
//!
//! A plugin in its jail is compared with one without, and one without against another: what the last two differ by is noise,
//! with which the first comparison must be read. The three are started in turn, their blocks of exits are made in turn, and
//! all of it is repeated with new processes: what two processes of one program differ by for as long as they live (where
//! their memory lies, where the scheduler put them) is part of the noise too.
//!
//! Those without a jail make a session of their own, as the jail does for its plugin. To the scheduler a session is a group
//! of its own (`/proc/sys/kernel/sched_autogroup_enabled`), and what that does to wake-ups is nothing that confines.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use hypervisor::Hypervisor;
use plugin_runtime::{PluginCommand, Sandbox, Transport};

use super::guest::Case;
use super::jail_report::Row;
use super::links;
use super::meter::{Meter, Metered};
use crate::backend::Backend;
use crate::error::{Error, Failure};
use crate::statistics::median;

/// How many ways there are to keep a plugin.
const KINDS: usize = Keeping::ALL.len();

/// How a plugin is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// Without a jail.
    Unjailed,
    /// The same again.
    Control,
    /// In the jail, as plugins are by default.
    Jailed,
}

impl Keeping {
    const ALL: [Self; 3] = [Self::Unjailed, Self::Control, Self::Jailed];

    fn name(self) -> &'static str {
        match self {
            Self::Unjailed => "unjailed",
            Self::Control => "control",
            Self::Jailed => "jailed",
        }
    }
}

/// How exits travel.
const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Pipe, "pipe"), (Transport::Ring, "ring")];

/// What the guests do.
const CASES: [Case; 2] = [Case::SyncWrite, Case::SyncRead];

/// How much is measured.
pub(super) struct Amount {
    /// Exits in a block.
    pub(super) exits: usize,
    /// Blocks of each process; the first warms up and does not count.
    pub(super) blocks: usize,
    /// Processes kept in each way, in each case.
    pub(super) starts: usize,
}

/// Measures the start, and each case on each transport.
pub(super) fn measure(backend: &Backend, amount: &Amount) -> Result<Vec<Row>, Error> {
    let mut starts = Vec::new();
    let mut rows = Vec::new();
    for (transport, transport_name) in TRANSPORTS {
        for case in CASES {
            let mut exits = Vec::new();
            for turn in 0..amount.starts {
                let processes = one_of_each(backend, case, transport, amount, turn)?;
                starts.push(processes.each_ref().map(|process| vec![process.start]));
                exits.push(processes.map(|process| process.blocks));
            }
            rows.push(Row::new(case.name(), transport_name, &exits));
        }
    }
    rows.insert(0, Row::new("start", "", &starts));
    Ok(rows)
}

/// What was measured of one process, in nanoseconds.
#[derive(Default)]
struct Process {
    /// From the call that starts it to its first request.
    start: u64,
    /// The median exit of each block.
    blocks: Vec<u64>,
}

/// One process of each kind, in the order of [`Keeping::ALL`]. `turn` says who begins.
fn one_of_each(
    backend: &Backend,
    case: Case,
    transport: Transport,
    amount: &Amount,
    turn: usize,
) -> Result<[Process; KINDS], Error> {
    let mut processes = [(); KINDS].map(|()| Process::default());
    thread::scope(|scope| {
        let mut vms = Vec::new();
        let mut measure = || -> Result<(), Error> {
            for nth in 0..KINDS {
                let keeping = Keeping::ALL[(turn + nth) % KINDS];
                let begun = Instant::now();
                vms.push(Vm::start(scope, backend, keeping, case, transport)?);
                vms[nth].block(1)?;
                processes[keeping as usize].start = vms[nth].asked_after(begun);
            }
            for block in 0..amount.blocks {
                for nth in 0..KINDS {
                    let vm = &vms[(block + nth) % KINDS];
                    let time = vm.block(amount.exits)?;
                    if block > 0 {
                        processes[vm.keeping as usize].blocks.push(time);
                    }
                }
            }
            Ok(())
        };
        let measured = measure();
        // Why a VM ended early says more than that it did.
        end(vms)?;
        measured
    })?;
    Ok(processes)
}

/// A VM at work.
struct Vm<'scope> {
    keeping: Keeping,
    metered: Arc<Metered>,
    meter: Meter,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
}

impl<'scope> Vm<'scope> {
    fn start(
        scope: &'scope Scope<'scope, '_>,
        backend: &Backend,
        keeping: Keeping,
        case: Case,
        transport: Transport,
    ) -> Result<Self, Error> {
        let (metered, meter) = Metered::new(backend.hypervisor(), NonZeroU32::MIN);
        let metered = Arc::new(metered);
        let hypervisor = Arc::clone(&metered);
        // On a thread of its own: the VMM confines the one that it runs on, for good.
        let thread = thread::Builder::new()
            .name(keeping.name().to_owned())
            .spawn_scoped(scope, move || run(&*hypervisor, keeping, case, transport))
            .map_err(Error::system("starting a VM's thread"))?;
        Ok(Self { keeping, metered, meter, thread })
    }

    /// The median of a block of exits.
    fn block(&self, exits: usize) -> Result<u64, Error> {
        let ended = || Error::Link { link: self.keeping.name(), source: "its VM ended before its time".into() };
        self.meter.block(exits).map(median).ok_or_else(ended)
    }

    /// How long after `begun` the plugin asked for the first time; 0 if it has not.
    fn asked_after(&self, begun: Instant) -> u64 {
        // A start takes less than 584 years.
        self.metered.first_request().map_or(0, |asked| asked.duration_since(begun).as_nanos() as u64)
    }
}

/// Ends all VMs, and tells the first failure.
fn end(vms: Vec<Vm<'_>>) -> Result<(), Error> {
    // All meters are dropped before the first VM is waited for, so that they end side by side.
    let threads: Vec<_> = vms.into_iter().map(|vm| (vm.keeping, vm.thread)).collect();
    let ends = threads.into_iter().map(|(keeping, thread)| {
        let end = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        end.map_err(|source| Error::Link { link: keeping.name(), source })
    });
    // Every thread is joined, whatever the first says.
    ends.fold(Ok(()), Result::and)
}

fn run(hypervisor: &dyn Hypervisor, keeping: Keeping, case: Case, transport: Transport) -> Result<(), Failure> {
    let mut args = vec![OsString::from("bench-plugin"), case.name().into()];
    let sandbox = match keeping {
        Keeping::Unjailed | Keeping::Control => {
            args.push("--own-session".into());
            Sandbox::None
        }
        Keeping::Jailed => links::jail()?,
    };
    let plugin = PluginCommand { path: std::env::current_exe()?, args };
    let config =
        plugin_runtime::Config { transport, confine: true, ..plugin_runtime::Config::new(NonZeroU32::MIN, sandbox) };
    Ok(plugin_runtime::run(hypervisor, &plugin, config)?)
}
