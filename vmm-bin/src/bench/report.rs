//! What the benchmark tells.

use serde::Serialize;

use super::estimate::Estimate;
use super::processors::Spent;
use crate::statistics::{median, percentile, time};

/// What a ratio to a bare exit must be read with.
const NOTE: &str = "\
* Against a bare exit of this host. Where KVM runs nested or paravirtually, as on many cloud machines, a bare exit is expensive;
  on VMX or SVM hardware it is far cheaper, so this ratio is higher there.
";

/// How long a VM's exits took.
#[derive(Debug, Default)]
pub(super) struct Times {
    blocks: Vec<Vec<u64>>,
    spent: Option<Spent>,
}

impl Times {
    /// One more block, in nanoseconds, and what it cost, where that is known.
    pub(super) fn add_block(&mut self, block: Vec<u64>, spent: Option<Spent>) {
        self.blocks.push(block);
        if let Some(spent) = spent {
            *self.spent.get_or_insert_default() += spent;
        }
    }

    /// Seconds that the VMM and the plugin spent on processors.
    pub(super) fn cpu_seconds(&self) -> [Option<f64>; 2] {
        [self.spent.map(|spent| spent.vmm.as_secs_f64()), self.spent.map(|spent| spent.plugin.as_secs_f64())]
    }

    /// How many a second, where a sample is one of them.
    pub(super) fn per_second(&self) -> Estimate {
        Estimate::of(self.medians().into_iter().map(|nanoseconds| 1e9 / nanoseconds.max(1) as f64).collect())
    }

    /// The middle of each block.
    fn medians(&self) -> Vec<u64> {
        self.blocks.iter().cloned().map(median).collect()
    }
}

/// One line: what was measured, and against what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    case: String,
    link: &'static str,
    /// Of the blocks' medians.
    ns: Estimate,
    p99_ns: u64,
    ratio: Estimate,
    /// What the ratio is to.
    ratio_to: String,
    /// What a ratio to a bare exit must be read with.
    #[serde(skip_serializing_if = "Option::is_none")]
    caveat: Option<&'static str>,
    vmm_cpu_s: Option<f64>,
    plugin_cpu_s: Option<f64>,
}

/// The times of something that has a name.
pub(super) struct Named<'t> {
    pub(super) case: String,
    pub(super) link: &'static str,
    pub(super) times: &'t Times,
}

