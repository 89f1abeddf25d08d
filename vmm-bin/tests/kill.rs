//! A plugin that is killed, or a VMM that is told to end, at any moment: the run ends, says why, and leaves no process.

mod common;

use std::time::{Duration, Instant};

use common::{BOOTED, Backend, Outboard, in_parallel, kill, on_each_backend, talker};
use rustix::process::Signal;
use test_utils::guest::Program;

on_each_backend! {
    a_plugin_killed_at_a_step_ends_the_run
    a_plugin_killed_within_a_request_ends_the_run
    a_plugin_killed_at_any_moment_ends_the_run
    ctrl_c_ends_vmm_and_plugin
    ctrl_c_is_told_to_a_plugin_in_its_jail
    ctrl_c_is_told_to_a_plugin_that_does_not_get_it
    a_signal_to_the_vmm_alone_is_told_to_the_plugin
    a_signal_to_the_vmm_kills_a_plugin_that_does_not_listen
    a_signal_ends_a_vmm_whose_guest_never_exits
    a_vmm_that_is_stopped_and_continued_goes_on
    a_plugin_notices_that_its_vmm_was_killed
}

/// How long a run may take, all told, that does not wait for its plugin.
const SOON: Duration = Duration::from_secs(2);

fn probe(backend: Backend, steps: &str) -> Outboard {
    Outboard::probe(backend, &talker(), steps)
}

/// The same without a jail.
fn bare(backend: Backend, steps: &str) -> Outboard {
    Outboard::probe_with(backend, &talker(), &["--disable-sandbox"], steps)
}

fn a_plugin_killed_at_a_step_ends_the_run(backend: Backend) {
    let steps = [
        // before it connects, and after each request
        "",
        "connect",
        "connect reserve",
        "connect reserve memory",
        "connect reserve memory vcpus",
        "connect reserve memory vcpus start",
        "connect reserve memory vcpus start event",
        // with its vCPU's first event on the way, not read, and read
        "connect raw-vcpus start raw-wait",
        "connect raw-vcpus start raw-wait raw-readable",
        "connect reserve memory vcpus start wait=init",
        BOOTED,
        // with a guest
        &format!("{BOOTED} resume"),
        &format!("{BOOTED} resume wait=write"),
        &format!("{BOOTED} resume wait=write regs"),
        &format!("{BOOTED} resume wait=write resume"),
        &format!("{BOOTED} resume wait=write resume wait=read"),
        &format!("{BOOTED} resume wait=write resume wait=read answer=1"),
        &format!("{BOOTED} resume wait=write pause"),
        &format!("{BOOTED} resume wait=write pause resume wait=paused"),
        &format!("{BOOTED} resume wait=write pause resume wait=paused resume"),
    ];
    in_parallel(steps.iter().flat_map(|steps| [steps; 20]), |steps| {
        let ended = probe(backend, &format!("{steps} die=9")).run();
        ended.assert_failure(&["probe", "signal 9 (SIGKILL)"]).assert_took(Duration::ZERO..SOON);
    });
}

/// Half a request is a fault of the plugin, and the first thing that goes wrong is what is told.
fn a_plugin_killed_within_a_request_ends_the_run(backend: Backend) {
    let booted = "connect reserve memory raw-vcpus start raw-wait raw-read raw-boot";
    for steps in [format!("{booted} raw-half die=9"), format!("{booted} raw-resume raw-read raw-half die=9")] {
        in_parallel([&steps; 20], |steps| {
            let ended = probe(backend, steps).run();
            ended.assert_failure(&["probe"]).assert_took(Duration::ZERO..SOON);
        });
    }
}

fn a_plugin_killed_at_any_moment_ends_the_run(backend: Backend) {
    let steps = format!("{BOOTED} resume serve=1000000000");
    let mut random = 0x6f75_7462_6f61_7264_u64;
    let delays = std::iter::repeat_with(move || {
        random = splitmix(random);
        // Half of them early: setting up takes a few milliseconds.
        Duration::from_micros(if random & 1 == 0 { (random >> 1) % 50_000 } else { (random >> 1) % 5_000 })
    });
    in_parallel(delays.take(200), |delay| {
        let running = probe(backend, &steps).start();
        let plugin = running.await_plugin();
        let begun = Instant::now();
        while begun.elapsed() < delay {
            std::thread::sleep(delay.saturating_sub(begun.elapsed()));
        }
        kill(plugin);
        running.end().assert_failure(&["probe", "signal 9 (SIGKILL)"]).assert_took(Duration::ZERO..SOON + delay);
    });
}

