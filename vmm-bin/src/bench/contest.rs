//! Measuring several VMs against each other: rounds of one block each, in rotating order.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::thread::{self, Scope, ScopedJoinHandle};

use super::links::{Link, Setup};
use super::meter::{Meter, Metered};
use super::processors::{self, Spent};
use super::report::Times;
use crate::backend::Backend;
use crate::error::{Error, Failure};
use crate::processes;

/// Who takes part.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) link: Link,
    pub(super) setup: Setup,
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Exits in a block, at least; where writes are coalesced, those that they stand for.
    pub(super) exits: usize,
    /// Blocks that count; there is one more that warms up.
    pub(super) blocks: usize,
    /// The processor of the VMM and that of the plugin.
    pub(super) cores: Option<[usize; 2]>,
}

/// A VM at work.
pub(super) struct Running<'scope> {
    link: Link,
    setup: Setup,
    pub(super) meter: Meter,
    /// Those of the plugin's side.
    pub(super) processes: BTreeSet<u32>,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
}

impl Running<'_> {
    pub(super) fn ended(&self) -> Error {
        Error::Link { link: self.link.name(), source: "its VM ended before its time".into() }
    }

    /// One block: how long a sample took, in nanoseconds.
    fn block(&self, exits: usize) -> Result<Vec<u64>, Error> {
        if self.setup.vcpus > NonZeroU32::MIN {
            let exits = exits.next_multiple_of(self.setup.vcpus.get() as usize);
            let took = self.meter.together(exits).ok_or_else(|| self.ended())?;
            // A block takes less than 584 years.
            return Ok(vec![took.as_nanos() as u64 / exits as u64]);
        }
        let case = self.setup.case;
        let (accesses, entries) = (case.accesses_a_sample(), case.entries_a_sample(self.link.coalesces()));
        let times = self.meter.block(exits.div_ceil(accesses) * entries).ok_or_else(|| self.ended())?;
        Ok(times.chunks(entries).map(|entries| entries.iter().sum::<u64>() / accesses as u64).collect())
    }
}

/// Measures all of them.
pub(super) fn hold(contenders: &[Contender], backend: &Backend, rules: Rules) -> Result<Vec<Times>, Error> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        let times = start_all(scope, &mut running, contenders, backend, rules).and_then(|()| rounds(&running, rules));
        // Why a VM ended early says more than that it did.
        finish(running)?;
        times
    })
}

fn start_all<'scope>(
    scope: &'scope Scope<'scope, '_>,
    running: &mut Vec<Running<'scope>>,
    contenders: &[Contender],
    backend: &Backend,
    rules: Rules,
) -> Result<(), Error> {
    if let Some(cores) = rules.cores {
        processors::pin_this_thread(&cores)?;
    }
    let mut known = BTreeSet::new();
    for Contender { link, setup } in contenders {
        let plugin_core = rules.cores.map(|[_, plugin]| plugin);
        let mut vm = start(scope, *link, Setup { plugin_core, ..*setup }, backend)?;
        // When it answers, its plugin's processes are there.
        let answers = vm.block(1);
        let all = processes::descendants().map_err(Error::system("looking for the plugins' processes"))?;
        vm.processes = all.difference(&known).copied().collect();
        known = all;
        running.push(vm);
        answers?;
    }
    match rules.cores {
        Some([vmm, _]) => processors::pin_this_process(vmm),
        None => Ok(()),
    }
}

/// Starts a VM.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    link: Link,
    setup: Setup,
    backend: &Backend,
) -> Result<Running<'scope>, Error> {
    let (metered, meter) = Metered::new(backend.hypervisor(), setup.vcpus);
    let thread = thread::Builder::new()
        .name(link.name().to_owned())
        .spawn_scoped(scope, move || link.run(&metered, setup))
        .map_err(Error::system("starting a link's thread"))?;
    Ok(Running { link, setup, meter, processes: BTreeSet::new(), thread })
}

/// Asks for the blocks: in each round one of each, each round beginning with another one.
fn rounds(running: &[Running<'_>], rules: Rules) -> Result<Vec<Times>, Error> {
    let mut times: Vec<Times> = running.iter().map(|_| Times::default()).collect();
    for round in 0..=rules.blocks {
        for turn in 0..running.len() {
            let index = (round + turn) % running.len();
            let running = &running[index];
            let before = Spent::now(&running.processes);
            let block = running.block(rules.exits)?;
            let spent = Spent::now(&running.processes) - before;
            // The first round warms up.
            if round > 0 {
                times[index].add_block(block, Some(spent));
            }
        }
    }
    Ok(times)
}

/// Ends all VMs, and tells the first failure.
pub(super) fn finish(running: Vec<Running<'_>>) -> Result<(), Error> {
    // All meters are dropped before the first VM is waited for, so that they end side by side.
    let threads: Vec<_> = running.into_iter().map(|Running { link, thread, .. }| (link, thread)).collect();
    let ends = threads.into_iter().map(|(link, thread)| {
        let end = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        end.map_err(|source| Error::Link { link: link.name(), source })
    });
    // Every thread is joined, whatever the first says.
    ends.fold(Ok(()), Result::and)
}
