//! `pause_vcpus`: when it is delivered, and that none is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use test_utils::guest::{ENTRY, Program};
use test_utils::raw::request::{self, IOPORT, MMIO};
use test_utils::raw::vcpu_request::REGS;
use test_utils::raw::{VcpuChannel, VcpuPipes, Wait};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    before_the_start_it_comes_right_after_the_resume_from_init
    a_running_guest_is_stopped
    a_halted_guest_is_stopped
    while_paused_it_comes_right_after_that_resume
    a_newer_one_replaces_one_not_yet_delivered
    only_the_vcpus_of_the_mask_pause_and_bits_past_the_last_are_ignored
    it_is_delivered_whichever_connection_it_comes_from
    an_access_is_finished_first
    an_access_of_two_fragments_is_finished_first
    none_is_lost_in_a_race_with_exits_and_resumes
    the_last_of_a_flood_is_delivered
}

fn port() -> test_utils::raw::Message {
    request::reserve(IOPORT, 0x10, 4)
}

fn writer() -> Program {
    Program::new().mov(0x41).output(0x10, 1).forever()
}

fn before_the_start_it_comes_right_after_the_resume_from_init(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    driven.main.done(&request::pause(1, 7));
    let mut vcpu = driven.running_one(&[port()]);
    assert_eq!(vcpu.await_exit(), Wait::User(7));
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn a_running_guest_is_stopped(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut vcpu = driven.running_one(&[]);
    for user in [0, 1, u64::MAX, 5] {
        driven.main.done(&request::pause(1, user));
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        vcpu.resume();
    }
    driven.finish();
}

fn a_halted_guest_is_stopped(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).halt());
    let mut vcpu = driven.running_one(&[port()]);
    vcpu.await_io();
    vcpu.resume();
    for user in 0..5 {
        driven.main.done(&request::pause(1, user));
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        vcpu.resume();
    }
    driven.finish();
}

fn while_paused_it_comes_right_after_that_resume(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    driven.main.done(&request::pause(1, 0));
    let mut vcpu = driven.running_one(&[port()]);
    assert_eq!(vcpu.await_exit(), Wait::User(0));
    for user in 1..10 {
        driven.main.done(&request::pause(1, user));
        vcpu.resume();
        assert_eq!(vcpu.await_exit(), Wait::User(user));
    }
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn a_newer_one_replaces_one_not_yet_delivered(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    driven.main.done(&request::pause(1, 1));
    driven.main.done(&request::pause(1, 2));
    let mut vcpu = driven.running_one(&[port()]);
    assert_eq!(vcpu.await_exit(), Wait::User(2));
    vcpu.resume();
    vcpu.await_io();
    for user in 3..6 {
        driven.main.done(&request::pause(1, user));
    }
    vcpu.resume();
    assert_eq!(vcpu.await_exit(), Wait::User(5));
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn only_the_vcpus_of_the_mask_pause_and_bits_past_the_last_are_ignored(backend: Backend) {
    let driven = Driven::with(backend, &writer(), &["-c", "3"]);
    let mut vcpus = driven.running(&[port()]);
    let all = |vcpus: &mut [VcpuPipes]| vcpus.iter_mut().for_each(|vcpu| drop(vcpu.await_io()));
    all(&mut vcpus);
    for (mask, paused) in [
        (0, [false; 3]),
        (0b010, [false, true, false]),
        (0b101, [true, false, true]),
        (u64::MAX, [true; 3]),
        (!0b111, [false; 3]),
    ] {
        driven.main.done(&request::pause(mask, mask));
        for (vcpu, paused) in vcpus.iter_mut().zip(paused) {
            vcpu.resume();
            if paused {
                assert_eq!(vcpu.await_exit(), Wait::User(mask));
                vcpu.resume();
            }
        }
        all(&mut vcpus);
    }
    driven.finish();
}

fn it_is_delivered_whichever_connection_it_comes_from(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut vcpu = driven.running_one(&[]);
    for user in 0..20 {
        driven.main.new_connection().done(&request::pause(1, user));
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        vcpu.resume();
    }
    driven.finish();
}

fn an_access_is_finished_first(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(0).input(0x11, 2).output(0x10, 2).forever());
    let mut vcpu = driven.running_one(&[port()]);
    for round in 1..50_u16 {
        assert!(!vcpu.await_io().is_write);
        driven.main.done(&request::pause(1, round.into()));
        vcpu.answer(&round.to_le_bytes());
        assert_eq!(vcpu.await_exit(), Wait::User(round.into()));
        let regs = vcpu.get(REGS);
        assert_eq!(regs[..2], round.to_le_bytes(), "the read has its result");
        let rip = u64::from_le_bytes(regs[128..136].try_into().unwrap());
        // mov is 6 bytes, loading DX 3, the read itself 1.
        assert_eq!(rip, ENTRY + 10, "the read is done");
        vcpu.resume();
        assert_eq!(vcpu.await_io().data, round.to_le_bytes());
        driven.main.done(&request::pause(1, round.into()));
        vcpu.resume();
        assert_eq!(vcpu.await_exit(), Wait::User(round.into()));
        vcpu.resume();
    }
    driven.finish();
}

fn an_access_of_two_fragments_is_finished_first(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(0).load(0x8ffe, 4).store(0x8fff, 4).forever());
    let mut vcpu = driven.running_one(&[request::reserve(MMIO, 0x8000, 0x2000)]);
    for user in 0..20 {
        assert_eq!(vcpu.await_io().address, 0x8ffe);
        driven.main.done(&request::pause(1, user));
        vcpu.answer(&[1, 2]);
        let io = vcpu.await_io();
        assert_eq!((io.address, io.data.len()), (0x9000, 2));
        vcpu.answer(&[3, 4]);
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        assert_eq!(vcpu.get(REGS)[..4], [1, 2, 3, 4]);
        vcpu.resume();
        let io = vcpu.await_io();
        assert_eq!((io.address, io.data.as_slice()), (0x8fff, &[1][..]));
        driven.main.done(&request::pause(1, user));
        vcpu.resume();
        let io = vcpu.await_io();
        assert_eq!((io.address, io.data.as_slice()), (0x9000, &[2, 3, 4][..]));
        vcpu.resume();
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        vcpu.resume();
    }
    driven.finish();
}

