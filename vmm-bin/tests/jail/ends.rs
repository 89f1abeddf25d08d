//! How a jailed plugin ends is told as it was, and nothing is left.

use std::time::Duration;

use crate::common::in_parallel;
use crate::kit::{Host, in_each_setting};

in_each_setting! {
    every_exit_code_is_told_as_it_was
    every_signal_is_told_as_it_was
    abort_is_told_as_it_was
    a_seccomp_violation_is_told_by_name_and_number
    a_violation_of_a_policy_of_ones_own_is_told
    a_plugin_dies_with_its_vmm
}

fn every_exit_code_is_told_as_it_was(host: &Host) {
    in_parallel(0..=255, |code| {
        let ended = host.run(&["-q"], "probe", &[&format!("exit={code}")]).run();
        match code {
            0 => ended.assert_success(),
            code => ended.assert_failure(&[&format!("plugin probe exited with code {code}")]),
        };
    });
}

fn every_signal_is_told_as_it_was(host: &Host) {
    let source = "#include <signal.h>\n#include <stdlib.h>\n#include <unistd.h>\n
        int main(int argc, char **argv) { kill(getpid(), atoi(argv[1])); return 0; }";
    let plugin = host.compiled("killer", source, &[]);
    // Those that end a process unless it says otherwise; 40 is one of the real-time signals.
    let signals = (1..=15).chain([16, 24, 25, 26, 27, 29, 30, 31, 40]);
    in_parallel(signals, |signal| {
        let ended = host.run_plugin(&plugin, &["-q"], &[&signal.to_string()]).run();
        ended.assert_failure(&[&format!("plugin killer was killed by signal {signal} (")]);
    });
}

fn abort_is_told_as_it_was(host: &Host) {
    let ended = host.run(&["-q"], "probe", &["abort"]).run();
    ended.assert_failure(&["plugin probe was killed by signal 6 (SIGABRT)"]);
}

fn a_seccomp_violation_is_told_by_name_and_number(host: &Host) {
    for (attempt, number, name) in [("chroot", 161, "chroot"), ("bpf", 321, "bpf"), ("io-uring", 425, "io_uring_setup")]
    {
        let ended = host.run(&["-q"], "escape", &[attempt]).run();
        ended.assert_failure(&["plugin escape was killed for", &format!("system call {number} ({name})")]);
        ended.assert_took(Duration::ZERO..Duration::from_secs(5));
    }
}

fn a_violation_of_a_policy_of_ones_own_is_told(host: &Host) {
    std::fs::write(host.path("plugin.policy"), "# next to nothing\nread: 1\n").unwrap();
    let ended = host.run(&["-q", "--seccomp-policy-dir", &host.text("")], "probe", &[]).run();
    // The loader asks for memory.
    ended.assert_failure(&["plugin probe was killed for system call 12 (brk)"]);
}

/// Also where the VMM dies of SIGKILL, and the plugin does not look.
fn a_plugin_dies_with_its_vmm(host: &Host) {
    let mut running = host.run(&["--plugin-stdio"], "probe", &["print=ready", "hang"]).start();
    running.await_line("ready");
    assert!(running.kill().is_empty());
}
