//! VMs of many vCPUs.

mod common;

use common::{Backend, Outboard, on_each_backend};
use test_utils::guest::Program;

on_each_backend! {
    each_vcpu_has_its_own_channel
    vcpus_past_16_are_refused_with_word_of_what_to_do
    no_vcpu_runs_before_all_are_resumed_from_init
}

fn each_vcpu_has_its_own_channel(backend: Backend) {
    // Each shows what it was answered, over and over.
    let program = Program::new().input(0x10, 1).output(0x11, 1).forever();
    // Those past 16 come over rings, and in batches.
    for vcpus in [1, 2, 4, 8, 16, 17, 40] {
        let steps = "connect reserve memory vcpus start serve-all=50";
        let ended = Outboard::probe_with(backend, &program, &["-c", &vcpus.to_string()], steps).run();
        ended.assert_success();
        let expected: Vec<_> = (0..vcpus).map(|vcpu| format!("vcpu {vcpu} wrote {:#x}", 0x40 + vcpu)).collect();
        assert_eq!(ended.stdout, expected);
    }
}

fn vcpus_past_16_are_refused_with_word_of_what_to_do(backend: Backend) {
    // E2BIG
    let steps = "connect vcpus-refused=7 reserve exit=0";
    let ended = Outboard::probe_with(backend, &Program::new(), &["-c", "17", "--transport", "pipe"], steps).run();
    ended.assert_success().assert_logged(&["WARN", "17", "--cpus 16"]);
}

fn no_vcpu_runs_before_all_are_resumed_from_init(backend: Backend) {
    let program = Program::new().mov(1).output(0x10, 1).forever();
    // A vCPU that ran would be stopped by its write, not by the pause.
    let steps = "connect reserve memory vcpus start wait=init boot resume pause wait=paused resume
        vcpu=1 wait=init boot resume wait=write vcpu=0 wait=write exit=0";
    Outboard::probe_with(backend, &program, &["-c", "2"], steps).run().assert_success();
}
