//! Registers that an owner reads and sets while an access waits for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{MMIO, PIO, PORT, Rig};
use hypervisor::mock::Step;
use hypervisor::{kvm_debugregs, kvm_regs};
use vmm_core::{Command, Event, Exchange, Looks, State, StateKind};

fn read_rig(steps: impl IntoIterator<Item = Step>) -> Rig {
    let mut rig = Rig::new(1, steps);
    rig.reserve(PIO, PORT.into(), 1);
    rig.reserve(MMIO, 0xd000, 0x2000);
    rig.start_running();
    rig
}

fn in_out() -> [Step; 3] {
    [Step::Mov(0x5500), Step::In { port: PORT, width: 1 }, Step::Out { port: PORT, width: 4 }]
}

fn resume_with(rig: &Rig, data: &[u8], regs: kvm_regs) {
    let mut exchange = Exchange::answer(data);
    exchange.set.put_regs(&regs);
    rig.send(0, Command::Resume(exchange));
}

fn set_regs(rig: &Rig, regs: kvm_regs) {
    rig.send(0, Command::Set(State::Regs(Box::new(regs))));
    assert!(matches!(rig.event(0), Event::Done(Ok(()))));
}

#[test]
fn registers_changed_after_a_look_keep_the_reads_own_result() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    let seen = rig.regs(0);
    resume_with(&rig, &[0x77], kvm_regs { rbx: 0xbeef, ..seen });
    rig.expect_write(0, &[0x77, 0x55, 0, 0]);
    assert_eq!(rig.regs(0).rbx, 0xbeef);
}

#[test]
fn registers_set_without_a_look_are_set_whole() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    resume_with(&rig, &[0x77], kvm_regs { rax: 0x0102_0304, rflags: 2, ..kvm_regs::default() });
    rig.expect_write(0, &[4, 3, 2, 1]);
}

#[test]
fn a_set_request_within_a_read_is_seen_by_the_next_get_and_holds() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    let seen = rig.regs(0);
    set_regs(&rig, kvm_regs { rcx: 0xcafe, ..seen });
    assert_eq!(rig.regs(0), kvm_regs { rcx: 0xcafe, ..seen });
    rig.answer(0, &[0x77]);
    rig.expect_write(0, &[0x77, 0x55, 0, 0]);
    assert_eq!(rig.regs(0).rcx, 0xcafe);
}

#[test]
fn the_resumes_registers_come_after_those_of_an_earlier_request() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    let seen = rig.regs(0);
    set_regs(&rig, kvm_regs { rcx: 1, rdx: 1, ..seen });
    resume_with(&rig, &[0], kvm_regs { rcx: 2, ..seen });
    rig.expect_access(0);
    let regs = rig.regs(0);
    assert_eq!((regs.rcx, regs.rdx), (2, seen.rdx));
}

#[test]
fn segment_registers_set_within_a_read_hold() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    rig.send(0, Command::Get(StateKind::Sregs));
    let Event::State(Ok(State::Sregs(mut sregs))) = rig.event(0) else { panic!("no sregs") };
    sregs.ds.base = 0x1230;
    let mut exchange = Exchange::answer(&[1]);
    exchange.set.put_sregs(&sregs);
    rig.send(0, Command::Resume(exchange));
    rig.expect_write(0, &[1, 0x55, 0, 0]);
    rig.send(0, Command::Get(StateKind::Sregs));
    assert!(matches!(rig.event(0), Event::State(Ok(State::Sregs(sregs))) if sregs.ds.base == 0x1230));
}

#[test]
fn registers_set_in_the_first_fragment_of_a_read_wait_for_the_last() {
    let rig = read_rig([Step::Mov(0), Step::Load { address: 0xdffe, width: 4 }, Step::Out { port: PORT, width: 4 }]);
    assert_eq!(rig.expect_access(0).0.address(), 0xdffe);
    let seen = rig.regs(0);
    resume_with(&rig, &[1, 2], kvm_regs { rbx: 0xbeef, ..seen });
    assert_eq!(rig.expect_access(0).0.address(), 0xe000);
    assert_eq!(rig.regs(0).rbx, 0xbeef, "seen as set, though not applied yet");
    rig.answer(0, &[3, 4]);
    rig.expect_write(0, &[1, 2, 3, 4]);
    assert_eq!(rig.regs(0).rbx, 0xbeef);
}

