//! `outboard bench` measures every case on every link.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::collections::BTreeSet;

use common::{Backend, Ended, Outboard, on_each_backend};
use serde_json::Value;

on_each_backend! {
    every_case_is_measured_on_every_link
    the_table_tells_the_same_cases
    what_the_jail_costs_is_told_for_a_start_and_for_each_case_on_each_transport
}

const CASES: [&str; 2] = ["sync-write", "sync-read"];
const LINKS: [&str; 7] =
    ["bare", "channel-inline", "channel-thread", "pipe-unjailed", "pipe", "ring-sleep", "ring-poll"];

fn bench(backend: Backend, args: &[&str]) -> Ended {
    let args = ["bench", "-n", "200", "--hypervisor", backend.name()].into_iter().chain(args.iter().copied());
    let ended = Outboard::new(args).run();
    ended.assert_success();
    ended
}

fn every_case_is_measured_on_every_link(backend: Backend) {
    let ended = bench(backend, &["--starts", "3", "--json"]);
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
    let table = bench(backend, &["--starts", "3"]).stdout.join("\n");
    for word in CASES.iter().chain(&LINKS) {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
}

fn what_the_jail_costs_is_told_for_a_start_and_for_each_case_on_each_transport(backend: Backend) {
    let args = ["--jail-cost", "--blocks", "3", "--starts", "2", "--json"];
    let rows: Vec<Value> = serde_json::from_str(&bench(backend, &args).stdout.concat()).unwrap();
    let pairs: Vec<_> = rows.iter().map(|row| (text(row, "case"), text(row, "transport"))).collect();
    let over = |transport| CASES.map(|case| (case, transport));
    assert_eq!(pairs, [&[("start", "")][..], &over("pipe"), &over("ring")].concat());
    for row in &rows {
        assert!(row["unjailed_ns"].as_u64().unwrap() > 0 && row["jailed_ns"].as_u64().unwrap() > 0, "{row}");
        for estimate in [&row["ratio"], &row["control_ratio"], &row["added_ns"]] {
            let [low, median, high] = ["low", "median", "high"].map(|of| estimate[of].as_f64().unwrap());
            assert!(low <= median && median <= high, "{row}");
        }
    }
    let table = bench(backend, &["--jail-cost", "--blocks", "2", "--starts", "1"]).stdout.join("\n");
    assert!(table.contains("control") && table.lines().count() > rows.len(), "{table}");
}
