//! `negotiate` and `get_vcpu_rings`, which lie beyond version 0, and exits over rings.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT, ITEM_WIDTHS, MMIO, RINGS};
use test_utils::raw::vcpu_request::{self, CpuidEntry, REGS, SREGS};
use test_utils::raw::vcpu_ring::{
    self, LOOKED_AT_DEBUGREGS, LOOKED_AT_REGS, LOOKED_AT_SREGS, Record, WITH_DEBUGREGS, WITH_REGS, WITH_SREGS, kind,
};
use test_utils::raw::{Message, VcpuChannel, VcpuRing};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    both_sides_agree_on_what_both_can
    a_vmm_of_pipes_alone_agrees_on_nothing_and_has_no_rings
    a_vmm_of_rings_alone_has_no_pipes
    rings_are_sealed_memory_and_the_same_when_asked_for_again
    rings_and_pipes_exclude_each_other
    there_are_no_rings_after_the_start_but_those_that_were_made_before
    sixty_four_come_in_batches_and_all_work
    every_vcpu_request_has_its_answer
    a_resume_sets_registers_and_a_hint_attaches_them
    registers_that_were_asked_for_come_unasked_until_nobody_looks_at_them
    long_data_follows_its_header
    pauses_come_over_rings
    posted_writes_come_in_order_and_are_not_answered
    what_is_asked_for_beside_a_resume_is_a_fault
    a_vcpu_asleep_ends_with_the_vm
}

fn both_sides_agree_on_what_both_can(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let both = RINGS | ITEM_WIDTHS;
    for (version, offered, agreed) in
        [(1, RINGS, RINGS), (2, u64::MAX, both), (1, 0, 0), (1, 4, 0), (1, ITEM_WIDTHS, ITEM_WIDTHS), (0, both, 0)]
    {
        let answer = driven.main.done(&request::negotiate(version, offered));
        assert_eq!((answer.body.uint(1), answer.body.uint(2)), (1, agreed), "{version} {offered}");
        // The pipe that ends with the VMM. Nothing is ever in it, and it does not block.
        assert_eq!(answer.fds.len(), usize::from(agreed & RINGS != 0));
        for lifeline in answer.fds {
            assert_eq!(rustix::io::read(&lifeline, &mut [0; 1]), Err(Errno::AGAIN));
        }
    }
    // It may be asked at any time.
    driven.main.done(&request::start());
    driven.main.done(&request::negotiate(1, RINGS));
    driven.finish();
}

fn a_vmm_of_pipes_alone_agrees_on_nothing_and_has_no_rings(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--transport", "pipe"]);
    let answer = driven.main.done(&request::negotiate(1, RINGS));
    assert_eq!((answer.body.uint(2), answer.fds.len()), (0, 0));
    driven.main.refused(&request::get_vcpu_rings(0), Errno::NOTTY);
    assert_eq!(driven.main.vcpus().len(), 1);
    driven.finish();
}

fn a_vmm_of_rings_alone_has_no_pipes(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--transport", "ring"]);
    driven.main.refused(&request::get_vcpus(), Errno::BUSY);
    assert_eq!(driven.main.rings().len(), 1);
    driven.finish();
}

fn rings_are_sealed_memory_and_the_same_when_asked_for_again(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "3"]);
    let first = driven.main.done(&request::get_vcpu_rings(0));
    assert_eq!((first.body.uint(1), first.fds.len()), (3, 3));
    let again = driven.main.done(&request::get_vcpu_rings(1));
    assert_eq!((again.body.uint(1), again.fds.len()), (3, 2));
    for (one, other) in first.fds[1..].iter().zip(&again.fds) {
        assert_eq!(fstat(one).unwrap().st_ino, fstat(other).unwrap().st_ino);
    }
    for memfd in &first.fds {
        assert_eq!(fstat(memfd).unwrap().st_size, vcpu_ring::SIZE as i64);
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        assert_eq!(fcntl_get_seals(memfd).unwrap(), seals);
        assert_eq!(rustix::fs::ftruncate(memfd, 0), Err(Errno::PERM));
    }
    for beyond in [4, u32::MAX] {
        driven.main.refused(&request::get_vcpu_rings(beyond), Errno::INVAL);
    }
    driven.finish();
}