/// A row for each. The first is what the others are compared with, and is called `base`.
pub(super) fn rows(all: &[Named<'_>], base: &str) -> Vec<Row> {
    let Some(first) = all.first() else { return Vec::new() };
    all.iter().map(|named| row(named, first.times, base)).collect()
}

fn row(named: &Named<'_>, base: &Times, base_name: &str) -> Row {
    let mut all = named.times.blocks.concat();
    all.sort_unstable();
    let [vmm_cpu_s, plugin_cpu_s] = named.times.cpu_seconds();
    Row {
        case: named.case.clone(),
        link: named.link,
        ns: Estimate::of(named.times.medians().into_iter().map(|median| median as f64).collect()),
        p99_ns: percentile(&all, 99),
        ratio: ratio(named.times, base),
        ratio_to: base_name.to_owned(),
        caveat: (base_name == "bare")
            .then_some("on VMX or SVM a bare exit is far cheaper, so this ratio is higher there"),
        vmm_cpu_s,
        plugin_cpu_s,
    }
}

/// The quotients of the medians of blocks of the same round: what slows a whole round down slows both.
pub(super) fn ratio(times: &Times, base: &Times) -> Estimate {
    let quotient = |(block, base): (u64, u64)| block as f64 / base.max(1) as f64;
    Estimate::of(times.medians().into_iter().zip(base.medians()).map(quotient).collect())
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = line(["case", "link", "median", "noise", "p99", "ratio", "noise", "VMM", "plugin"]);
    for row in rows {
        let [median, low, high] = [row.ns.median, row.ns.low, row.ns.high].map(|nanoseconds| time(nanoseconds as u64));
        let ratio = |value: f64| format!("{value:.2}{}", if row.caveat.is_some() { "*" } else { "" });
        let cpu = |seconds: Option<f64>| seconds.map(|seconds| time((seconds * 1e9) as u64)).unwrap_or_default();
        table += &line([
            &row.case,
            row.link,
            &median,
            &format!("{low} - {high}"),
            &time(row.p99_ns),
            &ratio(row.ratio.median),
            &format!("{:.2} - {:.2}", row.ratio.low, row.ratio.high),
            &cpu(row.vmm_cpu_s),
            &cpu(row.plugin_cpu_s),
        ]);
    }
    table += "\nVMM and plugin: time on processors, of all blocks.\n";
    if rows.iter().any(|row| row.caveat.is_some()) {
        table += NOTE;
    }
    table
}

fn line(columns: [&str; 9]) -> String {
    let [case, link, median, noise, p99, ratio, ratio_noise, vmm, plugin] = columns;
    let line = format!(
        "{case:<10}  {link:<14}  {median:>9}  {noise:>19}  {p99:>9}  {ratio:>7}  {ratio_noise:>13}  {vmm:>9}  {plugin:>9}"
    );
    format!("{}\n", line.trim_end())
}

/// For programs: an array of objects.
pub(super) fn json<R: Serialize>(rows: &[R]) -> String {
    // Rows are words and finite numbers, which JSON always has.
    format!("{}\n", serde_json::to_string_pretty(rows).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times(blocks: &[&[u64]]) -> Times {
        let spent = Spent { vmm: Duration::from_millis(2), plugin: Duration::from_micros(1500) };
        let mut times = Times::default();
        blocks.iter().for_each(|block| times.add_block(block.to_vec(), Some(spent)));
        times
    }

    fn example() -> Vec<Row> {
        // The host was twice as slow in the second round.
        let bare = times(&[&[800, 800, 900], &[1600, 1600, 1600], &[800, 800, 800]]);
        let pipe = times(&[&[12_000, 12_000], &[24_000, 24_000], &[12_000, 13_000]]);
        let named = |link, times| Named { case: "sync-write".into(), link, times };
        rows(&[named("bare", &bare), named("pipe", &pipe)], "bare")
    }

    #[test]
    fn a_ratio_compares_blocks_of_the_same_round() {
        let ratios: Vec<f64> = example().iter().map(|row| row.ratio.median).collect();
        assert_eq!(ratios, [1.0, 15.0]);
    }

    #[test]
    fn a_median_is_that_of_the_blocks_and_p99_that_of_all_exits() {
        let row = &example()[1];
        assert_eq!((row.ns, row.p99_ns), (Estimate { median: 12_000.0, low: 12_000.0, high: 24_000.0 }, 24_000));
    }

    #[test]
    fn the_table_is_aligned_and_warns_beside_each_ratio() {
        let table = table(&example());
        let lines: Vec<&str> = table.lines().collect();
        let expected = "
case        link               median                noise        p99    ratio          noise        VMM     plugin
sync-write  bare               800 ns      800 ns - 1.6 µs     1.6 µs    1.00*    1.00 - 1.00     6.0 ms     4.5 ms
sync-write  pipe              12.0 µs    12.0 µs - 24.0 µs    24.0 µs   15.00*  15.00 - 15.00     6.0 ms     4.5 ms";
        assert_eq!(lines[..3], expected.lines().skip(1).collect::<Vec<_>>());
        assert!(table.contains("VMX or SVM"), "{table}");
    }

    #[test]
    fn json_has_one_object_a_row_under_fixed_names() {
        let json: serde_json::Value = serde_json::from_str(&json(&example())).unwrap();
        let expected = serde_json::json!({
            "case": "sync-write",
            "link": "pipe",
            "ns": { "median": 12000.0, "low": 12000.0, "high": 24000.0 },
            "p99_ns": 24000,
            "ratio": { "median": 15.0, "low": 15.0, "high": 15.0 },
            "ratio_to": "bare",
            "caveat": "on VMX or SVM a bare exit is far cheaper, so this ratio is higher there",
            "vmm_cpu_s": 0.006,
            "plugin_cpu_s": 0.0045,
        });
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        assert_eq!(json[1], expected);
    }
}
