//! What it costs to start a plugin, without a jail and with one.

use std::num::NonZeroU32;
use std::thread;
use std::time::Instant;

use super::guest::Case;
use super::links::{Link, Setup};
use super::meter::Metered;
use super::report::{Named, Row, Times, rows};
use crate::backend::Backend;
use crate::error::{Error, Failure};

/// Starts VMs with a plugin, in turn without a jail and with one: how long each took until the plugin's first request. The
/// first of each warms up and does not count.
pub(super) fn measure(backend: &Backend, starts: u32) -> Result<Vec<Row>, Error> {
    let mut times = Link::PROCESSES.map(|_| Times::default());
    for round in 0..=starts as usize {
        for turn in 0..times.len() {
            let index = (round + turn) % times.len();
            let link = Link::PROCESSES[index];
            let start = start(link, backend).map_err(|source| Error::Link { link: link.name(), source })?;
            if round > 0 {
                times[index].add_block(vec![start], None);
            }
        }
    }
    let named = |(link, times): (Link, _)| Named { case: "start".into(), link: link.name(), times };
    let named: Vec<_> = Link::PROCESSES.into_iter().zip(&times).map(named).collect();
    Ok(rows(&named, Link::PipeUnjailed.name()))
}

/// Nanoseconds from the call until the plugin asks for the first time. The guest ends at its first entry.
fn start(link: Link, backend: &Backend) -> Result<u64, Failure> {
    let (metered, meter) = Metered::new(backend.hypervisor(), NonZeroU32::MIN);
    drop(meter);
    let begun = Instant::now();
    // On a thread of its own: the VMM confines the one that it runs on, for good.
    let ended = thread::scope(|scope| scope.spawn(|| link.run(&metered, Setup::of(Case::SyncWrite))).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let asked = metered.first_request().ok_or("the plugin asked for nothing")?;
    // A start takes less than 584 years.
    Ok(asked.duration_since(begun).as_nanos() as u64)
}
