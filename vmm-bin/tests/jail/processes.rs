//! Attempts on other processes and programs, and on privileges.

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    ptrace_of_a_process_outside
    ptrace_of_the_init
    signals_to_a_process_outside
    signals_to_the_init
    descriptors_of_another_process
    proc_of_others
    the_inits_memory_and_descriptors
    executing_another_binary
    a_child_that_outlives_its_parent
    becoming_root
    gaining_capabilities
    lifting_no_new_privs
    the_vmms_session_and_terminal
    real_time_priority
}

fn ptrace_of_a_process_outside(host: &Host) {
    host.attempt("trace-a-process-outside", &[&std::process::id().to_string()]).held();
}

fn ptrace_of_the_init(host: &Host) {
    host.attempt("trace-the-init", &[]).held();
}

fn signals_to_a_process_outside(host: &Host) {
    host.attempt("signal-a-process-outside", &[&std::process::id().to_string()]).held();
}

fn signals_to_the_init(host: &Host) {
    host.attempt("signal-the-init", &[]).held();
}

fn descriptors_of_another_process(host: &Host) {
    host.attempt("take-descriptors-of-another-process", &[&std::process::id().to_string()]).held();
}

fn proc_of_others(host: &Host) {
    host.attempt("see-processes-outside", &[&std::process::id().to_string()]).held();
}

fn the_inits_memory_and_descriptors(host: &Host) {
    host.attempt("look-into-the-init", &[]).held();
}

fn executing_another_binary(host: &Host) {
    host.attempt("execute-another-binary", &["/usr/bin/true"]).held();
}

fn a_child_that_outlives_its_parent(host: &Host) {
    host.attempt("outlive-the-plugin", &[]).held();
}

fn becoming_root(host: &Host) {
    host.attempt("become-root", &[]).held();
}

fn gaining_capabilities(host: &Host) {
    host.attempt("gain-capabilities", &[]).held();
}

fn lifting_no_new_privs(host: &Host) {
    host.attempt("lift-no-new-privs", &[]).held();
}

fn the_vmms_session_and_terminal(host: &Host) {
    host.attempt("leave-the-session", &[]).held();
}

fn real_time_priority(host: &Host) {
    host.attempt("real-time-priority", &[]).held();
}
