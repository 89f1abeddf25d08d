//! `outboard demo` shows the same on every backend.

mod common;

use common::{Backend, Ended, Outboard, on_each_backend};

on_each_backend! {
    the_demo_shows_the_guests_words_and_counts_its_exits
}

fn demo(args: &[&str]) -> Ended {
    let ended = Outboard::new(["demo"].iter().chain(args)).run();
    ended.assert_success();
    ended
}

fn the_demo_shows_the_guests_words_and_counts_its_exits(backend: Backend) {
    let ended = demo(&["--hypervisor", backend.name()]);
    assert_eq!(ended.stdout[..2], ["guest: The sum is 5.", "guest: Greetings from the guest."], "{ended:#?}");
    assert_eq!(value(&ended, "backend"), backend.name());
    assert_eq!(value(&ended, "init"), "1");
    assert_eq!(value(&ended, "port write"), "41");
    assert_eq!(value(&ended, "port read"), "1");
    assert!(value(&ended, "time per exit").contains("s (median"), "{ended:#?}");
}

/// What stands beside `name` in the table.
fn value<'e>(ended: &'e Ended, name: &str) -> &'e str {
    let line = ended.stdout.iter().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name:?}: {ended:#?}")).trim()
}

#[test]
fn the_demo_needs_no_arguments() {
    let ended = demo(&[]);
    assert!(["kvm", "mock"].contains(&value(&ended, "backend")), "{ended:#?}");
}
