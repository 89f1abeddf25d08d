//! Signals that interrupt every system call that waits, thousands a second, to every thread of a VMM and of its plugin.
#![allow(unsafe_code, reason = "tgkill has no safe wrapper")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::common::{Backend, Counters, Ended, Outboard, Running, on_each_backend, only_child};

on_each_backend! {
    signals_to_every_thread_of_vmm_and_plugin_lose_nothing
    a_soak_holds_what_it_promises_while_its_vmm_is_interrupted
}

/// Exits of each vCPU under the storm.
const EXITS: &str = "6000";
/// Between two rounds of signals to all threads.
const PACE: Duration = Duration::from_micros(100);
/// No storm is longer: it makes a run many times slower, on a busy machine more than there is time for.
const LONGEST: Duration = Duration::from_secs(5);

/// Whom to send what.
#[derive(Clone, Copy)]
struct Target {
    pid: Pid,
    signal: i32,
}

/// The threads of a process; none if it has ended.
fn threads(pid: Pid) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let names = tasks.into_iter().flatten().filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    names.collect()
}

/// Sends signals until `enough`, or for as long as a storm may last: how many were sent.
fn storm(targets: &[Target], enough: &AtomicBool) -> u64 {
    let (mut sent, begun) = (0, Instant::now());
    while begun.elapsed() < LONGEST && !enough.load(Ordering::Relaxed) {
        for target in targets {
            let pid = target.pid.as_raw_nonzero().get();
            for thread in threads(target.pid) {
                // SAFETY: plain numbers. The process is this one's child, or its child's, which is there or not waited for.
                let done = unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, target.signal) };
                sent += u64::from(done == 0);
            }
        }
        std::thread::sleep(PACE);
    }
    sent
}

/// Lets a run come to its good end amid signals: how many there were.
fn end_in_a_storm(running: Running, targets: &[Target]) -> (Ended, u64) {
    let enough = AtomicBool::new(false);
    let (ended, sent) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm(targets, &enough));
        let ended = running.end();
        enough.store(true, Ordering::Relaxed);
        (ended, storm.join().unwrap())
    });
    ended.assert_success();
    (ended, sent)
}

/// What interrupts a VMM: the signal by which KVM's vCPUs are kicked, which has a handler there; and to be stopped and
/// continued, which interrupts some calls without any.
fn at_vmm(backend: Backend, pid: Pid) -> Vec<Target> {
    let signals = match backend {
        Backend::Kvm => vec![libc::SIGURG, libc::SIGSTOP, libc::SIGCONT],
        Backend::Mock => vec![libc::SIGSTOP, libc::SIGCONT],
    };
    signals.into_iter().map(|signal| Target { pid, signal }).collect()
}

fn signals_to_every_thread_of_vmm_and_plugin_lose_nothing(backend: Backend) {
    for transport in ["pipe", "ring"] {
        let options = ["-c", "2", "--transport", transport];
        let begun = Instant::now();
        let mut running = Outboard::plugin(backend, &options, "restless", [EXITS]).start();
        running.await_line("ready");
        let vmm = running.pid();
        let plugin = only_child(running.await_plugin());
        let mut targets = at_vmm(backend, vmm);
        targets.push(Target { pid: plugin, signal: libc::SIGUSR1 });
        let (ended, sent) = end_in_a_storm(running, &targets);
        let taken = ended.stdout.iter().find_map(|line| line.strip_suffix(" signals")?.parse::<u64>().ok()).unwrap();
        assert!(taken > 50, "{taken} of {sent} signals in {:?}: {ended:#?}", begun.elapsed());
        let _tally =
            Counters::of(format!("{} signals to a VMM and its plugin, {transport}", backend.name()), sent as usize);
    }
}

/// Rounds in which the guests do their work to the end, over pipes and over rings.
const ROUNDS: [&str; 2] = ["4", "6"];

fn a_soak_holds_what_it_promises_while_its_vmm_is_interrupted(backend: Backend) {
    for round in ROUNDS {
        let args = ["soak", "--seed", "1", "--round", round, "--hypervisor", backend.name()];
        let running = Outboard::of_program(Path::new(env!("CARGO_BIN_EXE_outboard")), args).start();
        let targets = at_vmm(backend, running.pid());
        // Before, the signal has no handler.
        test_utils::wait::until("there are vCPUs", || threads(running.pid()).len() > 4);
        let (_, sent) = end_in_a_storm(running, &targets);
        let _tally = Counters::of(format!("{} signals to a soak, round {round}", backend.name()), sent as usize);
    }
}
