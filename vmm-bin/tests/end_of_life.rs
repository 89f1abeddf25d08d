//! How a run ends, whichever side ends it: each row of the table "End of life" in `docs/protocol.md`.

mod common;

use std::time::Duration;

use common::{BOOTED, Backend, Outboard, example, on_each_backend, talker};
use test_utils::guest::Program;

on_each_backend! {
    a_plugin_that_exits_with_0_ends_the_vm_well
    a_plugin_that_exits_with_another_code_is_an_error_that_names_it
    a_plugin_that_dies_by_a_signal_is_an_error_that_names_it
    a_guest_that_ends_ends_the_vm
    a_vcpu_that_stops_unblocks_the_others
    requests_are_answered_for_a_second_after_the_vcpus_stop
    a_disconnected_plugins_exit_leaves_the_guests_failure_last
    a_plugin_that_ended_its_vm_may_exit_when_disconnected
    a_plugin_that_does_not_exit_is_killed
    a_failure_comes_before_the_code_of_a_plugin_that_obeys
    a_vcpu_that_its_plugin_shuts_down_ends_the_vm
    a_vcpu_request_that_does_not_decode_is_an_error
    a_vcpu_pipe_that_is_closed_is_no_event
    a_main_request_that_does_not_decode_closes_that_connection_alone
    a_datagram_of_no_bytes_closes_the_connection
    a_plugin_that_closes_its_connection_lives_on
    the_end_of_standard_error_is_no_event
    an_exit_held_for_too_long_is_an_error_that_names_it
    an_exit_may_be_held_for_ever_unless_told_otherwise
    a_guest_that_halts_waits
}

const SECOND: Duration = Duration::from_secs(1);

/// A guest that makes one write and ends.
fn brief() -> Program {
    Program::new().mov(0x41).output(0x10, 1).shutdown()
}

/// A guest that makes one read and ends.
fn asker() -> Program {
    Program::new().input(0x11, 1).shutdown()
}

fn probe(backend: Backend, steps: &str) -> Outboard {
    Outboard::probe(backend, &talker(), steps)
}

fn a_plugin_that_exits_with_0_ends_the_vm_well(backend: Backend) {
    for steps in [
        "exit=0",
        "connect exit=0",
        "connect reserve memory vcpus exit=0",
        "connect vcpus start exit=0",
        "connect raw-vcpus start raw-wait raw-readable exit=0",
        "connect vcpus start wait=init exit=0",
        &format!("{BOOTED} exit=0"),
        &format!("{BOOTED} resume exit=0"),
        &format!("{BOOTED} resume wait=write exit=0"),
        &format!("{BOOTED} resume wait=write resume wait=read exit=0"),
        &format!("{BOOTED} resume wait=write pause resume wait=paused exit=0"),
        &format!("{BOOTED} resume serve=100"),
    ] {
        probe(backend, steps).run().assert_success().assert_took(Duration::ZERO..2 * SECOND);
    }
}

fn a_plugin_that_exits_with_another_code_is_an_error_that_names_it(backend: Backend) {
    for steps in ["exit=3", "connect exit=3", &format!("{BOOTED} resume wait=write exit=3")] {
        probe(backend, steps).run().assert_failure(&["probe", "code 3"]);
    }
    probe(backend, "exit=255").run().assert_failure(&["code 255"]);
}

fn a_plugin_that_dies_by_a_signal_is_an_error_that_names_it(backend: Backend) {
    for (how, signal) in
        [("die=9", "signal 9 (SIGKILL)"), ("die=15", "signal 15 (SIGTERM)"), ("abort", "signal 6 (SIGABRT)")]
    {
        for before in ["", "connect", &format!("{BOOTED} resume wait=write")] {
            probe(backend, &format!("{before} {how}")).run().assert_failure(&["probe", signal]);
        }
    }
}

fn a_guest_that_ends_ends_the_vm(backend: Backend) {
    let steps = format!("{BOOTED} resume serve=1 await-event exit=0");
    let ended = Outboard::probe(backend, &brief(), &steps).run();
    ended.assert_success();
    // Where there is no memory there is nothing to execute.
    ended.assert_logged(&["ERROR", "internal error", "emulation failed", "vcpu=0", "probe"]);
}

#[test]
fn an_instruction_that_the_mock_cannot_execute_is_named() {
    // enter 0, 2, with a stack where accesses exit: it writes, and reads what it has written.
    let steps = format!("{BOOTED} resume await-event exit=0").replace("memory", "memory=c8000002");
    let ended = Outboard::plugin(Backend::Mock, &[], "probe", steps.split_whitespace()).run();
    ended.assert_success();
    ended.assert_logged(&["ERROR", "internal error", "0x1000", "c8 00 00 02", "enter", "vcpu=0", "probe"]);
}

