//! Attempts on parts of the kernel that a plugin has no need of.

use crate::kit::{Host, in_each_setting};

in_each_setting! {
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

fn bpf(host: &Host) {
    host.attempt("bpf", &[]).held();
}

fn io_uring(host: &Host) {
    host.attempt("io-uring", &[]).held_by_the_filter();
}

fn userfaultfd(host: &Host) {
    host.attempt("userfaultfd", &[]).held_by_the_filter();
}

fn keyctl(host: &Host) {
    host.attempt("keyctl", &[]).held_by_the_filter();
}

fn perf_events(host: &Host) {
    host.attempt("perf-events", &[]).held_by_the_filter();
}

fn kernel_modules(host: &Host) {
    host.attempt("kernel-modules", &[]).held();
}

fn tiocsti(host: &Host) {
    host.attempt("push-into-a-terminal", &[]).held();
}

fn the_kernels_log(host: &Host) {
    host.attempt("kernel-log", &[]).held();
}

fn reboot(host: &Host) {
    host.attempt("reboot", &[]).held();
}

fn the_clock(host: &Host) {
    host.attempt("set-the-clock", &[]).held();
}

fn swap_and_accounting(host: &Host) {
    host.attempt("swap-and-accounting", &[]).held();
}

fn port_access(host: &Host) {
    host.attempt("port-access", &[]).held();
}

fn quotas_and_fanotify(host: &Host) {
    host.attempt("kernel-quotas", &[]).held();
}