/// Each pause is asked for at no particular moment of the guest's, by another thread over its own connection.
fn none_is_lost_in_a_race_with_exits_and_resumes(backend: Backend) {
    const PAUSES: u64 = 1500;
    let driven = Driven::new(backend, &Program::new().mov(0).input(0x11, 1).output(0x10, 1).forever());
    let other = driven.main.new_connection();
    let mut vcpu = driven.running_one(&[port()]);
    let delivered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for user in 1..=PAUSES {
                other.done(&request::pause(1, user));
                test_utils::wait::until("the pause is delivered", || delivered.load(Ordering::SeqCst) == user);
            }
        });
        let mut answered = 0_u8;
        let mut read_last = false;
        while delivered.load(Ordering::SeqCst) < PAUSES {
            match vcpu.await_exit() {
                Wait::User(user) => {
                    assert_eq!(user, delivered.load(Ordering::SeqCst) + 1);
                    if read_last {
                        assert_eq!(vcpu.get(REGS)[0], answered, "within an unfinished access");
                    }
                    delivered.store(user, Ordering::SeqCst);
                    vcpu.resume();
                }
                Wait::Io(io) if io.is_write => {
                    assert_eq!(io.data, [answered]);
                    read_last = false;
                    vcpu.resume();
                }
                Wait::Io(_) => {
                    answered = answered.wrapping_add(1);
                    read_last = true;
                    vcpu.answer(&[answered]);
                }
                other => panic!("{other:?}"),
            }
        }
    });
    driven.finish();
}

fn the_last_of_a_flood_is_delivered(backend: Backend) {
    const PAUSES: u64 = 3000;
    let driven = Driven::new(backend, &writer());
    let other = driven.main.new_connection();
    let mut vcpu = driven.running_one(&[port()]);
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=PAUSES).for_each(|user| drop(other.done(&request::pause(1, user)))));
        let mut last = 0;
        while last < PAUSES {
            if let Wait::User(user) = vcpu.await_exit() {
                assert!(user > last, "{user} after {last}");
                last = user;
            }
            vcpu.resume();
        }
    });
    driven.finish();
}
