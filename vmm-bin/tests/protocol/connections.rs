//! `new_connection`, `get_shutdown_eventfd`, and what the VMM does not know.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, read, write};
use test_utils::guest::Program;
use test_utils::raw::Message;
use test_utils::raw::request::{self, IOPORT};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    each_connection_is_served_and_ends_alone
    objects_and_reservations_belong_to_no_connection
    the_shutdown_event_is_one_and_the_vmm_never_reads_it
    the_shutdown_event_fires_when_a_vcpu_stops
    descriptors_that_are_handed_over_block
    what_is_unknown_is_enotty
    a_datagram_that_does_not_decode_closes_its_connection_alone
    a_datagram_of_no_bytes_closes_its_connection_alone
}

fn each_connection_is_served_and_ends_alone(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let first = driven.main.new_connection();
    let second = first.new_connection();
    drop(first);
    second.done(&request::get_shutdown_eventfd());
    driven.main.done(&request::get_shutdown_eventfd());
    driven.finish();
}

fn objects_and_reservations_belong_to_no_connection(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let other = driven.main.new_connection();
    other.done(&request::reserve(IOPORT, 0x10, 4));
    driven.load();
    drop(other);
    let other = driven.main.new_connection();
    other.refused(&request::reserve(IOPORT, 0x13, 1), Errno::PERM);
    other.done(&request::reserve(IOPORT, 0x10, 0));
    other.done(&request::destroy(crate::common::RAM_ID));
    driven.main.refused(&request::destroy(crate::common::RAM_ID), Errno::NOENT);
    driven.finish();
}

fn is_readable(fd: impl AsFd) -> bool {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

fn the_shutdown_event_is_one_and_the_vmm_never_reads_it(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    assert!(!is_readable(&event), "it starts at 0");
    write(&event, &5_u64.to_ne_bytes()).unwrap();
    let again = driven.main.descriptor(&request::get_shutdown_eventfd());
    driven.assert_alive();
    let mut count = [0; 8];
    read(&again, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 5, "counter mode, and nobody else has read it");
    driven.finish();
}

fn the_shutdown_event_fires_when_a_vcpu_stops(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(1).output(0x10, 1).shutdown());
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpu.await_io();
    assert!(!is_readable(&event));
    vcpu.resume();
    driven.obey(&event).assert_success();
}

fn descriptors_that_are_handed_over_block(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let blocks = |fd: BorrowedFd<'_>| !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK);
    assert!(blocks(driven.main.as_fd()), "the first socket");
    assert!(blocks(driven.main.new_connection().as_fd()), "a new connection");
    assert!(blocks(driven.main.descriptor(&request::get_shutdown_eventfd()).as_fd()), "the shutdown event");
    for vcpu in driven.main.vcpus() {
        assert!(blocks(vcpu.requests()) && blocks(vcpu.responses()), "a vCPU's pipes");
    }
    driven.finish();
}

fn what_is_unknown_is_enotty(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    for field in [20, 100, 102, 0x1fff_ffff] {
        driven.main.refused(&Message::new().message(field, &Message::new()), Errno::NOTTY);
    }
    let without_constructor = Message::new().message(1, &Message::new().uint(1, 5));
    driven.main.refused(&without_constructor, Errno::NOTTY);
    driven.main.refused(&request::create(5, 5, Message::new()), Errno::NOTTY);
    // A request may have fields that came into the protocol later.
    driven.main.done(&request::get_shutdown_eventfd().uint(1000, 1).bytes(1001, b"new"));
    driven.finish();
}

fn a_datagram_that_does_not_decode_closes_its_connection_alone(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let other = driven.main.new_connection();
    other.send(&[0xff; 3], &[]).unwrap();
    other.assert_disconnected();
    driven.assert_alive();
    driven.finish().assert_logged(&["WARN", "relay", "dropped"]);
}

fn a_datagram_of_no_bytes_closes_its_connection_alone(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let other = driven.main.new_connection();
    other.send(&[], &[]).unwrap();
    other.assert_disconnected();
    driven.assert_alive();
    driven.finish();
}
