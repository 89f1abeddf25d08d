//! Attempts to use up what others need too.

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    a_fork_bomb
    a_thread_bomb
    descriptor_exhaustion
    pending_signal_exhaustion
    raising_rlimits
    raising_the_inits_rlimits
    a_core_dump
    filling_the_root
}

fn a_fork_bomb(host: &Host) {
    host.attempt("fork-bomb", &[]).held();
}

fn a_thread_bomb(host: &Host) {
    host.attempt("thread-bomb", &[]).held();
}

fn descriptor_exhaustion(host: &Host) {
    host.attempt("exhaust-descriptors", &[]).held();
}

fn pending_signal_exhaustion(host: &Host) {
    host.attempt("use-up-signals", &[]).held();
}

fn raising_rlimits(host: &Host) {
    host.attempt("raise-limits", &[]).held();
}

fn raising_the_inits_rlimits(host: &Host) {
    host.attempt("raise-limits-of-the-init", &[]).held();
}

fn a_core_dump(host: &Host) {
    host.attempt("dump-core", &[]).held();
}

fn filling_the_root(host: &Host) {
    host.attempt("fill-the-root", &[]).held();
}
