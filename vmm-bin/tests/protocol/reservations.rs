//! `reserve_range`, and whose an access is.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::Message;
use test_utils::raw::request::{self, IOPORT, MMIO};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    accesses_of_each_width_and_direction_arrive_as_they_are
    an_access_nobody_claimed_reads_zeros_and_swallows_writes
    the_first_byte_decides_and_an_access_is_not_clipped
    a_reservation_can_come_and_go_while_the_guest_runs
    ports_and_memory_are_apart
    an_overlap_is_eperm_also_in_the_last_byte
    a_sum_that_overflows_is_einval
    nothing_to_end_is_enoent
    an_unknown_space_is_einval
}

fn fresh(backend: Backend) -> Driven {
    Driven::new(backend, &Program::new())
}

fn accesses_of_each_width_and_direction_arrive_as_they_are(backend: Backend) {
    let mut program = Program::new();
    for width in [1, 2, 4] {
        program = program.mov(0x4433_2211).output(0x10, width).input(0x14, width).output(0x10, width);
        program = program.mov(0x4433_2211).store(0x9000, width).load(0x9010, width).store(0x9000, width);
    }
    let driven = Driven::new(backend, &program);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 8), request::reserve(MMIO, 0x9000, 0x20)]);
    for width in [1, 2, 4] {
        for (space, to, from) in [(IOPORT, 0x10, 0x14), (MMIO, 0x9000, 0x9010)] {
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.no_resume), (space, to, true, false));
            assert_eq!(io.data, [0x11, 0x22, 0x33, 0x44][..width]);
            vcpu.resume();
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.data.len()), (space, from, false, width));
            vcpu.answer(&[0xa1, 0xa2, 0xa3, 0xa4][..width]);
            assert_eq!(vcpu.await_io().data, [0xa1, 0xa2, 0xa3, 0xa4][..width]);
            vcpu.resume();
        }
    }
    vcpu.assert_never_split();
    driven.finish();
}

fn an_access_nobody_claimed_reads_zeros_and_swallows_writes(backend: Backend) {
    let program = Program::new().mov(0xffff_ffff).output(0x60, 4).input(0x60, 4).output(0x10, 4);
    let program = program.mov(0xffff_ffff).store(0x9000, 4).load(0x9000, 4).output(0x10, 4);
    let driven = Driven::new(backend, &program);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    assert_eq!(vcpu.await_io().data, [0; 4]);
    vcpu.resume();
    assert_eq!(vcpu.await_io().data, [0; 4]);
    driven.finish();
}

fn the_first_byte_decides_and_an_access_is_not_clipped(backend: Backend) {
    let program = Program::new().mov(0x4433_2211).output(0x12, 4).output(0x0f, 4).output(0x13, 1);
    let driven = Driven::new(backend, &program);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    let io = vcpu.await_io();
    assert_eq!((io.address, io.data.as_slice()), (0x12, &[0x11, 0x22, 0x33, 0x44][..]));
    vcpu.resume();
    // The one that began before the reservation is nobody's.
    assert_eq!(vcpu.await_io().address, 0x13);
    driven.finish();
}

fn a_reservation_can_come_and_go_while_the_guest_runs(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).output(0x30, 1).forever());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    for _ in 0..10 {
        assert_eq!(vcpu.await_io().address, 0x10);
        driven.main.done(&request::reserve(IOPORT, 0x30, 1));
        vcpu.resume();
        assert_eq!(vcpu.await_io().address, 0x30);
        driven.main.done(&request::reserve(IOPORT, 0x30, 0));
        vcpu.resume();
    }
    driven.finish();
}

fn ports_and_memory_are_apart(backend: Backend) {
    let driven = fresh(backend);
    driven.main.done(&request::reserve(IOPORT, 0x10, 4));
    driven.main.done(&request::reserve(MMIO, 0x10, 4));
    driven.main.done(&request::reserve(IOPORT, 0x10, 0));
    driven.main.refused(&request::reserve(MMIO, 0x10, 4), Errno::PERM);
    driven.finish();
}

fn an_overlap_is_eperm_also_in_the_last_byte(backend: Backend) {
    let driven = fresh(backend);
    for space in [IOPORT, MMIO] {
        driven.main.done(&request::reserve(space, 0x100, 0x10));
        for (start, length) in [(0x100, 0x10), (0x10f, 1), (0xf0, 0x11), (0x108, 2), (0, 0x1000), (0xff, u64::MAX / 2)]
        {
            for make in [request::reserve, request::reserve_posted, request::reserve_coalesced] {
                driven.main.refused(&make(space, start, length), Errno::PERM);
            }
        }
        driven.main.done(&request::reserve(space, 0xf0, 0x10));
        driven.main.done(&request::reserve_posted(space, 0x110, 0x10));
    }
    driven.finish();
}

fn a_sum_that_overflows_is_einval(backend: Backend) {
    let driven = fresh(backend);
    for (start, length) in [(u64::MAX, 2), (1, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, 1 << 63)] {
        // The last byte of all cannot be reserved: its end has no number.
        driven.main.refused(&request::reserve(MMIO, start, length), Errno::INVAL);
    }
    driven.main.done(&request::reserve(MMIO, 0, u64::MAX));
    driven.finish();
}

fn nothing_to_end_is_enoent(backend: Backend) {
    let driven = fresh(backend);
    driven.main.done(&request::reserve(IOPORT, 0x100, 0x10));
    for start in [0, 0xff, 0x101, 0x10f, u64::MAX] {
        driven.main.refused(&request::reserve(IOPORT, start, 0), Errno::NOENT);
    }
    driven.main.done(&request::reserve_posted(IOPORT, 0x100, 0));
    driven.main.refused(&request::reserve(IOPORT, 0x100, 0), Errno::NOENT);
    driven.finish();
}

fn an_unknown_space_is_einval(backend: Backend) {
    let driven = fresh(backend);
    for space in [2, 3, i32::MAX as u64, -1_i64 as u64] {
        for length in [0, 1] {
            driven.main.refused(&request::reserve(space, 0x10, length), Errno::INVAL);
        }
    }
    // An absent space is the first one, and other numbers stand at their defaults too.
    let absent = Message::new().message(10, &Message::new().uint(3, 1));
    driven.main.done(&absent);
    driven.main.done(&request::reserve(IOPORT, 0, 0));
    driven.finish();
}
