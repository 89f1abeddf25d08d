//! How many exits the vCPUs of a VM make together.

use std::fmt::Write;
use std::num::NonZeroU32;

use serde::Serialize;

use super::contest::{Contender, Rules, hold};
use super::estimate::Estimate;
use super::guest::Case;
use super::links::{Link, Setup};
use super::report::{Times, ratio};
use crate::backend::Backend;
use crate::error::Error;

/// How many vCPUs the others are compared with.
const FEW: NonZeroU32 = NonZeroU32::new(2).unwrap();
/// Most vCPUs behind pipes.
const MOST_OVER_PIPES: u32 = 16;

/// What some vCPUs make together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    link: &'static str,
    vcpus: u32,
    exits_per_second: Estimate,
    /// How many times as many as `FEW` vCPUs make.
    ratio_to_2_vcpus: Estimate,
    vmm_cpu_s: Option<f64>,
    plugin_cpu_s: Option<f64>,
}

/// Measures `vcpus` against [`FEW`] on each of `links` that carries so many.
pub(super) fn measure(
    links: &[Link],
    case: Case,
    vcpus: NonZeroU32,
    backend: &Backend,
    rules: Rules,
) -> Result<Vec<Rate>, Error> {
    let mut rates = Vec::new();
    for link in links.iter().filter(|link| **link != Link::Pipe || vcpus.get() <= MOST_OVER_PIPES) {
        tracing::info!("{}: {FEW} vCPUs and {vcpus}, {} rounds of {} exits", link.name(), rules.blocks, rules.exits);
        let contender = |vcpus| Contender { link: *link, setup: Setup { vcpus, ..Setup::of(case) } };
        let times = hold(&[contender(FEW), contender(vcpus)], backend, rules)?;
        let [few, many] = times.as_slice() else { continue };
        rates.push(rate(*link, FEW, few, few));
        rates.push(rate(*link, vcpus, many, few));
    }
    Ok(rates)
}

fn rate(link: Link, vcpus: NonZeroU32, times: &Times, few: &Times) -> Rate {
    let [vmm_cpu_s, plugin_cpu_s] = times.cpu_seconds();
    // The more exits a second, the less time one takes.
    let ratio_to_2_vcpus = ratio(few, times);
    let exits_per_second = times.per_second();
    Rate { link: link.name(), vcpus: vcpus.get(), exits_per_second, ratio_to_2_vcpus, vmm_cpu_s, plugin_cpu_s }
}

/// For people.
pub(super) fn table(rates: &[Rate]) -> String {
    let mut table =
        String::from("link            vCPUs   exits/s            noise  ratio        noise      VMM   plugin\n");
    for rate in rates {
        let (exits, ratio) = (rate.exits_per_second, rate.ratio_to_2_vcpus);
        let cpu = |seconds: Option<f64>| seconds.map(|seconds| format!("{seconds:.2} s")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{:<14}  {:>5}  {:>8.0}  {:>15}  {:>5.2}  {:>11}  {:>7}  {:>7}",
            rate.link,
            rate.vcpus,
            exits.median,
            format!("{:.0} - {:.0}", exits.low, exits.high),
            ratio.median,
            format!("{:.2} - {:.2}", ratio.low, ratio.high),
            cpu(rate.vmm_cpu_s),
            cpu(rate.plugin_cpu_s),
        );
    }
    table += "\nExits a second are those of all vCPUs together; the ratio is to 2 vCPUs.\n\
              VMM and plugin: time on processors, of all blocks.\n";
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_exits_a_second_are_a_higher_ratio_and_the_table_is_aligned() {
        let times = |nanoseconds| {
            let mut times = Times::default();
            times.add_block(vec![nanoseconds], None);
            times
        };
        let (few, many) = (times(10_000), times(5000));
        let rates = [rate(Link::RingSleep, FEW, &few, &few), rate(Link::RingSleep, NonZeroU32::MAX, &many, &few)];
        assert_eq!((rates[0].exits_per_second.median, rates[1].exits_per_second.median), (100_000.0, 200_000.0));
        assert_eq!((rates[0].ratio_to_2_vcpus.median, rates[1].ratio_to_2_vcpus.median), (1.0, 2.0));
        let table = table(&rates);
        let lines: Vec<&str> = table.lines().map(str::trim_end).take(2).collect();
        let expected = [
            "link            vCPUs   exits/s            noise  ratio        noise      VMM   plugin",
            "ring-sleep          2    100000  100000 - 100000   1.00  1.00 - 1.00",
        ];
        assert_eq!(lines, expected);
    }
}