#[test]
fn a_guests_triple_fault_is_told() {
    let steps = format!("{BOOTED} await-event exit=0").replace("memory", "memory=f4").replace("boot", "boot resume");
    let ended = Outboard::scripted("shutdown\n", &example("probe"), steps.split_whitespace()).run();
    ended.assert_success();
    ended.assert_logged(&["WARN", "vcpu=0", "triple fault at RIP 0x1000"]);
    let steps = steps_with_hang_up();
    let ended = Outboard::scripted("shutdown\n", &example("probe"), steps.split_whitespace()).run();
    ended.assert_failure(&["vCPU 0: triple fault at RIP 0x1000"]).assert_code(3);
}

/// A probe that is disconnected, like a plugin that knows of no shutdown event.
fn steps_with_hang_up() -> String {
    format!("{BOOTED} wait=disconnected exit=1").replace("memory", "memory=f4").replace("boot", "boot resume")
}

fn a_vcpu_that_stops_unblocks_the_others(backend: Backend) {
    let steps = "connect reserve memory event vcpus start
        wait=init boot resume vcpu=1 wait=init boot resume
        wait=read vcpu=0 wait=read answer=1 await-event exit=0";
    Outboard::probe_with(backend, &asker(), &["-c", "2"], steps)
        .run()
        .assert_success()
        .assert_took(Duration::ZERO..2 * SECOND);
}

fn requests_are_answered_for_a_second_after_the_vcpus_stop(backend: Backend) {
    let steps = format!("{BOOTED} resume serve=1 await-event pause event await-event close-main exit=0");
    Outboard::probe(backend, &brief(), &steps).run().assert_success();
}

fn a_disconnected_plugins_exit_leaves_the_guests_failure_last(backend: Backend) {
    for code in ["0", "1"] {
        let steps = format!("{BOOTED} resume serve=1 await-hang-up exit={code}");
        let ended = Outboard::probe(backend, &brief(), &steps).run();
        ended.assert_failure(&["vCPU 0", "internal error", "RIP 0x"]).assert_code(3).assert_took(SECOND..3 * SECOND);
        assert_eq!(ended.logged(&["in time"]), 0, "{ended:#?}");
    }
}

/// The vCPU is the plugin's to end.
fn a_plugin_that_ended_its_vm_may_exit_when_disconnected(backend: Backend) {
    for code in ["0", "1"] {
        let steps = format!("connect event raw-vcpus start raw-wait raw-read raw-shutdown await-hang-up exit={code}");
        probe(backend, &steps).run().assert_success().assert_took(SECOND..3 * SECOND);
    }
    let steps = "connect event raw-vcpus start raw-wait raw-read raw-shutdown await-hang-up die=6";
    probe(backend, steps).run().assert_failure(&["probe", "signal 6 (SIGABRT)"]).assert_code(1);
}

fn a_plugin_that_does_not_exit_is_killed(backend: Backend) {
    let steps = format!("{BOOTED} resume serve=1 hang");
    let ended = Outboard::probe(backend, &brief(), &steps).run();
    ended.assert_failure(&["vCPU 0", "internal error"]).assert_code(3).assert_took(2 * SECOND..5 * SECOND);
    ended.assert_logged(&["WARN", "probe", "did not exit in time"]);
    let steps = "connect event raw-vcpus start raw-wait raw-read raw-shutdown hang";
    let ended = probe(backend, steps).run();
    ended.assert_failure(&["probe", "did not exit in time", "was killed"]).assert_code(1);
}

fn a_failure_comes_before_the_code_of_a_plugin_that_obeys(backend: Backend) {
    let steps = format!("{BOOTED} resume serve=1 await-event exit=5");
    Outboard::probe(backend, &brief(), &steps).run().assert_failure(&["vCPU 0", "internal error"]).assert_code(3);
    let steps = "connect event raw-vcpus start raw-wait raw-read raw-write=ffffff await-event exit=5";
    probe(backend, steps).run().assert_failure(&["vCPU 0"]).assert_code(1);
}

fn a_vcpu_that_its_plugin_shuts_down_ends_the_vm(backend: Backend) {
    let steps = "connect event raw-vcpus start raw-wait raw-read raw-shutdown await-event exit=0";
    probe(backend, steps).run().assert_success();
}