/// Of one who tells what it has looked at.
fn resume_telling(rig: &Rig, data: &[u8], regs: Option<kvm_regs>, looked: bool) {
    let mut exchange = Exchange::answer(data);
    exchange.seen = Some(Looks { regs: looked, ..Looks::default() });
    if let Some(regs) = regs {
        exchange.set.put_regs(&regs);
    }
    rig.send(0, Command::Resume(exchange));
}

/// The next access is a read, and comes with registers.
fn expect_attached(rig: &Rig) -> kvm_regs {
    match rig.event(0) {
        Event::Access { exchange, .. } => *exchange.attached.regs().expect("registers"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn registers_come_unasked_with_a_read_and_count_as_seen_only_if_they_were_looked_at() {
    let rig = read_rig((0..5).flat_map(|_| [Step::Mov(0x5500), Step::In { port: PORT, width: 1 }]));
    rig.expect_access(0);
    resume_telling(&rig, &[0], None, false);
    rig.expect_access(0);
    rig.regs(0);
    resume_telling(&rig, &[1], None, false);
    let regs = expect_attached(&rig);
    assert_eq!(regs.rax, 0x5500);
    resume_telling(&rig, &[2], Some(kvm_regs { rbx: 0xbeef, ..regs }), true);
    let regs = expect_attached(&rig);
    assert_eq!(regs.rbx, 0xbeef);
    resume_telling(&rig, &[3], Some(kvm_regs { rax: 4, rcx: 0xcafe, rflags: 2, ..kvm_regs::default() }), false);
    let regs = expect_attached(&rig);
    assert_eq!((regs.rax, regs.rbx, regs.rcx), (0x5500, 0, 0xcafe));
}

#[test]
fn registers_do_not_come_unasked_to_one_who_tells_no_looks() {
    let rig = read_rig([Step::In { port: PORT, width: 1 }, Step::In { port: PORT, width: 1 }]);
    rig.expect_access(0);
    rig.regs(0);
    rig.answer(0, &[1]);
    assert!(matches!(rig.event(0), Event::Access { exchange, .. } if exchange.attached.regs().is_none()));
}

fn debug_address(rig: &Rig) -> u64 {
    rig.send(0, Command::Get(StateKind::DebugRegs));
    match rig.event(0) {
        Event::State(Ok(State::DebugRegs(debug_regs))) => debug_regs.db[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_debug_registers_set_in_two_fragments_of_a_read_the_later_hold() {
    let rig = read_rig([Step::Load { address: 0xdffe, width: 4 }, Step::Out { port: PORT, width: 4 }]);
    let debug_regs = |address| Box::new(kvm_debugregs { db: [address, 0, 0, 0], ..Default::default() });
    rig.expect_access(0);
    let mut exchange = Exchange::answer(&[1, 2]);
    exchange.set.put_debug_regs(&debug_regs(0x1000));
    rig.send(0, Command::Resume(exchange));
    rig.expect_access(0);
    assert_eq!(debug_address(&rig), 0x1000, "seen as set, though not applied yet");
    rig.send(0, Command::Set(State::DebugRegs(debug_regs(0x2000))));
    assert!(matches!(rig.event(0), Event::Done(Ok(()))));
    assert_eq!(debug_address(&rig), 0x2000);
    rig.answer(0, &[3, 4]);
    rig.expect_write(0, &[1, 2, 3, 4]);
    assert_eq!(debug_address(&rig), 0x2000);
}

#[test]
fn registers_set_within_a_write_are_there_at_once() {
    let rig = read_rig([
        Step::Mov(1),
        Step::Out { port: PORT, width: 1 },
        Step::Out { port: PORT, width: 4 },
        Step::Out { port: PORT, width: 4 },
    ]);
    rig.expect_write(0, &[1]);
    set_regs(&rig, kvm_regs { rax: 0x0102_0304, ..rig.regs(0) });
    assert_eq!(rig.regs(0).rax, 0x0102_0304);
    rig.resume(0);
    rig.expect_write(0, &[4, 3, 2, 1]);
    resume_with(&rig, &[], kvm_regs { rax: 5, ..rig.regs(0) });
    rig.expect_write(0, &[5, 0, 0, 0]);
}

#[test]
fn registers_can_be_set_while_paused() {
    let mut rig = Rig::new(1, [Step::Out { port: PORT, width: 1 }]);
    rig.reserve(PIO, PORT.into(), 1);
    rig.machine.pause(rig.owner, |_| true, 1);
    rig.start_running();
    rig.expect_paused(0, 1);
    resume_with(&rig, &[], kvm_regs { rax: 9, ..rig.regs(0) });
    rig.expect_write(0, &[9]);
}
