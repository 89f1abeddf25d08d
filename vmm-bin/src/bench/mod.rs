//! `outboard bench`: what an exit costs on each way to the one who answers it.

mod estimate;
pub(crate) mod guest;
mod jail_cost;
mod jail_report;
mod links;
mod meter;
pub(crate) mod plugin;
mod report;
mod starts;

use std::io::{self, Write};
use std::thread::{self, ScopedJoinHandle};

use crate::backend::Backend;
use crate::cli::BenchArgs;
use crate::error::{Error, Failure};
use guest::Case;
use jail_cost::Amount;
use links::Link;
use meter::{Meter, Metered};
use report::Times;

/// Measures all cases and prints what came out.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Error> {
    let backend = Backend::open(args.hypervisor)?;
    if args.jail_cost {
        let (exits, blocks, starts) = (args.exits() as usize, args.blocks as usize, args.starts as usize);
        tracing::info!(
            "jail's cost: {starts} times one process of each kind, {blocks} blocks of {exits} exits of each"
        );
        let rows = jail_cost::measure(&backend, &Amount { exits, blocks, starts })?;
        return print(&if args.json { report::json(&rows) } else { jail_report::table(&rows) });
    }
    let mut rows = Vec::new();
    for case in Case::ALL {
        let (case_name, links) = (case.name(), Link::ALL.len());
        tracing::info!("{case_name}: {} rounds of {} exits on each of {links} links", args.blocks, args.exits());
        let times = measure(case, &backend, args)?;
        rows.extend(report::rows(case.name(), &times));
    }
    tracing::info!("start: {} times, without a jail and with one", args.starts);
    rows.extend(report::rows("start", &starts::measure(&backend, args.starts)?));
    print(&if args.json { report::json(&rows) } else { report::table(&rows) })
}

fn print(report: &str) -> Result<(), Error> {
    io::stdout().write_all(report.as_bytes()).map_err(Error::system("writing the report"))
}

/// A link at work.
struct Running<'scope> {
    link: Link,
    meter: Meter,
    thread: ScopedJoinHandle<'scope, Result<(), Failure>>,
}

/// Measures the links against each other in one case.
fn measure(case: Case, backend: &Backend, args: &BenchArgs) -> Result<Vec<Times>, Error> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for link in Link::ALL {
            let (metered, meter) = Metered::new(backend.hypervisor());
            let thread = thread::Builder::new()
                .name(link.name().to_owned())
                .spawn_scoped(scope, move || link.run(&metered, case))
                .map_err(Error::system("starting a link's thread"))?;
            running.push(Running { link, meter, thread });
        }
        let times = rounds(&running, args);
        // Why a link ended early says more than that it did.
        finish(running)?;
        times
    })
}

/// Asks for the blocks: in each round one of each link, each round beginning with another link.
fn rounds(running: &[Running<'_>], args: &BenchArgs) -> Result<Vec<Times>, Error> {
    let mut times: Vec<Times> = running.iter().map(|running| Times::new(running.link.name())).collect();
    for round in 0..args.blocks as usize {
        for turn in 0..running.len() {
            let index = (round + turn) % running.len();
            let Running { link, meter, .. } = &running[index];
            let block = meter
                .block(args.exits() as usize)
                .ok_or_else(|| Error::Link { link: link.name(), source: "its VM ended before its time".into() })?;
            // The first round warms up.
            if round > 0 {
                times[index].add_block(block);
            }
        }
    }
    Ok(times)
}

/// Ends all VMs, and tells the first failure.
fn finish(running: Vec<Running<'_>>) -> Result<(), Error> {
    // All meters are dropped before the first VM is waited for, so that they end side by side.
    let threads: Vec<_> = running.into_iter().map(|Running { link, thread, .. }| (link, thread)).collect();
    let ends = threads.into_iter().map(|(link, thread)| {
        let end = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        end.map_err(|source| Error::Link { link: link.name(), source })
    });
    // Every thread is joined, whatever the first says.
    ends.fold(Ok(()), Result::and)
}
