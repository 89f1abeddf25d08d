//! Attempts on parts of the kernel that a plugin has no need of.

use crate::kit::{Host, User, as_each_user};

as_each_user! {
    bpf
    io_uring
    userfaultfd
    keyctl
    perf_events
    kernel_modules
    tiocsti
    the_kernels_log
    reboot
    the_clock
    swap_and_accounting
    port_access
    quotas_and_fanotify
}

fn bpf(user: User) {
    Host::new(user).attempt("bpf", &[]).held();
}

fn io_uring(user: User) {
    Host::new(user).attempt("io-uring", &[]).held_by_the_filter();
}

fn userfaultfd(user: User) {
    Host::new(user).attempt("userfaultfd", &[]).held_by_the_filter();
}

fn keyctl(user: User) {
    Host::new(user).attempt("keyctl", &[]).held_by_the_filter();
}

fn perf_events(user: User) {
    Host::new(user).attempt("perf-events", &[]).held_by_the_filter();
}

fn kernel_modules(user: User) {
    Host::new(user).attempt("kernel-modules", &[]).held();
}

fn tiocsti(user: User) {
    Host::new(user).attempt("push-into-a-terminal", &[]).held();
}

fn the_kernels_log(user: User) {
    Host::new(user).attempt("kernel-log", &[]).held();
}

fn reboot(user: User) {
    Host::new(user).attempt("reboot", &[]).held();
}

fn the_clock(user: User) {
    Host::new(user).attempt("set-the-clock", &[]).held();
}

fn swap_and_accounting(user: User) {
    Host::new(user).attempt("swap-and-accounting", &[]).held();
}

fn port_access(user: User) {
    Host::new(user).attempt("port-access", &[]).held();
}

fn quotas_and_fanotify(user: User) {
    Host::new(user).attempt("kernel-quotas", &[]).held();
}
