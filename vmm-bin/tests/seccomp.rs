//! The plugin's system calls and the VMM's own, as the command holds them.

#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

mod common;

use std::path::Path;

use common::{Backend, Ended, Outboard, on_each_backend};
use rustix::process::Signal;
use tempfile::TempDir;

on_each_backend! {
    a_violation_ends_the_plugin_and_is_named_with_its_number
    a_violation_that_is_only_logged_lets_the_plugin_go_on
    violations_without_end_do_not_keep_the_vmm_from_its_end
    a_policy_of_the_users_own_takes_the_place_of_the_built_in_one
    a_bad_policy_is_named_with_its_line_and_token
}

/// The built-in policy.
const BUILT_IN: &str = include_str!("../../plugin-runtime/src/seccomp/plugin.policy");

/// Runs a shell script as the plugin. `exec` of anything is what the built-in policy does not allow.
fn run_shell(backend: Backend, options: &[&str], script: &str) -> Ended {
    let mut args = vec!["run", "--hypervisor", backend.name()];
    args.extend(options);
    args.extend(["--plugin", "/bin/sh", "--", "-c", script]);
    Outboard::new(args).run()
}

fn directory_with(policy: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("plugin.policy"), policy).unwrap();
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn a_violation_ends_the_plugin_and_is_named_with_its_number(backend: Backend) {
    run_shell(backend, &[], "exit 0").assert_success();
    run_shell(backend, &[], "exec /bin/true").assert_failure(&[
        "plugin sh",
        "system call 59 (execve)",
        "seccomp policy",
    ]);
}

fn a_violation_that_is_only_logged_lets_the_plugin_go_on(backend: Backend) {
    // There is no such file in the jail, and the shell says so by its code.
    let ended = run_shell(backend, &["--seccomp-log"], "exec /nonexistent");
    ended.assert_failure(&["plugin sh exited with code 127"]);
    ended.assert_logged(&["WARN", "system call 59 (execve), arguments ["]);
}

/// Several threads do nothing else, so that there is always one to be received.
fn violations_without_end_do_not_keep_the_vmm_from_its_end(backend: Backend) {
    let mut run = Outboard::plugin(backend, &["--seccomp-log"], "escape", ["violate-without-end"]).start();
    run.await_line("violating");
    run.await_logged(&["system call 308 (setns)"]);
    run.signal(Signal::TERM);
    run.end().assert_failure(&["ended by signal 15 (SIGTERM)"]);
}

fn a_policy_of_the_users_own_takes_the_place_of_the_built_in_one(backend: Backend) {
    let directory = directory_with(&format!("{BUILT_IN}\nexecve: return EACCES\n"));
    let options = ["--seccomp-policy-dir", text(directory.path())];
    run_shell(backend, &options, "exit 0").assert_success();
    run_shell(backend, &options, "exec /bin/sh").assert_failure(&["plugin sh exited with code 126"]);

    // Without the first call that a C library makes.
    let directory = directory_with(&BUILT_IN.replace("\nbrk: 1\n", "\n"));
    let options = ["--seccomp-policy-dir", text(directory.path())];
    run_shell(backend, &options, "exit 0").assert_failure(&["plugin sh", "system call 12 (brk)"]);
}

fn a_bad_policy_is_named_with_its_line_and_token(backend: Backend) {
    let directory = directory_with("read: 1\nwrite: 1\nioctl: arg1 == TCGETZ\n");
    let ended = run_shell(backend, &["--seccomp-policy-dir", text(directory.path())], "exit 0");
    ended.assert_failure(&["plugin.policy, line 3:", "`TCGETZ`"]);
    let ended = run_shell(backend, &["--seccomp-policy-dir", "/nonexistent"], "exit 0");
    ended.assert_failure(&["/nonexistent/plugin.policy", "No such file or directory"]);
}