fn rings_and_pipes_exclude_each_other(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    driven.main.vcpus();
    driven.main.refused(&request::get_vcpu_rings(0), Errno::BUSY);
    driven.main.vcpus();
    driven.finish();

    let driven = Driven::new(backend, &Program::new());
    driven.main.rings();
    driven.main.refused(&request::get_vcpus(), Errno::BUSY);
    driven.finish();
}

fn there_are_no_rings_after_the_start_but_those_that_were_made_before(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    driven.main.done(&request::start());
    driven.main.refused(&request::get_vcpu_rings(0), Errno::BUSY);
    driven.finish();

    let driven = Driven::new(backend, &Program::new());
    driven.main.done(&request::get_vcpu_rings(0));
    driven.main.done(&request::start());
    let mut ring = driven.main.rings().pop().unwrap();
    ring.expect(kind::INIT);
    driven.finish();
}

fn sixty_four_come_in_batches_and_all_work(backend: Backend) {
    let program = Program::new().input(0x10, 1).output(0x11, 1).forever();
    let driven = Driven::with(backend, &program, &["-c", "64"]);
    // Version 0 carries 16.
    driven.main.refused(&request::get_vcpus(), Errno::TOOBIG);
    let batches = [0, 32, 64].map(|first| driven.main.done(&request::get_vcpu_rings(first)).fds.len());
    assert_eq!(batches, [32, 32, 0]);
    let mut rings = driven.rings(&[request::reserve(IOPORT, 0x10, 2)]);
    assert_eq!(rings.len(), 64);
    for round in 0..3 {
        for (index, ring) in (0..).zip(&mut rings) {
            assert_eq!(ring.await_access().kind, kind::READ);
            ring.answer(&[index * 3 + round]);
        }
        for (index, ring) in (0..).zip(&mut rings) {
            assert_eq!(ring.expect(kind::WRITE).data(), [index * 3 + round]);
            ring.resume();
        }
    }
    driven.finish();
}

fn one(backend: Backend, program: &Program, reservations: &[Message]) -> (Driven, VcpuRing) {
    let driven = Driven::new(backend, program);
    let ring = driven.ring(reservations);
    (driven, ring)
}

fn every_vcpu_request_has_its_answer(backend: Backend) {
    let program = Program::new().mov(0x1234).output(0x10, 2).forever();
    let (driven, mut ring) = one(backend, &program, &[request::reserve(IOPORT, 0x10, 1)]);
    let access = ring.expect(kind::WRITE);
    assert_eq!((access.flags, access.address, access.data()), (0, 0x10, vec![0x34, 0x12]));
    let states = [REGS, SREGS, vcpu_request::FPU, vcpu_request::DEBUGREGS, vcpu_request::LAPIC, vcpu_request::MP];
    for state in states.into_iter().chain([vcpu_request::XCREGS, vcpu_request::EVENTS]) {
        let value = ring.get(state);
        ring.set(state, &value);
        assert!(ring.ask(&vcpu_request::set_state(state.0, &value[1..])).is(Errno::INVAL));
    }
    assert!(ring.ask(&vcpu_request::get_state(99)).is(Errno::INVAL));
    let msrs = ring.done(&vcpu_request::get_msrs(&[0x10]));
    assert_eq!(msrs.uints(1).len(), 1);
    ring.done(&vcpu_request::set_msrs(&[(0x10, 5)]));
    // Too late for that: it has run.
    let cpuid = vcpu_request::set_cpuid(&[CpuidEntry { function: 1, ..CpuidEntry::default() }]);
    assert!(ring.ask(&cpuid).is(Errno::INVAL));
    ring.ask(&vcpu_request::get_hyperv_cpuid());
    assert!(ring.ask(&vcpu_request::enable_capability(1)).is(Errno::INVAL));
    // There is no wait over rings, and what is unknown is told.
    assert!(ring.ask(&vcpu_request::wait()).is(Errno::PROTO));
    assert!(ring.ask(&Message::new().message(77, &Message::new())).is(Errno::NOTTY));
    ring.resume();
    ring.expect(kind::WRITE);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    ring.send(&Record::request(&vcpu_request::shutdown()));
    driven.obey(&event).assert_success();
}

