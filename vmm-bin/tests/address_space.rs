//! Too little address space: the VMM goes on, or ends with a clear error, and leaves nothing.
//!
//! A program of its own, since what an aborted VMM leaves for a moment would be taken for a leftover by a test beside.

#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

mod common;

use std::sync::{Mutex, PoisonError};

use common::{BOOTED, Backend, Counters, Outboard, on_each_backend, talker};
use rustix::process::Resource;

on_each_backend! {
    with_too_little_address_space_the_end_is_clear
}

/// What Rust's allocator says where it gets nothing: that ends a program at once, and is as clear as an error.
const NO_MEMORY: &str = "memory allocation of";
/// The signal of that end.
const SIGABRT: i32 = 6;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether the program can be loaded at all: else it is the kernel, or its loader, that ends it.
fn is_loaded(most: u64) -> bool {
    let ended = Outboard::new(["--version"]).limited(Resource::As, most).start().end_however();
    ended.code == Some(0)
}

fn with_too_little_address_space_the_end_is_clear(backend: Backend) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for options in [&["--transport", "ring"][..], &["--transport", "pipe", "--disable-sandbox"]] {
        let mut counters = Counters::new(format!("{} starts with little address space, {options:?}", backend.name()));
        // From 4 MiB, which is less than a program has, in steps of a sixteenth to 4 GiB: a start needs little more
        // than `--version` does, and a wide step can pass over all sizes between the two.
        let sizes =
            std::iter::successors(Some(4u64 << 20), |size| Some(size + size / 16).filter(|size| size >> 32 == 0));
        let mut well = Vec::new();
        for most in sizes.skip_while(|most| !is_loaded(*most)) {
            let steps = format!("{BOOTED} resume serve=20 exit=0");
            let run = Outboard::probe_with(backend, &talker(), options, &steps);
            let ended = run.limited(Resource::As, most).start().end_however();
            let aborted = ended.signal == Some(SIGABRT) && ended.logged(&[NO_MEMORY]) > 0;
            if !aborted {
                ended.assert_clear();
            }
            well.push((most, ended.code == Some(0)));
            counters.count();
        }
        assert!(!well.first().unwrap().1 && well.last().unwrap().1, "{options:?} {well:?}");
    }
}
