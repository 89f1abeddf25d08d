//! What a guest costs that makes no exit.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::contest::{finish, start};
use super::guest::Case;
use super::links::{Link, Setup};
use super::processors::Spent;
use crate::backend::Backend;
use crate::error::Error;
use crate::processes;

/// How long a VM has to come to rest.
const SETTLE: Duration = Duration::from_millis(500);

/// What one link costs, in per cent of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Idle {
    link: &'static str,
    seconds: f64,
    vmm_percent: f64,
    plugin_percent: f64,
}

/// Lets a guest halt behind each of `links`, one after the other.
pub(super) fn measure(links: &[Link], backend: &Backend, time: Duration) -> Result<Vec<Idle>, Error> {
    links.iter().map(|link| idle(*link, backend, time)).collect()
}

fn idle(link: Link, backend: &Backend, time: Duration) -> Result<Idle, Error> {
    tracing::info!("{}: a guest that halts, for {time:?}", link.name());
    thread::scope(|scope| {
        let running = start(scope, link, Setup::of(Case::Idle), backend)?;
        let spent = running.meter.release().ok_or(()).map_err(|()| running.ended()).and_then(|()| {
            thread::sleep(SETTLE);
            let plugin = processes::descendants().map_err(Error::system("looking for the plugins' processes"))?;
            let (begun, before) = (Instant::now(), Spent::now(&plugin));
            thread::sleep(time);
            Ok((Spent::now(&plugin) - before, begun.elapsed()))
        });
        finish(vec![running])?;
        let (spent, elapsed) = spent?;
        let seconds = elapsed.as_secs_f64();
        let percent = |spent: Duration| spent.as_secs_f64() / seconds * 100.0;
        let (vmm_percent, plugin_percent) = (percent(spent.vmm), percent(spent.plugin));
        Ok(Idle { link: link.name(), seconds, vmm_percent, plugin_percent })
    })
}

/// For people.
pub(super) fn table(rows: &[Idle]) -> String {
    let mut table = String::from("link            seconds       VMM    plugin\n");
    for Idle { link, seconds, vmm_percent, plugin_percent } in rows {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{link:<14}  {seconds:>7.1}  {vmm_percent:>7.3}%  {plugin_percent:>7.3}%");
    }
    table += "\nVMM and plugin: time on processors, in per cent of one.\n";
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned() {
        let rows = [Idle { link: "ring-sleep", seconds: 10.0, vmm_percent: 0.01, plugin_percent: 12.5 }];
        let expected = "
link            seconds       VMM    plugin
ring-sleep         10.0    0.010%   12.500%
";
        assert!(table(&rows).starts_with(&expected[1..]), "{}", table(&rows));
    }
}
