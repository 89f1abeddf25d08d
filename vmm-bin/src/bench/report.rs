//! What the benchmark tells.

use std::fmt::Write;

use serde::Serialize;

use crate::statistics::{median, percentile, time};

/// What a ratio must be read with.
const NOTE: &str = "\
A ratio says what a link costs against a bare exit of this host. Where KVM runs nested or paravirtually a bare exit is
dear; on VMX or SVM hardware it is far cheaper, so ratios there are higher.
";

/// How long a link's exits took.
pub(super) struct Times {
    link: &'static str,
    blocks: Vec<Vec<u64>>,
}

impl Times {
    /// None yet.
    pub(super) fn new(link: &'static str) -> Self {
        Self { link, blocks: Vec::new() }
    }

    /// One more block, in nanoseconds.
    pub(super) fn add_block(&mut self, block: Vec<u64>) {
        self.blocks.push(block);
    }
}

/// One link in one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    case: &'static str,
    link: &'static str,
    median_ns: u64,
    p99_ns: u64,
    ratio_to_bare: f64,
}

/// A row for each link. The first is the one that the others are compared with.
pub(super) fn rows(case: &'static str, times: &[Times]) -> Vec<Row> {
    let Some(bare) = times.first() else { return Vec::new() };
    times.iter().map(|of_link| row(case, of_link, bare)).collect()
}

fn row(case: &'static str, times: &Times, bare: &Times) -> Row {
    let mut all = times.blocks.concat();
    all.sort_unstable();
    Row {
        case,
        link: times.link,
        median_ns: percentile(&all, 50),
        p99_ns: percentile(&all, 99),
        ratio_to_bare: ratio(&times.blocks, &bare.blocks),
    }
}

/// The median over rounds of the quotient of the blocks' medians, in thousandths: what slows a whole round down slows
/// both of its blocks.
fn ratio(blocks: &[Vec<u64>], bare: &[Vec<u64>]) -> f64 {
    let thousandths = |(block, bare): (&Vec<u64>, &Vec<u64>)| {
        let bare = median(bare.clone()).max(1);
        (median(block.clone()) * 1000 + bare / 2) / bare
    };
    median(blocks.iter().zip(bare).map(thousandths).collect()) as f64 / 1000.0
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = line("case", "link", "median", "p99", "ratio");
    for row in rows {
        let (median, p99) = (time(row.median_ns), time(row.p99_ns));
        table += &line(row.case, row.link, &median, &p99, &format!("{:.2}", row.ratio_to_bare));
    }
    // Writing to a string does not fail.
    let _ = write!(table, "\n{NOTE}");
    table
}

fn line(case: &str, link: &str, median: &str, p99: &str, ratio: &str) -> String {
    format!("{case:<10}  {link:<14}  {median:>9}  {p99:>9}  {ratio:>6}\n")
}

/// For programs: an array of objects.
pub(super) fn json<R: Serialize>(rows: &[R]) -> String {
    // Rows are words and finite numbers, which JSON always has.
    format!("{}\n", serde_json::to_string_pretty(rows).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(link: &'static str, blocks: &[&[u64]]) -> Times {
        Times { link, blocks: blocks.iter().map(|block| block.to_vec()).collect() }
    }

    fn example() -> Vec<Row> {
        // The host was twice as slow in the second round.
        let bare = times("bare", &[&[800, 800, 900], &[1600, 1600, 1600], &[800, 800, 800]]);
        let pipe = times("pipe", &[&[12_000, 12_000], &[24_000, 24_000], &[12_000, 13_000]]);
        rows("sync-write", &[bare, pipe])
    }

    #[test]
    fn a_ratio_compares_blocks_of_the_same_round() {
        let ratios: Vec<f64> = example().iter().map(|row| row.ratio_to_bare).collect();
        assert_eq!(ratios, [1.0, 15.0]);
    }

    #[test]
    fn median_and_p99_are_over_all_blocks() {
        let row = &example()[1];
        assert_eq!((row.median_ns, row.p99_ns), (12_000, 24_000));
    }

    #[test]
    fn the_table_is_aligned() {
        let table = table(&example());
        let lines: Vec<&str> = table.lines().take(3).collect();
        assert_eq!(
            lines,
            [
                "case        link               median        p99   ratio",
                "sync-write  bare               800 ns     1.6 µs    1.00",
                "sync-write  pipe              12.0 µs    24.0 µs   15.00",
            ]
        );
    }

    #[test]
    fn json_has_one_object_a_row_under_fixed_names() {
        let json: serde_json::Value = serde_json::from_str(&json(&example())).unwrap();
        let expected = serde_json::json!({
            "case": "sync-write", "link": "pipe", "median_ns": 12000, "p99_ns": 24000, "ratio_to_bare": 15.0
        });
        assert_eq!(json.as_array().map(Vec::len), Some(2));
        assert_eq!(json[1], expected);
    }
}
