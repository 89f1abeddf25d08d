//! What a changed entry does before and after each kind of flush.

use hypervisor::mock::Mock;

use crate::machine::{Machine, Outcome, PAGES, POOL, ROOT};
use crate::model::{Access, Controls, Kind, Mode, PRESENT, USER, WRITABLE};

const GLOBAL: u64 = 1 << 8;
const FLAGS: u64 = PRESENT | WRITABLE | USER;
/// Selected by the root's second entry.
const LINEAR: u64 = 1 << 39;

/// One page, mapped by an entry with `flags`, and touched once.
fn mapped(flags: u64, pge: bool) -> Machine {
    let mut machine = Machine::new(&Mock::guest_code());
    let controls =
        Controls { mode: Mode::FourLevel, wp: true, pse: false, smep: false, smap: false, nxe: true, pge, huge: true };
    machine.prepare(controls);
    machine.write_entry(ROOT + 8, POOL | FLAGS, 8);
    machine.write_entry(POOL, (POOL + 0x1000) | FLAGS, 8);
    machine.write_entry(POOL + 0x1000, (POOL + 0x2000) | FLAGS, 8);
    machine.write_entry(PAGE_ENTRY, PAGES | flags, 8);
    assert_eq!(machine.load_root(), Outcome::Done);
    assert_eq!(machine.access(READ), Outcome::Done);
    machine
}

const PAGE_ENTRY: u64 = POOL + 0x2000;
const READ: Access = Access { linear: LINEAR, kind: Kind::Read, user: true, ac: false };
const WRITE: Access = Access { kind: Kind::Write, ..READ };
const NOT_PRESENT: Outcome = Outcome::PageFault { code: 4, address: LINEAR };

#[test]
fn invlpg_makes_a_changed_entry_count() {
    let mut machine = mapped(FLAGS, false);
    machine.write_entry(PAGE_ENTRY, 0, 8);
    assert_eq!(machine.invalidate(LINEAR), Outcome::Done);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn invlpg_reaches_a_global_page() {
    let mut machine = mapped(FLAGS | GLOBAL, true);
    machine.write_entry(PAGE_ENTRY, 0, 8);
    assert_eq!(machine.invalidate(LINEAR), Outcome::Done);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn loading_cr3_makes_a_changed_entry_count() {
    let mut machine = mapped(FLAGS, false);
    machine.write_entry(PAGE_ENTRY, 0, 8);
    assert_eq!(machine.load_root(), Outcome::Done);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn global_bit_counts_only_with_pge() {
    let mut machine = mapped(FLAGS | GLOBAL, false);
    machine.write_entry(PAGE_ENTRY, 0, 8);
    assert_eq!(machine.load_root(), Outcome::Done);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn toggling_pge_flushes_global_pages() {
    let mut machine = mapped(FLAGS | GLOBAL, true);
    machine.write_entry(PAGE_ENTRY, 0, 8);
    assert_eq!(machine.toggle_global_pages(), [Outcome::Done; 2]);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn an_upper_entry_that_changed_counts_after_invlpg() {
    let mut machine = mapped(FLAGS, false);
    machine.write_entry(POOL + 0x1000, 0, 8);
    assert_eq!(machine.invalidate(LINEAR), Outcome::Done);
    assert_eq!(machine.access(READ), NOT_PRESENT);
}

#[test]
fn an_entry_that_was_not_present_needs_no_flush() {
    let mut machine = mapped(FLAGS, false);
    let other = Access { linear: LINEAR + 0x1000, ..READ };
    assert_eq!(machine.access(other), Outcome::PageFault { code: 4, address: LINEAR + 0x1000 });
    machine.write_entry(PAGE_ENTRY + 8, PAGES | FLAGS, 8);
    assert_eq!(machine.access(other), Outcome::Done);
}

#[test]
fn a_right_that_was_added_needs_no_flush_after_a_fault() {
    let mut machine = mapped(PRESENT | USER, false);
    assert_eq!(machine.access(WRITE), Outcome::PageFault { code: 7, address: LINEAR });
    machine.write_entry(PAGE_ENTRY, PAGES | FLAGS, 8);
    assert_eq!(machine.access(WRITE), Outcome::Done);
}

#[test]
fn a_write_after_a_read_sets_the_dirty_flag() {
    let mut machine = mapped(FLAGS, false);
    assert_eq!(machine.read_entry(PAGE_ENTRY), PAGES | FLAGS | 0x20);
    assert_eq!(machine.access(WRITE), Outcome::Done);
    assert_eq!(machine.read_entry(PAGE_ENTRY), PAGES | FLAGS | 0x60);
}

#[test]
fn a_dirty_flag_that_was_cleared_is_set_again_after_a_flush() {
    let mut machine = mapped(FLAGS, false);
    assert_eq!(machine.access(WRITE), Outcome::Done);
    machine.write_entry(PAGE_ENTRY, PAGES | FLAGS, 8);
    assert_eq!(machine.invalidate(LINEAR), Outcome::Done);
    assert_eq!(machine.access(WRITE), Outcome::Done);
    assert_eq!(machine.read_entry(PAGE_ENTRY), PAGES | FLAGS | 0x60);
}
