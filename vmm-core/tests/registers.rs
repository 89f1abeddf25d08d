//! Registers that an owner reads and sets while an access waits for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{MMIO, PIO, PORT, Rig};
use hypervisor::mock::Step;
use hypervisor::{kvm_debugregs, kvm_regs};
use vmm_core::{Exchange, RegisterSet, State, StateKind, VcpuExit};

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
    let mut exchange = Exchange::read_data(data);
    exchange.set.put_regs(&regs);
    rig.resume_with(0, exchange);
}

fn set_regs(rig: &Rig, regs: kvm_regs) {
    rig.set(0, State::Regs(Box::new(regs)));
}

#[test]
fn registers_changed_after_a_get_keep_the_read_data() {
    let rig = read_rig(in_out());
    rig.expect_access(0);
    let seen = rig.regs(0);
    resume_with(&rig, &[0x77], kvm_regs { rbx: 0xbeef, ..seen });
    rig.expect_write(0, &[0x77, 0x55, 0, 0]);
    assert_eq!(rig.regs(0).rbx, 0xbeef);
}

#[test]
fn registers_set_without_a_get_are_set_whole() {
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
    rig.resume_read(0, &[0x77]);
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
    let Ok(Ok(State::Sregs(mut sregs))) = rig.vcpu(0).get(StateKind::Sregs) else { panic!("no sregs") };
    sregs.ds.base = 0x1230;
    let mut exchange = Exchange::read_data(&[1]);
    exchange.set.put_sregs(&sregs);
    rig.resume_with(0, exchange);
    rig.expect_write(0, &[1, 0x55, 0, 0]);
    assert!(matches!(rig.vcpu(0).get(StateKind::Sregs), Ok(Ok(State::Sregs(sregs))) if sregs.ds.base == 0x1230));
}

#[test]
fn registers_set_in_the_first_fragment_of_a_read_wait_for_the_last() {
    let rig = read_rig([Step::Mov(0), Step::Load { address: 0xdffe, width: 4 }, Step::Out { port: PORT, width: 4 }]);
    assert_eq!(rig.expect_access(0).0.address(), 0xdffe);
    let seen = rig.regs(0);
    resume_with(&rig, &[1, 2], kvm_regs { rbx: 0xbeef, ..seen });
    assert_eq!(rig.expect_access(0).0.address(), 0xe000);
    assert_eq!(rig.regs(0).rbx, 0xbeef, "seen as set, though not applied yet");
    rig.resume_read(0, &[3, 4]);
    rig.expect_write(0, &[1, 2, 3, 4]);
    assert_eq!(rig.regs(0).rbx, 0xbeef);
}

/// The resume of a handler that reports which registers it has accessed.
fn resume_reporting(rig: &Rig, data: &[u8], regs: Option<kvm_regs>, accessed: bool) {
    let mut exchange = Exchange::read_data(data);
    exchange.accessed = Some(RegisterSet { regs: accessed, ..RegisterSet::default() });
    if let Some(regs) = regs {
        exchange.set.put_regs(&regs);
    }
    rig.resume_with(0, exchange);
}

/// The next access is a read that has registers attached.
fn expect_attached(rig: &Rig) -> kvm_regs {
    match rig.exit(0) {
        VcpuExit::Access { exchange, .. } => *exchange.attached.regs().expect("registers"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn prefetched_registers_are_merged_only_if_accessed() {
    let rig = read_rig((0..5).flat_map(|_| [Step::Mov(0x5500), Step::In { port: PORT, width: 1 }]));
    rig.expect_access(0);
    resume_reporting(&rig, &[0], None, false);
    rig.expect_access(0);
    rig.regs(0);
    resume_reporting(&rig, &[1], None, false);
    let regs = expect_attached(&rig);
    assert_eq!(regs.rax, 0x5500);
    resume_reporting(&rig, &[2], Some(kvm_regs { rbx: 0xbeef, ..regs }), true);
    let regs = expect_attached(&rig);
    assert_eq!(regs.rbx, 0xbeef);
    resume_reporting(&rig, &[3], Some(kvm_regs { rax: 4, rcx: 0xcafe, rflags: 2, ..kvm_regs::default() }), false);
    let regs = expect_attached(&rig);
    assert_eq!((regs.rax, regs.rbx, regs.rcx), (0x5500, 0, 0xcafe));
}

#[test]
fn registers_are_not_prefetched_without_access_reports() {
    let rig = read_rig([Step::In { port: PORT, width: 1 }, Step::In { port: PORT, width: 1 }]);
    rig.expect_access(0);
    rig.regs(0);
    rig.resume_read(0, &[1]);
    assert!(matches!(rig.exit(0), VcpuExit::Access { exchange, .. } if exchange.attached.regs().is_none()));
}

fn debug_address(rig: &Rig) -> u64 {
    match rig.vcpu(0).get(StateKind::DebugRegs).unwrap() {
        Ok(State::DebugRegs(debug_regs)) => debug_regs.db[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_debug_registers_set_in_two_fragments_of_a_read_the_later_hold() {
    let rig = read_rig([Step::Load { address: 0xdffe, width: 4 }, Step::Out { port: PORT, width: 4 }]);
    let debug_regs = |address| Box::new(kvm_debugregs { db: [address, 0, 0, 0], ..Default::default() });
    rig.expect_access(0);
    let mut exchange = Exchange::read_data(&[1, 2]);
    exchange.set.put_debug_regs(&debug_regs(0x1000));
    rig.resume_with(0, exchange);
    rig.expect_access(0);
    assert_eq!(debug_address(&rig), 0x1000, "seen as set, though not applied yet");
    rig.set(0, State::DebugRegs(debug_regs(0x2000)));
    assert_eq!(debug_address(&rig), 0x2000);
    rig.resume_read(0, &[3, 4]);
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