fn a_vcpu_request_that_does_not_decode_is_an_error(backend: Backend) {
    for bad in ["raw-write=ffffff", "raw-half"] {
        let steps = format!("connect event raw-vcpus start raw-wait raw-read {bad} await-event exit=0");
        probe(backend, &steps).run().assert_failure(&["vCPU 0", "probe"]);
    }
}

/// The VMM keeps copies of the plugin's ends, and learns of a plugin's end from its process.
fn a_vcpu_pipe_that_is_closed_is_no_event(backend: Backend) {
    let at_init = "connect raw-vcpus start raw-wait raw-read";
    let at_exit = "connect reserve memory raw-vcpus start raw-wait raw-read raw-boot raw-resume raw-read";
    for before in [at_init, at_exit] {
        for closed in ["raw-close-requests", "raw-close-responses", "raw-close-requests raw-close-responses"] {
            let ended = probe(backend, &format!("{before} {closed} idle=200 exit=0")).run();
            ended.assert_success();
            assert!(ended.cpu_time < Duration::from_millis(150), "it spun: {ended:#?}");
        }
    }
    let steps = format!("{at_exit} event raw-close-requests await-event exit=0");
    let ended = Outboard::probe_with(backend, &talker(), &["--exit-timeout", "0.1"], &steps).run();
    ended.assert_failure(&["vCPU 0", "write of 1 bytes at 0x10", "probe"]);
}

fn a_main_request_that_does_not_decode_closes_that_connection_alone(backend: Backend) {
    let steps = format!("{BOOTED} resume raw-main=ffffff await-hang-up serve=10 exit=0");
    let ended = probe(backend, &steps).run();
    ended.assert_success().assert_logged(&["WARN", "probe"]);
}

fn a_datagram_of_no_bytes_closes_the_connection(backend: Backend) {
    let steps = format!("{BOOTED} resume raw-main= await-hang-up serve=10 exit=0");
    probe(backend, &steps).run().assert_success();
}

fn a_plugin_that_closes_its_connection_lives_on(backend: Backend) {
    let steps = format!("{BOOTED} resume close-main serve=100 idle=500 serve=100 exit=0");
    let ended = probe(backend, &steps).run();
    ended.assert_success();
    assert!(ended.cpu_time < Duration::from_millis(400), "it spun: {ended:#?}");

    let steps = "connect vcpus close-main idle=500 exit=0";
    let ended = probe(backend, steps).run();
    ended.assert_success();
    assert!(ended.cpu_time < Duration::from_millis(300), "it spun: {ended:#?}");
}

fn the_end_of_standard_error_is_no_event(backend: Backend) {
    let steps = format!("say=before {BOOTED} resume close-stderr serve=100 idle=500 serve=100 exit=0");
    let ended = probe(backend, &steps).run();
    ended.assert_success().assert_logged(&["before"]);
    assert!(ended.cpu_time < Duration::from_millis(400), "it spun: {ended:#?}");
}

fn an_exit_held_for_too_long_is_an_error_that_names_it(backend: Backend) {
    let timeout = ["--exit-timeout", "0.1"];
    // The first exit of all, so that the plugin need not answer one before it in time.
    for (guest, event, address) in
        [(brief(), "write", "write of 1 bytes at 0x10"), (asker(), "read", "read of 1 bytes at 0x11")]
    {
        let steps = format!("{BOOTED} resume wait={event} await-event exit=0");
        let ended = Outboard::probe_with(backend, &guest, &timeout, &steps).run();
        ended.assert_failure(&["vCPU 0", address, "probe"]).assert_took(SECOND / 10..2 * SECOND);
    }
}

fn an_exit_may_be_held_for_ever_unless_told_otherwise(backend: Backend) {
    let steps = format!("{BOOTED} resume wait=write idle=500 resume wait=read idle=500 answer=1 wait=write exit=0");
    probe(backend, &steps).run().assert_success().assert_took(SECOND..3 * SECOND);
    let timeout = ["--exit-timeout", "1"];
    let steps = "connect reserve memory event vcpus start wait=init idle=1500 boot resume wait=write resume serve=100";
    Outboard::probe_with(backend, &talker(), &timeout, steps).run().assert_success();
}

fn a_guest_that_halts_waits(backend: Backend) {
    let program = Program::new().mov(0x41).output(0x10, 1);
    let steps = format!("{BOOTED} resume serve=1 idle=100 pause wait=paused resume idle=100 exit=0");
    Outboard::probe(backend, &program, &steps).run().assert_success();
}