/// The next of a sequence of numbers that look random.
fn splitmix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Without a jail, which is what keeps the terminal's signals from a plugin.
fn ctrl_c_ends_vmm_and_plugin(backend: Backend) {
    for before in ["connect", &format!("{BOOTED} resume wait=write")] {
        let mut running = bare(backend, &format!("{before} print=ready hang")).start();
        running.await_line("ready");
        running.signal_group(Signal::INT);
        let ended = running.end();
        ended.assert_failure(&["ended by signal 2 (SIGINT)"]).assert_code(130).assert_took(Duration::ZERO..SOON);
    }
}

fn ctrl_c_is_told_to_a_plugin_in_its_jail(backend: Backend) {
    let mut running = probe(backend, &format!("{BOOTED} resume wait=write print=ready await-event")).start();
    running.await_line("ready");
    running.signal_group(Signal::INT);
    running.end().assert_success().assert_took(Duration::ZERO..SOON);
}

/// Without a jail, in which it would not get it anyway.
fn ctrl_c_is_told_to_a_plugin_that_does_not_get_it(backend: Backend) {
    let mut running = bare(backend, &format!("own-group {BOOTED} resume wait=write print=ready await-event")).start();
    running.await_line("ready");
    running.signal_group(Signal::INT);
    running.end().assert_success().assert_took(Duration::ZERO..SOON);
}

fn a_signal_to_the_vmm_alone_is_told_to_the_plugin(backend: Backend) {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for before in ["connect event", &format!("{BOOTED} resume wait=write")] {
            let mut running = probe(backend, &format!("{before} print=ready await-event")).start();
            running.await_line("ready");
            running.signal(signal);
            running.end().assert_success().assert_took(Duration::ZERO..SOON);
        }
    }
}

fn a_signal_to_the_vmm_kills_a_plugin_that_does_not_listen(backend: Backend) {
    for before in ["", &format!("{BOOTED} resume wait=write")] {
        let mut running = probe(backend, &format!("{before} print=ready hang")).start();
        running.await_line("ready");
        running.signal(Signal::TERM);
        let range = Duration::from_secs(2)..Duration::from_secs(5);
        let ended = running.end();
        ended.assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_code(143).assert_took(range);
        ended.assert_logged(&["WARN", "probe", "did not exit in time"]);
    }
}

fn a_signal_ends_a_vmm_whose_guest_never_exits(backend: Backend) {
    let mut running =
        Outboard::probe(backend, &Program::new(), &format!("{BOOTED} resume print=ready await-event")).start();
    running.await_line("ready");
    running.signal(Signal::TERM);
    running.end().assert_success().assert_took(Duration::ZERO..SOON);
}

fn a_vmm_that_is_stopped_and_continued_goes_on(backend: Backend) {
    for round in ["wait=write print=ready serve=1000", "print=ready idle=100 serve=1000"] {
        let mut running = probe(backend, &format!("{BOOTED} resume {round} exit=0")).start();
        running.await_line("ready");
        for _ in 0..10 {
            running.signal(Signal::STOP);
            running.signal(Signal::CONT);
        }
        running.end().assert_success();
    }
}

/// Without a jail; one in a jail does not live on to notice.
fn a_plugin_notices_that_its_vmm_was_killed(backend: Backend) {
    let halts = Program::new();
    for waiting in [
        "connect print=ready await-hang-up print=noticed",
        &format!("{BOOTED} resume print=ready wait=disconnected print=noticed"),
    ] {
        let mut running = Outboard::probe_with(backend, &halts, &["--disable-sandbox"], waiting).start();
        running.await_line("ready");
        assert_eq!(running.kill(), ["noticed"]);
    }
}
