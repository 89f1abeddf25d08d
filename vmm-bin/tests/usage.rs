//! What the command says, and the code it exits with, when it is called in a wrong way, or only asked what it is.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::io::Write;

use common::{Backend, Ended, Outboard, example, on_each_backend};
use tempfile::NamedTempFile;

on_each_backend! {
    a_plugin_that_is_not_there_is_named
    a_plugin_that_cannot_be_executed_is_named
    a_plugins_arguments_arrive_as_they_are
}

fn outboard(line: &str) -> Ended {
    Outboard::new(line.split_whitespace()).run()
}

fn assert_bad_usage(line: &str, parts: &[&str]) {
    let ended = outboard(line);
    assert_eq!((ended.code, ended.stdout.is_empty()), (Some(2), true), "{ended:#?}");
    let text = ended.stderr.join("\n");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not said: {ended:#?}");
    }
}

#[test]
fn bad_usage_exits_with_2_and_says_what_is_wrong() {
    assert_bad_usage("", &["Usage: outboard"]);
    assert_bad_usage("fly", &["'fly'"]);
    assert_bad_usage("run", &["--plugin"]);
    assert_bad_usage("run --plugin p --wrong", &["'--wrong'"]);
    assert_bad_usage("run --plugin p stray", &["'stray'"]);
    assert_bad_usage("run --plugin p --hypervisor xen", &["'xen'", "kvm", "mock"]);
    assert_bad_usage("run --plugin p -c 0", &["'0'", "-c"]);
    assert_bad_usage("run --plugin p -c many", &["'many'"]);
    assert_bad_usage("run --plugin p -c 1000", &["'1000'"]);
    assert_bad_usage("run --plugin p --exit-timeout 0", &["--exit-timeout"]);
    assert_bad_usage("run --plugin p --exit-timeout soon", &["'soon'"]);
    assert_bad_usage("run --plugin p --exit-timeout=-1", &["--exit-timeout"]);
    assert_bad_usage("run --plugin p --hypervisor kvm --script s", &["--script", "kvm"]);
    assert_bad_usage("bench -n 0", &["'0'"]);
}

#[test]
fn version_and_help_are_printed() {
    let version = outboard("--version");
    version.assert_success();
    assert_eq!(version.stdout, [format!("outboard {}", env!("CARGO_PKG_VERSION"))]);

    for line in ["--help", "help", "run --help", "demo --help", "bench --help"] {
        let help = outboard(line);
        help.assert_success();
        assert!(help.stdout.iter().any(|line| line.contains("Usage: outboard")), "{help:#?}");
    }
    let help = outboard("run --help").stdout.join("\n");
    for said in [
        "--plugin",
        "--params",
        "--hugepages",
        "--kvm-device",
        "--vcpu-cgroup-path",
        "--hypervisor",
        "--script",
        "--exit-timeout",
        "-c",
        "kvm",
        "mock",
        "shutdown",
    ] {
        assert!(help.contains(said), "{said} is not in the help:\n{help}");
    }
}

fn a_plugin_that_is_not_there_is_named(backend: Backend) {
    let ended = outboard(&format!("run --hypervisor {} --plugin /nonexistent/plugin", backend.name()));
    ended.assert_failure(&["/nonexistent/plugin", "No such file or directory"]);
}

fn a_plugin_that_cannot_be_executed_is_named(backend: Backend) {
    let file = NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    let ended = outboard(&format!("run --hypervisor {} --plugin {path}", backend.name()));
    ended.assert_failure(&[&path, "Permission denied"]);
    let ended = outboard(&format!("run --hypervisor {} --plugin /", backend.name()));
    ended.assert_failure(&["Permission denied"]);
}

fn a_plugins_arguments_arrive_as_they_are(backend: Backend) {
    let mut args = vec!["run", "--plugin-stdio", "--hypervisor", backend.name(), "--plugin"];
    let probe = example("probe").display().to_string();
    args.extend([&probe, "--", "print=two words  and more", "print=--help", "print=", "print=-c=3"]);
    let ended = Outboard::new(args).run();
    ended.assert_success();
    assert_eq!(ended.stdout, ["two words  and more", "--help", "", "-c=3"]);
}

#[test]
fn a_script_that_is_not_there_is_named() {
    let probe = example("probe");
    let ended = outboard(&format!("run --hypervisor mock --script /nonexistent/s --plugin {}", probe.display()));
    ended.assert_failure(&["/nonexistent/s", "No such file or directory"]);
}

#[test]
fn a_bad_script_is_named_with_its_line_and_word() {
    let mut script = NamedTempFile::new().unwrap();
    script.write_all(b"mov 1\n\njump 2\n").unwrap();
    let probe = example("probe");
    let (path, probe) = (script.path().display().to_string(), probe.display());
    let ended = outboard(&format!("run --hypervisor mock --script {path} --plugin {probe}"));
    ended.assert_failure(&[&path, "line 3", "`jump`"]);
}

#[test]
fn auto_tells_which_hypervisor_it_took() {
    let probe = example("probe");
    let ended = outboard(&format!("run --plugin {}", probe.display()));
    let kvm = test_utils::kvm::kvm_or_skip("usage::auto_tells_which_hypervisor_it_took, the half for KVM").is_some();
    if kvm {
        for option in ["--mock-clock virtual", "--script /nonexistent/s"] {
            assert_bad_usage(
                &format!("run {option} --plugin {}", probe.display()),
                &[option.split(" /").next().unwrap()],
            );
        }
    }
    // One that is there and does not open is worth a warning.
    let level = if kvm || !std::path::Path::new("/dev/kvm").exists() { "INFO" } else { "WARN" };
    ended.assert_success().assert_logged(&[level, if kvm { "KVM" } else { "the mock" }, "/dev/kvm"]);
}

#[test]
fn quiet_tells_nothing_that_is_no_error() {
    let probe = example("probe");
    let ended = outboard(&format!("run -q --hypervisor mock --plugin {} -- say=something", probe.display()));
    ended.assert_success();
    assert_eq!(ended.stderr, [""; 0]);
    let ended = outboard(&format!("run -q --hypervisor mock --plugin {} -- exit=3", probe.display()));
    ended.assert_failure(&["code 3"]);
    assert_eq!(ended.stderr.len(), 1);
}
