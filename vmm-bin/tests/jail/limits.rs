//! Attempts to use up what others need too.

use crate::kit::{Host, User, as_each_user};

as_each_user! {
    a_fork_bomb
    a_thread_bomb
    descriptor_exhaustion
    raising_rlimits
    raising_the_inits_rlimits
    a_core_dump
    filling_the_root
}

fn a_fork_bomb(user: User) {
    Host::new(user).attempt("fork-bomb", &[]).held();
}

fn a_thread_bomb(user: User) {
    Host::new(user).attempt("thread-bomb", &[]).held();
}

fn descriptor_exhaustion(user: User) {
    Host::new(user).attempt("exhaust-descriptors", &[]).held();
}

fn raising_rlimits(user: User) {
    Host::new(user).attempt("raise-limits", &[]).held();
}

fn raising_the_inits_rlimits(user: User) {
    Host::new(user).attempt("raise-limits-of-the-init", &[]).held();
}

fn a_core_dump(user: User) {
    Host::new(user).attempt("dump-core", &[]).held();
}

fn filling_the_root(user: User) {
    Host::new(user).attempt("fill-the-root", &[]).held();
}
