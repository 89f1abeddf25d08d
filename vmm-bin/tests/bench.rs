//! `outboard bench` measures every case on every link.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::collections::BTreeSet;

use common::{Backend, Ended, Outboard, on_each_backend};
use serde_json::Value;

on_each_backend! {
    every_case_is_measured_on_every_link
    the_table_tells_the_cases_and_links_that_were_asked_for
    many_reservations_are_measured_against_one
    many_vcpus_are_measured_against_two
    idle_guests_cost_next_to_nothing
    what_the_jail_costs_is_told_for_a_start_and_for_each_case_on_each_transport
}

const CASES: [&str; 6] = ["sync-write", "sync-read", "regs", "regs-read", "posted", "coalesced"];
const LINKS: [&str; 8] =
    ["bare", "line", "channel-inline", "channel-thread", "pipe-unjailed", "pipe", "ring-sleep", "ring-poll"];

fn bench(backend: Backend, args: &[&str]) -> Ended {
    let fixed = ["bench", "-n", "50", "--blocks", "1", "--starts", "1", "--hypervisor", backend.name()];
    let ended = Outboard::new(fixed.iter().chain(args)).run();
    ended.assert_success();
    ended
}

fn rows(backend: Backend, args: &[&str]) -> Vec<Value> {
    let ended = bench(backend, &[args, &["--json"]].concat());
    serde_json::from_str(&ended.stdout.concat()).unwrap()
}

fn text<'v>(row: &'v Value, field: &str) -> &'v str {
    row[field].as_str().unwrap_or_else(|| panic!("no {field} in {row}"))
}

/// A median with the interval around it.
fn noisy(row: &Value, field: &str) -> f64 {
    let part = |name| row[field][name].as_f64().unwrap_or_else(|| panic!("no {field} in {row}"));
    let (low, median, high) = (part("low"), part("median"), part("high"));
    assert!(0.0 < low && low <= median && median <= high, "{row}");
    median
}

fn every_case_is_measured_on_every_link(backend: Backend) {
    let rows = rows(backend, &[]);
    let pairs: BTreeSet<_> = rows.iter().map(|row| (text(row, "case"), text(row, "link"))).collect();
    let expected = CASES.iter().flat_map(|case| LINKS.iter().map(move |link| (*case, *link)));
    let expected: BTreeSet<_> = expected.chain([("start", "pipe-unjailed"), ("start", "pipe")]).collect();
    assert_eq!((&pairs, rows.len()), (&expected, expected.len()));
    for row in &rows {
        assert!(noisy(row, "ns") < 1e9 && row["p99_ns"].as_f64().unwrap() < 1e9, "{row}");
        let ratio = noisy(row, "ratio");
        let is_base = text(row, "link") == text(row, "ratio_to");
        assert!(if is_base { ratio == 1.0 } else { ratio < 100_000.0 }, "{row}");
        assert_eq!(row["caveat"].is_string(), text(row, "ratio_to") == "bare", "{row}");
        let has_plugin = ["pipe-unjailed", "pipe", "ring-sleep", "ring-poll"].contains(&text(row, "link"));
        if text(row, "case") != "start" {
            assert!(row["vmm_cpu_s"].as_f64().unwrap() > 0.0, "{row}");
            let plugin = row["plugin_cpu_s"].as_f64().unwrap() > 0.0;
            // So few coalesced writes are one exit, in which the plugin may not be seen at work; and of a thread that never
            // sleeps the kernel counts the time at its ticks.
            let may_be_unseen = text(row, "case") == "coalesced" || text(row, "link") == "ring-poll";
            assert!(plugin == has_plugin || has_plugin && may_be_unseen, "{row}");
        }
    }
}

fn the_table_tells_the_cases_and_links_that_were_asked_for(backend: Backend) {
    let args = ["--pin", "0", "--case", "regs", "--case", "posted", "--link", "channel-inline", "--link", "ring-sleep"];
    let table = bench(backend, &args).stdout.join("\n");
    for word in ["regs", "posted", "channel-inline", "ring-sleep"] {
        assert!(table.contains(word), "{word} is missing:\n{table}");
    }
    assert!(!table.contains("bare") && !table.contains("sync-read"), "{table}");
}

fn many_reservations_are_measured_against_one(backend: Backend) {
    let rows = rows(backend, &["--reservations", "2000"]);
    let told: Vec<_> = rows.iter().map(|row| (text(row, "case"), text(row, "link"))).collect();
    let expected = [
        ("1 reserved", "channel-inline"),
        ("2000 reserved", "channel-inline"),
        ("1 reserved", "ring-sleep"),
        ("2000 reserved", "ring-sleep"),
    ];
    assert_eq!(told, expected);
    rows.iter().for_each(|row| assert!(noisy(row, "ratio") > 0.0));
}

fn many_vcpus_are_measured_against_two(backend: Backend) {
    let rows = rows(backend, &["--vcpus", "17", "--link", "pipe", "--link", "ring-sleep"]);
    // Pipes do not carry so many.
    let told: Vec<_> = rows.iter().map(|row| (text(row, "link"), row["vcpus"].as_u64().unwrap())).collect();
    assert_eq!(told, [("ring-sleep", 2), ("ring-sleep", 17)]);
    rows.iter().for_each(|row| assert!(noisy(row, "exits_per_second") > 0.0 && noisy(row, "ratio_to_2_vcpus") > 0.0));
}

/// Half a second is too short for an exact figure.
fn idle_guests_cost_next_to_nothing(backend: Backend) {
    let rows = rows(backend, &["--idle", "0.5"]);
    let told: Vec<_> = rows.iter().map(|row| text(row, "link")).collect();
    assert_eq!(told, ["pipe", "ring-sleep", "ring-poll"]);
    for row in &rows {
        for side in ["vmm_percent", "plugin_percent"] {
            assert!(row[side].as_f64().unwrap() < 20.0, "{row}");
        }
    }
}

fn what_the_jail_costs_is_told_for_a_start_and_for_each_case_on_each_transport(backend: Backend) {
    let args = ["--jail-cost", "--json"];
    let rows: Vec<Value> = serde_json::from_str(&bench(backend, &args).stdout.concat()).unwrap();
    let pairs: Vec<_> = rows.iter().map(|row| (text(row, "case"), text(row, "transport"))).collect();
    let over = |transport| ["sync-write", "sync-read"].map(|case| (case, transport));
    assert_eq!(pairs, [&[("start", "")][..], &over("pipe"), &over("ring")].concat());
    for row in &rows {
        assert!(row["unjailed_ns"].as_u64().unwrap() > 0 && row["jailed_ns"].as_u64().unwrap() > 0, "{row}");
        for estimate in [&row["ratio"], &row["control_ratio"], &row["added_ns"]] {
            let [low, median, high] = ["low", "median", "high"].map(|of| estimate[of].as_f64().unwrap());
            assert!(low <= median && median <= high, "{row}");
        }
    }
    let table = bench(backend, &["--jail-cost"]).stdout.join("\n");
    assert!(table.contains("control") && table.lines().count() > rows.len(), "{table}");
}