fn a_resume_sets_registers_and_a_hint_attaches_them(backend: Backend) {
    let program = Program::new().mov(7).output(0x10, 4).output(0x10, 4).forever();
    let (driven, mut ring) = one(backend, &program, &[request::reserve(IOPORT, 0x10, 1)]);
    let hint = request::RegHint { send_sregs: true, send_debugregs: true, ..Default::default() };
    driven.main.done(&request::set_call_hint(IOPORT, 0x10, true, &[hint]));
    let access = ring.expect(kind::WRITE);
    assert_eq!(access.data(), 7_u32.to_le_bytes());
    let mut regs = if access.flags & WITH_REGS != 0 { access.payload[..REGS.1].to_vec() } else { ring.get(REGS) };
    // RAX comes first.
    regs[..8].copy_from_slice(&9_u64.to_le_bytes());
    ring.send(&Record { kind: kind::RESUME, flags: WITH_REGS, payload: regs, ..Record::default() });
    let access = ring.expect(kind::WRITE);
    assert_eq!((access.data(), access.flags), (9_u32.to_le_bytes().to_vec(), WITH_REGS | WITH_SREGS | WITH_DEBUGREGS));
    assert_eq!(access.payload.len(), REGS.1 + SREGS.1 + vcpu_request::DEBUGREGS.1);
    assert_eq!(access.payload[..REGS.1], ring.get(REGS));
    assert_eq!(access.payload[REGS.1..][..SREGS.1], ring.get(SREGS));
    driven.finish();
}

fn registers_that_were_asked_for_come_unasked_until_nobody_looks_at_them(backend: Backend) {
    let program = Program::new().mov(7).output(0x10, 1).output(0x11, 1).forever();
    let all = LOOKED_AT_REGS | LOOKED_AT_SREGS | LOOKED_AT_DEBUGREGS;
    for (state, with, looked) in [
        (REGS, WITH_REGS, LOOKED_AT_REGS),
        (SREGS, WITH_SREGS, LOOKED_AT_SREGS),
        (vcpu_request::DEBUGREGS, WITH_DEBUGREGS, LOOKED_AT_DEBUGREGS),
    ] {
        let (driven, mut ring) = one(backend, &program, &[request::reserve(IOPORT, 0x10, 2)]);
        let mut asked = Vec::new();
        // At 0x10, by round: what comes, and what is said to have been looked at. To have looked at what did not come counts for
        // nothing. In the second round it is asked for, and vain attempts are given up after the third.
        let rounds = [(0, all), (0, 0), (with, looked), (with, 0), (with, all & !looked), (with, 0), (0, 0)];
        for (round, (comes, looks)) in rounds.into_iter().enumerate() {
            let access = ring.expect(kind::WRITE);
            assert_eq!((access.address, access.flags), (0x10, comes), "round {round}");
            if round == 1 {
                asked = ring.get(state);
            }
            if comes != 0 {
                assert_eq!(access.payload, asked, "round {round}");
            }
            ring.send(&Record { kind: kind::RESUME, flags: looks, ..Record::default() });
            let other = ring.expect(kind::WRITE);
            assert_eq!((other.address, other.flags), (0x11, 0), "round {round}");
            ring.resume();
        }
        driven.finish();
    }
}

