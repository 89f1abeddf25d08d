//! `outboard bench`: what an exit costs on each way to the one who answers it.

mod contest;
mod estimate;
pub(crate) mod guest;
mod idle;
mod jail_cost;
mod jail_report;
mod line;
pub(crate) mod links;
mod meter;
pub(crate) mod plugin;
mod processors;
mod report;
mod starts;
mod together;

use std::io::{self, Write};
use std::num::NonZeroU32;

use crate::backend::Backend;
use crate::cli::{BenchArgs, What};
use crate::error::Error;
use contest::{Contender, Rules};
use guest::Case;
use jail_cost::Amount;
use links::{Link, Setup};
use report::{Named, Row};

/// Measures what was asked for and prints what came out.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Error> {
    let backend = Backend::open(args.hypervisor)?;
    let rules = Rules { exits: args.exits() as usize, blocks: args.blocks as usize, cores: args.pin.map(|pin| pin.0) };
    let report = match args.what() {
        What::Table => rows_told(&table(args, &backend, rules)?, args.json),
        What::Reservations(count) => rows_told(&reservations(args, count, &backend, rules)?, args.json),
        What::Together(vcpus) => {
            let case = args.case.first().copied().unwrap_or(Case::SyncWrite);
            let rates = together::measure(&of_plugins(args), case, vcpus, &backend, rules)?;
            if args.json { report::json(&rates) } else { together::table(&rates) }
        }
        What::JailCost => {
            let Rules { exits, blocks, .. } = rules;
            let starts = args.starts as usize;
            tracing::info!(
                "jail's cost: {starts} times one process of each kind, {blocks} blocks of {exits} exits of each"
            );
            let rows = jail_cost::measure(&backend, &Amount { exits, blocks: blocks + 1, starts })?;
            if args.json { report::json(&rows) } else { jail_report::table(&rows) }
        }
        What::Idle(time) => {
            let idle = idle::measure(&of_plugins(args), &backend, time)?;
            if args.json { report::json(&idle) } else { idle::table(&idle) }
        }
    };
    io::stdout().write_all(report.as_bytes()).map_err(Error::system("writing the report"))
}

fn rows_told(rows: &[Row], as_json: bool) -> String {
    if as_json { report::json(rows) } else { report::table(rows) }
}

/// The links that were asked for, or `default`.
fn links(args: &BenchArgs, default: &[Link]) -> Vec<Link> {
    if args.link.is_empty() { default.to_vec() } else { args.link.clone() }
}

/// The same where a plugin must answer.
fn of_plugins(args: &BenchArgs) -> Vec<Link> {
    links(args, &Link::JAILED).into_iter().filter(|link| link.has_plugin()).collect()
}

/// All cases on all links.
fn table(args: &BenchArgs, backend: &Backend, rules: Rules) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let cases = if args.case.is_empty() { &Case::TABLE } else { args.case.as_slice() };
    for case in cases.iter().copied() {
        let links = links(args, &Link::ALL);
        let (name, count, Rules { exits, blocks, .. }) = (case.name(), links.len(), rules);
        tracing::info!("{name}: {blocks} rounds of {exits} exits on each of {count} links");
        let contender = |link| Contender { link, setup: Setup::of(case) };
        let contenders: Vec<_> = links.into_iter().map(contender).collect();
        let times = contest::hold(&contenders, backend, rules)?;
        let named = contenders.iter().zip(&times).map(|(contender, times)| Named {
            case: name.to_owned(),
            link: contender.link.name(),
            times,
        });
        rows.extend(report::rows(&named.collect::<Vec<_>>(), contenders.first().map_or("", |first| first.link.name())));
    }
    if args.starts > 0 && args.case.is_empty() && args.link.is_empty() {
        tracing::info!("start: {} times, without a jail and with one", args.starts);
        rows.extend(starts::measure(backend, args.starts)?);
    }
    Ok(rows)
}

/// An exit where many ranges are reserved, against one where a single range is.
fn reservations(args: &BenchArgs, count: NonZeroU32, backend: &Backend, rules: Rules) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for link in links(args, &[Link::ChannelInline, Link::RingSleep]) {
        tracing::info!("{}: 1 reservation and {count}, {} rounds of {} exits", link.name(), rules.blocks, rules.exits);
        let counts = [1, count.get()];
        let contender = |reservations| Contender { link, setup: Setup { reservations, ..Setup::of(Case::MmioWrite) } };
        let times = contest::hold(&counts.map(contender), backend, rules)?;
        let named = counts.iter().zip(&times).map(|(count, times)| {
            let case = format!("{count} reserved");
            Named { case, link: link.name(), times }
        });
        rows.extend(report::rows(&named.collect::<Vec<_>>(), "1 reserved"));
    }
    Ok(rows)
}
