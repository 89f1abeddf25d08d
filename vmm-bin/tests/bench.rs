//! `outboard bench` measures every case on every link.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::collections::BTreeSet;

use common::{Backend, Ended, Outboard, on_each_backend};
use serde_json::Value;

on_each_backend! {
    every_case_is_measured_on_every_link
    the_table_tells_the_same_cases
}

const CASES: [&str; 2] = ["sync-write", "sync-read"];
const LINKS: [&str; 7] =
    ["bare", "channel-inline", "channel-thread", "pipe-unjailed", "pipe", "ring-sleep", "ring-poll"];

fn bench(backend: Backend, args: &[&str]) -> Ended {
    let args =
        ["bench", "-n", "200", "--starts", "3", "--hypervisor", backend.name()].into_iter().chain(args.iter().copied());
    let ended = Outboard::new(args).run();
    ended.assert_success();
    ended
}

fn every_case_is_measured_on_every_link(backend: Backend) {
    let ended = bench(backend, &["--json"]);
    let rows: Vec<Value> = serde_json::from_str(&ended.stdout.concat()).unwrap();
    let pairs: BTreeSet<_> = rows.iter().map(|row| (text(row, "case"), text(row, "link"))).collect();
    let expected = CASES.iter().flat_map(|case| LINKS.iter().map(move |link| (*case, *link)));
    let expected: BTreeSet<_> = expected.chain([("start", "pipe-unjailed"), ("start", "pipe")]).collect();
    assert_eq!((&pairs, rows.len()), (&expected, expected.len()));
    for row in &rows {
        let (median, p99) = (row["median_ns"].as_u64().unwrap(), row["p99_ns"].as_u64().unwrap());
        assert!(0 < median && median <= p99 && p99 < 1_000_000_000, "{row}");
        let ratio = row["ratio_to_bare"].as_f64().unwrap();
        assert!(if text(row, "link") == "bare" { ratio == 1.0 } else { 0.0 < ratio && ratio < 100_000.0 }, "{row}");
    }
}

fn text<'v>(row: &'v Value, field: &str) -> &'v str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}"))
}

fn the_table_tells_the_same_cases(backend: Backend) {
    let table = bench(backend, &[]).stdout.join("\n");
    for word in CASES.iter().chain(&LINKS) {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
}