fn long_data_follows_its_header(backend: Backend) {
    let text: Vec<u8> = (0..100).collect();
    let program = Program::new().output_string(0x10, &text).input_string(0x11, 1, 90).load(0x3000, 4).output(0x12, 4);
    let (driven, mut ring) = one(backend, &program, &[request::reserve(IOPORT, 0x10, 3)]);
    let mut come = Vec::new();
    while come.len() < text.len() {
        come.extend(ring.expect(kind::WRITE).data());
        ring.resume();
    }
    assert_eq!(come, text);
    let mut left = 90;
    while left > 0 {
        let read = ring.expect(kind::READ);
        // No bytes follow for what is to be read.
        assert!(read.payload.is_empty() && read.data > 0);
        let mut payload = vec![0x77; read.data as usize];
        payload.resize(payload.len().next_multiple_of(8), 0);
        left -= read.data;
        match read.data {
            ..=40 => ring.answer(&payload[..read.data as usize]),
            data => ring.send(&Record { kind: kind::RESUME, data, payload, ..Record::default() }),
        }
    }
    assert_eq!(ring.expect(kind::WRITE).data(), [0x77; 4]);
    driven.finish();
}

fn pauses_come_over_rings(backend: Backend) {
    let (driven, mut ring) = one(backend, &Program::new(), &[]);
    for user in [0, 5, u64::MAX] {
        driven.main.done(&request::pause(1, user));
        assert_eq!(ring.expect(kind::PAUSED).address, user);
        ring.get(REGS);
        ring.resume();
    }
    driven.finish();
}

/// More than the ring holds: the vCPU waits for room, and none is lost.
fn posted_writes_come_in_order_and_are_not_answered(backend: Backend) {
    let mut program = Program::new();
    for value in 0..100 {
        program = program.mov(value).output(0x30, 1).store(0x9000, 4);
    }
    let reservations = [
        request::reserve(IOPORT, 0x10, 1),
        request::reserve_posted(IOPORT, 0x30, 1),
        request::reserve_posted(MMIO, 0x9000, 4),
    ];
    let (driven, mut ring) = one(backend, &program.output(0x10, 1).forever(), &reservations);
    for _ in 0..10 {
        for value in 0..100_u32 {
            let posted = ring.expect(kind::POSTED);
            assert_eq!((posted.flags, posted.address, posted.data()), (0, 0x30, vec![value as u8]));
            let posted = ring.expect(kind::POSTED);
            let expected = (vcpu_ring::MMIO, 0x9000, value.to_le_bytes().to_vec());
            assert_eq!((posted.flags, posted.address, posted.data()), expected);
        }
        assert_eq!(ring.expect(kind::WRITE).address, 0x10);
        assert!(!ring.has_record_within(Duration::ZERO));
        ring.resume();
    }
    driven.finish();
}

fn what_is_asked_for_beside_a_resume_is_a_fault(backend: Backend) {
    let program = Program::new().output(0x10, 1).forever();
    let (driven, mut ring) = one(backend, &program, &[request::reserve(IOPORT, 0x10, 1)]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    ring.expect(kind::WRITE);
    ring.send(&Record { kind: 3, ..Record::default() });
    driven.obey(&event).assert_failure(&["relay", "record of the unknown kind 3"]);
}

/// The VMM's end closes the rings, and wakes who sleeps on them.
fn a_vcpu_asleep_ends_with_the_vm(backend: Backend) {
    let program = Program::new().output(0x10, 1).forever();
    let driven = Driven::with(backend, &program, &["--poll-us", "0", "-c", "2"]);
    let mut rings = driven.rings(&[request::reserve(IOPORT, 0x10, 1)]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    // One of the VMM's threads sleeps until it is answered; the test sleeps until there is something to answer.
    rings[0].expect(kind::WRITE);
    rings[1].expect(kind::WRITE);
    let waiter = std::thread::spawn(move || rings[1].receive());
    driven.signal(rustix::process::Signal::TERM);
    assert!(test_utils::raw::readable_within(event.as_fd(), test_utils::raw::LIMIT));
    // It is disconnected after the second that a plugin has.
    assert_eq!(test_utils::wait::join("the wait", waiter), None);
    let ended = driven.exit(0);
    ended.assert_took(Duration::ZERO..Duration::from_secs(10));
}
