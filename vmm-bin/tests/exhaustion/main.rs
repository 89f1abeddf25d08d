//! Too little of everything, and signals all the time: the VMM goes on, or ends with a clear error, and leaves nothing.
//!
//! Each test tells on standard error how many cases it ran. What needs a control group of version 1 is skipped by name where
//! none can be made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod full;
mod groups;
mod limits;
mod signals;

use common::{BOOTED, Backend, Outboard, talker};

/// A run whose guest makes some exits, over pipes or rings, in a jail or without one.
fn run(backend: Backend, options: &[&str]) -> Outboard {
    Outboard::probe_with(backend, &talker(), options, &format!("{BOOTED} resume serve=20 exit=0"))
}

/// The ways to run it.
const WAYS: [&[&str]; 4] = [
    &["--transport", "pipe"],
    &["--transport", "ring"],
    &["--transport", "pipe", "--disable-sandbox"],
    &["--transport", "ring", "--disable-sandbox"],
];
