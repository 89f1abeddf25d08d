//! What `outboard bench --jail-cost` tells.

use serde::Serialize;

use super::estimate::Estimate;
use crate::statistics::{median, time};

/// How to read the table.
const NOTE: &str = "\
`added` and `ratio` compare a plugin in its jail with one without, `control` one without with another: it is the noise of
this measurement. Each is a median, and in parentheses where the true one lies in 95 of 100 such measurements.
";

/// One case: medians in nanoseconds, what the jail adds, and how sure that is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    case: &'static str,
    transport: &'static str,
    unjailed_ns: u64,
    jailed_ns: u64,
    added_ns: Estimate,
    ratio: Estimate,
    control_ratio: Estimate,
}

impl Row {
    /// Of processes that were measured beside each other: the blocks of one without a jail, of another without, and of one
    /// in its jail, in nanoseconds. Blocks of one turn are compared with each other: what slows a turn down slows them all.
    pub(super) fn new(case: &'static str, transport: &'static str, processes: &[[Vec<u64>; 3]]) -> Self {
        let over_all = |of: fn(&[Vec<u64>; 3]) -> &Vec<u64>| {
            median(processes.iter().flat_map(|three| of(three).clone()).collect())
        };
        let estimate = |of: fn(&[Vec<u64>; 3]) -> f64| Estimate::of(processes.iter().map(of).collect());
        Self {
            case,
            transport,
            unjailed_ns: over_all(|[unjailed, _, _]| unjailed),
            jailed_ns: over_all(|[_, _, jailed]| jailed),
            added_ns: estimate(|[unjailed, _, jailed]| middle(jailed, unjailed, |jailed, unjailed| jailed - unjailed)),
            ratio: estimate(|[unjailed, _, jailed]| middle(jailed, unjailed, |jailed, unjailed| jailed / unjailed)),
            control_ratio: estimate(|[unjailed, control, _]| {
                middle(control, unjailed, |control, unjailed| control / unjailed)
            }),
        }
    }
}

/// The median of what `compare` makes of two blocks of the same turn.
fn middle(blocks: &[u64], others: &[u64], compare: impl Fn(f64, f64) -> f64) -> f64 {
    // Times that are far below 2^53 ns; an exit takes one at least.
    let number = |time: u64| time.max(1) as f64;
    Estimate::of(blocks.iter().zip(others).map(|(block, other)| compare(number(*block), number(*other))).collect())
        .median
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = line(["case", "over", "unjailed", "jailed", "added", "ratio", "control"]);
    for row in rows {
        let times = [row.unjailed_ns, row.jailed_ns].map(time);
        let [ratio, control] = [&row.ratio, &row.control_ratio].map(|of| interval(of, |value| format!("{value:.3}")));
        let added = interval(&row.added_ns, added);
        table += &line([row.case, row.transport, &times[0], &times[1], &added, &ratio, &control]);
    }
    table + "\n" + NOTE
}

fn line([case, transport, unjailed, jailed, added, ratio, control]: [&str; 7]) -> String {
    format!("{case:<10}  {transport:<4}  {unjailed:>10}  {jailed:>10}  {added:<32}  {ratio:<22}  {control}\n")
}

fn interval(estimate: &Estimate, text: impl Fn(f64) -> String) -> String {
    let Estimate { median, low, high } = *estimate;
    format!("{} ({} to {})", text(median), text(low), text(high))
}

/// Nanoseconds with a sign.
fn added(nanoseconds: f64) -> String {
    let sign = if nanoseconds < 0.0 { "-" } else { "+" };
    // Times are far below 2^53 ns.
    format!("{sign}{}", time(nanoseconds.abs() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Row {
        // The host was twice as slow in the second turn, and the second process's jail cost nothing.
        let first = [vec![1000, 2000, 1000], vec![990, 1980, 990], vec![1020, 2040, 1020]];
        let second = [vec![1000, 2000, 1000], vec![1000, 2000, 1000], vec![1000, 2000, 1000]];
        Row::new("sync-write", "pipe", &[first.clone(), second, first])
    }

    #[test]
    fn blocks_of_one_turn_are_compared_and_processes_give_the_interval() {
        let row = example();
        assert_eq!((row.unjailed_ns, row.jailed_ns), (1000, 1020));
        assert_eq!(row.ratio, Estimate { median: 1.02, low: 1.0, high: 1.02 });
        assert_eq!(row.control_ratio, Estimate { median: 0.99, low: 0.99, high: 1.0 });
        assert_eq!(row.added_ns, Estimate { median: 20.0, low: 0.0, high: 20.0 });
    }

    #[test]
    fn the_table_tells_medians_and_intervals() {
        let table = table(&[example()]);
        let row = table.lines().nth(1).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>().join(" "),
            "sync-write pipe 1.0 µs 1.0 µs +20 ns (+0 ns to +20 ns) 1.020 (1.000 to 1.020) 0.990 (0.990 to 1.000)"
        );
    }
}
