//! Attempts on other processes and programs, and on privileges.

use crate::kit::{Host, User, as_each_user};

as_each_user! {
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

fn ptrace_of_a_process_outside(user: User) {
    Host::new(user).attempt("trace-a-process-outside", &[&std::process::id().to_string()]).held();
}

fn ptrace_of_the_init(user: User) {
    Host::new(user).attempt("trace-the-init", &[]).held();
}

fn signals_to_a_process_outside(user: User) {
    Host::new(user).attempt("signal-a-process-outside", &[&std::process::id().to_string()]).held();
}

fn signals_to_the_init(user: User) {
    Host::new(user).attempt("signal-the-init", &[]).held();
}

fn descriptors_of_another_process(user: User) {
    Host::new(user).attempt("take-descriptors-of-another-process", &[&std::process::id().to_string()]).held();
}

fn proc_of_others(user: User) {
    Host::new(user).attempt("see-processes-outside", &[&std::process::id().to_string()]).held();
}

fn the_inits_memory_and_descriptors(user: User) {
    Host::new(user).attempt("look-into-the-init", &[]).held();
}

fn executing_another_binary(user: User) {
    Host::new(user).attempt("execute-another-binary", &["/usr/bin/true"]).held();
}

fn a_child_that_outlives_its_parent(user: User) {
    Host::new(user).attempt("outlive-the-plugin", &[]).held();
}

fn becoming_root(user: User) {
    Host::new(user).attempt("become-root", &[]).held();
}

fn gaining_capabilities(user: User) {
    Host::new(user).attempt("gain-capabilities", &[]).held();
}

fn lifting_no_new_privs(user: User) {
    Host::new(user).attempt("lift-no-new-privs", &[]).held();
}

fn the_vmms_session_and_terminal(user: User) {
    Host::new(user).attempt("leave-the-session", &[]).held();
}

fn real_time_priority(user: User) {
    Host::new(user).attempt("real-time-priority", &[]).held();
}
