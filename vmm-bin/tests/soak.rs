//! `outboard soak` runs its rounds, tells what ran, and tells how to repeat what fails.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::fs;
use std::time::Duration;

use common::{Backend, Ended, Outboard, Running, on_each_backend};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

on_each_backend! {
    a_soak_runs_rounds_and_tells_how_many_of_each_kind
    a_round_that_does_not_end_as_planned_fails_with_the_command_that_repeats_it
}

/// A round in which the guests do their work to the end.
const SEED: &str = "1";
const ROUND: &str = "4";
/// One that takes longer.
const LONG_ROUND: &str = "6";

fn soak(backend: Backend, args: &[&str]) -> Outboard {
    Outboard::new(["-v", "soak", "--hypervisor", backend.name(), "--seed", SEED].iter().chain(args))
}

/// The number in front of `name` among the closing lines.
fn number(ended: &Ended, name: &str) -> u64 {
    let number = ended.stdout.iter().find_map(|line| line.strip_suffix(name)?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name:?}: {ended:#?}"))
}

fn a_soak_runs_rounds_and_tells_how_many_of_each_kind(backend: Backend) {
    let ended = soak(backend, &["--minutes", "0.05"]).run();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.stdout[0], format!("seed {SEED}; {}", backend.name()));
    let rounds = number(&ended, " rounds");
    assert!(rounds > 0, "{ended:#?}");
    assert_eq!(number(&ended, &format!(" on {}", backend.name())), rounds);
    assert_eq!(number(&ended, " over pipes") + number(&ended, " over rings"), rounds);
    for name in [" exits", " posted writes", " pauses", " memory remaps", " connections"] {
        assert!(number(&ended, name) > 0, "{name} {ended:#?}");
    }
    assert!(ended.stdout.iter().any(|line| line.contains("held after the last round")), "{ended:#?}");
}

/// What is said of the one round that runs.
fn plan(backend: Backend) -> String {
    let ended = soak(backend, &["--round", ROUND]).run();
    assert_eq!((ended.code, number(&ended, " rounds")), (Some(0), 1), "{ended:#?}");
    ended.stderr.iter().find(|line| line.contains(&format!("round {ROUND}: "))).unwrap().clone()
}

#[test]
fn the_same_seed_makes_the_same_round() {
    let first = plan(Backend::Mock);
    assert!(first.contains("Done"), "{first}");
    assert_eq!(first, plan(Backend::Mock));
}

/// The children of its threads.
fn children(running: &Running) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok());
    children.collect::<String>().split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Waits until its VM has vCPUs: the plugin has come so far.
fn await_vcpus(running: &Running) {
    let threads = || fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap().count();
    test_utils::wait::until("there are vCPUs", || threads() > 4);
}

/// Kills whatever child there is until it has ended.
fn kill_children(running: &Running) {
    let pidfd = pidfd_open(running.pid(), PidfdFlags::empty()).unwrap();
    test_utils::wait::until("the soak has ended", || {
        for child in children(running) {
            // It may be gone already.
            let _ = kill_process(child, Signal::KILL);
        }
        test_utils::raw::readable_within(&pidfd, Duration::ZERO)
    });
}

fn a_round_that_does_not_end_as_planned_fails_with_the_command_that_repeats_it(backend: Backend) {
    let running = soak(backend, &["--round", LONG_ROUND]).start();
    await_vcpus(&running);
    kill_children(&running);
    let ended = running.end();
    let name = backend.name();
    ended.assert_failure(&[&format!("round {LONG_ROUND} of seed {SEED} on {name}"), "planned was Done"]);
    ended.assert_logged(&[&format!("outboard -v soak --seed {SEED} --round {LONG_ROUND} --hypervisor {name}")]);
    assert_eq!(number(&ended, " rounds"), 0);
}

#[test]
fn a_signal_ends_a_soak_well_and_it_tells_what_ran() {
    let running = soak(Backend::Mock, &["--minutes", "9"]).start();
    // Signals are waited for while a VM runs; between VMs they do what they always do. With vCPUs there, the plugin is ready
    // to obey in time.
    await_vcpus(&running);
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.contains(&"ended by a signal".to_owned()), "{ended:#?}");
    number(&ended, " rounds");
}
