//! `create.io_event`: eventfds that a guest's writes fire.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT, MMIO};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    a_write_of_any_length_fires_it_without_an_exit
    only_that_many_low_bytes_of_the_data_are_compared
    events_that_differ_in_data_share_an_address
    destroy_gives_the_address_back
    it_can_come_and_go_while_the_guest_runs
    another_length_is_einval
    an_unknown_space_is_einval
    what_collides_is_refused_and_changes_nothing
}

/// How often it has fired since it was asked last.
fn fired(event: &OwnedFd) -> u64 {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&now)).unwrap() == 0 {
        return 0;
    }
    let mut count = [0; 8];
    rustix::io::read(event, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

fn event(driven: &Driven, id: u32, space: u64, address: u64, length: u32, datamatch: u64) -> OwnedFd {
    driven.main.descriptor(&request::create_io_event(id, space, address, length, datamatch))
}

const DOORBELL: u16 = 0x10;

fn doorbell() -> test_utils::raw::Message {
    request::reserve(IOPORT, DOORBELL.into(), 1)
}

fn a_write_of_any_length_fires_it_without_an_exit(backend: Backend) {
    let mut program = Program::new().mov(0x1234_5678);
    for width in [1, 2, 4] {
        program = program.output(0x70, width).store(0x9000, width);
    }
    let driven = Driven::new(backend, &program.output(DOORBELL, 1));
    // What is given for the data does not count.
    let (port, mmio) = (event(&driven, 2, IOPORT, 0x70, 0, 99), event(&driven, 3, MMIO, 0x9000, 0, 99));
    assert!(!fcntl_getfl(&port).unwrap().contains(OFlags::NONBLOCK));
    assert_eq!((fired(&port), fired(&mmio)), (0, 0), "they start at 0");
    let reservations = [doorbell(), request::reserve(IOPORT, 0x70, 4), request::reserve(MMIO, 0x9000, 4)];
    let mut vcpu = driven.running_one(&reservations);
    assert_eq!(vcpu.await_io().address, u64::from(DOORBELL));
    assert_eq!((fired(&port), fired(&mmio)), (3, 3));
    driven.finish();
}

fn only_that_many_low_bytes_of_the_data_are_compared(backend: Backend) {
    for width in [1_u8, 2, 4] {
        let program = Program::new().mov(0x0403_0201).output(0x70, width).mov(0x0403_0202).output(0x70, width);
        let driven = Driven::new(backend, &program);
        let wanted = event(&driven, 2, IOPORT, 0x70, width.into(), 0xffff_ffff_0403_0201 & !(0xff << (8 * width)));
        let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x70, 4)]);
        // The first went to the event where its low bytes are those, the second does not.
        assert_eq!(vcpu.await_io().data[0], 2, "width {width}");
        assert_eq!(fired(&wanted), 1, "width {width}");
        driven.finish();
    }
    // The length counts too.
    let driven = Driven::new(backend, &Program::new().mov(1).output(0x70, 1).output(0x70, 2).output(DOORBELL, 1));
    let wanted = event(&driven, 2, IOPORT, 0x70, 2, 1);
    let mut vcpu = driven.running_one(&[doorbell(), request::reserve(IOPORT, 0x70, 4)]);
    assert_eq!(vcpu.await_io().data, [1]);
    vcpu.resume();
    assert_eq!(vcpu.await_io().address, u64::from(DOORBELL));
    assert_eq!(fired(&wanted), 1);
    driven.finish();
}

fn events_that_differ_in_data_share_an_address(backend: Backend) {
    let program = (0..4).fold(Program::new(), |program, value| program.mov(value).output(0x70, 1));
    let driven = Driven::new(backend, &program.output(DOORBELL, 1));
    let events: Vec<_> = (0..4).map(|data| event(&driven, 10 + data, IOPORT, 0x70, 1, data.into())).collect();
    let mut vcpu = driven.running_one(&[doorbell()]);
    vcpu.await_io();
    assert_eq!(events.iter().map(fired).collect::<Vec<_>>(), [1; 4]);
    driven.finish();
}

fn destroy_gives_the_address_back(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x70, 1).output(DOORBELL, 1).forever());
    let first = event(&driven, 2, IOPORT, 0x70, 1, 0);
    driven.main.done(&request::destroy(2));
    driven.main.refused(&request::destroy(2), Errno::NOENT);
    let second = event(&driven, 2, IOPORT, 0x70, 1, 0);
    let mut vcpu = driven.running_one(&[doorbell()]);
    vcpu.await_io();
    assert_eq!((fired(&first), fired(&second)), (0, 1));
    driven.finish();
}

fn it_can_come_and_go_while_the_guest_runs(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(DOORBELL, 1).store(0x9000, 1).forever());
    let mut vcpu = driven.running_one(&[doorbell(), request::reserve(MMIO, 0x9000, 1)]);
    for _ in 0..10 {
        assert_eq!(vcpu.await_io().address, u64::from(DOORBELL));
        let event = event(&driven, 2, MMIO, 0x9000, 1, 0);
        vcpu.resume();
        assert_eq!(vcpu.await_io().address, u64::from(DOORBELL));
        assert_eq!(fired(&event), 1);
        driven.main.done(&request::destroy(2));
        vcpu.resume();
        assert_eq!(vcpu.await_io().address, 0x9000);
        vcpu.resume();
    }
    driven.finish();
}

fn another_length_is_einval(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    for space in [IOPORT, MMIO] {
        for length in [3, 5, 6, 7, 9, 16, u32::MAX] {
            driven.main.refused(&request::create_io_event(2, space, 0x70, length, 0), Errno::INVAL);
        }
        for length in [0, 1, 2, 4, 8] {
            event(&driven, 2, space, 0x70, length, u64::MAX);
            driven.main.done(&request::destroy(2));
        }
    }
    driven.main.refused(&request::destroy(2), Errno::NOENT);
    driven.finish();
}

fn an_unknown_space_is_einval(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    for space in [2, i32::MAX as u64, -1_i64 as u64] {
        driven.main.refused(&request::create_io_event(2, space, 0x70, 1, 0), Errno::INVAL);
    }
    driven.finish();
}

fn what_collides_is_refused_and_changes_nothing(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(1).output(0x70, 1).output(DOORBELL, 1));
    let first = event(&driven, 2, IOPORT, 0x70, 1, 1);
    // As the kernel says.
    driven.main.refused(&request::create_io_event(3, IOPORT, 0x70, 1, 1), Errno::EXIST);
    driven.main.refused(&request::create_io_event(3, IOPORT, 0x70, 0, 0), Errno::EXIST);
    driven.main.refused(&request::create_io_event(2, IOPORT, 0x80, 1, 1), Errno::EXIST);
    driven.main.refused(&request::destroy(3), Errno::NOENT);
    let mut vcpu = driven.running_one(&[doorbell()]);
    vcpu.await_io();
    assert_eq!(fired(&first), 1);
    driven.finish();
}
