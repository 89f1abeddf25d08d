//! Requests about the VM, against a VMM that the test plays.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use std::os::fd::AsFd;

use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::messages::{AddressSpace as Space, MainResponse};
use plugin_sdk::{AddressSpace, Connection, Error, Event};
use rustix::io::{FdFlags, fcntl_getfd};
use support::{FakeVmm, sockets};

const EPERM: i32 = 1;

#[test]
fn a_new_connection_speaks_over_the_socket_that_came() {
    let (vmm, mut connection) = FakeVmm::new();
    let (ours, theirs) = sockets();
    vmm.answer(Response::NewConnection(Default::default()), &[theirs.as_fd()]);
    let mut second = connection.new_connection().unwrap();
    assert!(matches!(vmm.request().0, Request::NewConnection(_)));

    let vmm = FakeVmm::over(ours);
    vmm.answer(Response::Start(Default::default()), &[]);
    second.start().unwrap();
    assert!(matches!(vmm.request().0, Request::Start(_)));
}

#[test]
fn descriptors_are_close_on_exec_unless_they_are_to_be_inherited() {
    let inherited = |fd: &dyn AsFd| !fcntl_getfd(fd.as_fd()).unwrap().contains(FdFlags::CLOEXEC);
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let (ours, theirs) = sockets();

    let (vmm, mut connection) = FakeVmm::new();
    vmm.answer(Response::GetShutdownEventfd(Default::default()), &[reader.as_fd()]);
    assert!(!inherited(&connection.shutdown_eventfd().unwrap()));

    let mut connection = connection.with_inheritable_descriptors();
    vmm.answer(Response::GetShutdownEventfd(Default::default()), &[reader.as_fd()]);
    assert!(inherited(&connection.shutdown_eventfd().unwrap()));

    vmm.answer(Response::NewConnection(Default::default()), &[theirs.as_fd()]);
    let mut second = connection.new_connection().unwrap();
    let vmm = FakeVmm::over(ours);
    vmm.answer(Response::GetShutdownEventfd(Default::default()), &[reader.as_fd()]);
    assert!(inherited(&second.shutdown_eventfd().unwrap()));
}

#[test]
fn the_shutdown_eventfd_is_the_descriptor_that_came() {
    let (vmm, mut connection) = FakeVmm::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    vmm.answer(Response::GetShutdownEventfd(Default::default()), &[reader.as_fd()]);
    let event = connection.shutdown_eventfd().unwrap();
    rustix::io::write(&writer, b"!").unwrap();
    let mut byte = [0];
    assert_eq!(rustix::io::read(&event, &mut byte), Ok(1));
    assert!(matches!(vmm.request().0, Request::GetShutdownEventfd(_)));
}

#[test]
fn reservations_carry_space_range_and_kind() {
    let (vmm, mut connection) = FakeVmm::new();
    for _ in 0..4 {
        vmm.answer(Response::ReserveRange(Default::default()), &[]);
    }
    connection.reserve_range(AddressSpace::Pio, 0x3f8, 8).unwrap();
    connection.reserve_async_write_range(AddressSpace::Mmio, 0xd000_0000, 0x1000).unwrap();
    connection.reserve_coalesced_write_range(AddressSpace::Pio, 0x3f8, 8).unwrap();
    connection.release_range(AddressSpace::Mmio, 0xd000_0000).unwrap();
    for expected in [
        (Space::IOPORT, 0x3f8, 8, false, false),
        (Space::MMIO, 0xd000_0000, 0x1000, true, false),
        (Space::IOPORT, 0x3f8, 8, true, true),
        (Space::MMIO, 0xd000_0000, 0, false, false),
    ] {
        let Request::ReserveRange(range) = vmm.request().0 else {
            panic!("another request");
        };
        let space = range.space.enum_value().unwrap();
        let sent = (space, range.start, range.length, range.async_write, range.coalesce);
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_pause_carries_mask_and_user() {
    let (vmm, mut connection) = FakeVmm::new();
    vmm.answer(Response::PauseVcpus(Default::default()), &[]);
    connection.pause_vcpus(0b101, u64::MAX).unwrap();
    let Request::PauseVcpus(pause) = vmm.request().0 else {
        panic!("another request");
    };
    assert_eq!((pause.cpu_mask, pause.user), (0b101, u64::MAX));
}

#[test]
fn vcpus_come_in_order_and_once() {
    let (vmm, mut connection) = FakeVmm::new();
    let vcpus = vmm.vcpus(&mut connection, 16);
    for (expected, (fake, mut vcpu)) in vcpus.into_iter().enumerate() {
        assert_eq!(vcpu.index(), expected);
        fake.init();
        assert!(matches!(vcpu.wait(), Ok(Event::Init(_))));
    }
    assert!(matches!(connection.vcpus(), Err(Error::VcpusTaken)));

    let (_ours, theirs) = sockets();
    vmm.answer(Response::NewConnection(Default::default()), &[theirs.as_fd()]);
    let mut second = connection.new_connection().unwrap();
    assert!(matches!(second.vcpus(), Err(Error::VcpusTaken)));
}

#[test]
fn vcpus_that_were_refused_may_be_asked_for_again() {
    let (vmm, mut connection) = FakeVmm::new();
    vmm.knows_no_rings();
    vmm.refuse(EPERM);
    assert!(matches!(connection.vcpus(), Err(Error::Refused { request: "get_vcpus", .. })));
    vmm.request();
    vmm.request();
    assert_eq!(vmm.vcpus(&mut connection, 1).len(), 1);
}

#[test]
fn a_refusal_names_the_request_and_leaves_the_connection_usable() {
    let (vmm, mut connection) = FakeVmm::new();
    vmm.refuse(EPERM);
    let error = connection.reserve_range(AddressSpace::Pio, 0, 1).unwrap_err();
    let Error::Refused { request, source } = error else {
        panic!("{error}");
    };
    assert_eq!((request, source.raw_os_error()), ("reserve_range", Some(EPERM)));
    vmm.answer(Response::Start(Default::default()), &[]);
    connection.start().unwrap();
}

/// Calls `start` with the answer already there.
fn start_answered(lay: impl FnOnce(&FakeVmm)) -> Error {
    let (vmm, mut connection) = FakeVmm::new();
    lay(&vmm);
    connection.start().unwrap_err()
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let another = start_answered(|vmm| vmm.answer(Response::Destroy(Default::default()), &[]));
    assert!(matches!(another, Error::Unexpected { .. }), "{another}");
    let garbage = start_answered(|vmm| vmm.send_bytes(&[0xff; 9], &[]));
    assert!(matches!(garbage, Error::Message(_)), "{garbage}");
    let nothing_in_it = start_answered(|vmm| vmm.send_bytes(&[0x08, 0x00], &[]));
    assert!(matches!(nothing_in_it, Error::Unexpected { .. }), "{nothing_in_it}");
}

#[test]
fn a_wrong_number_of_descriptors_is_an_error() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    for fds in [&[][..], &[reader.as_fd(), writer.as_fd()]] {
        let (vmm, mut connection) = FakeVmm::new();
        vmm.answer(Response::GetShutdownEventfd(Default::default()), fds);
        assert!(matches!(connection.shutdown_eventfd(), Err(Error::Unexpected { .. })));
    }
    for count in [1, 34] {
        let (vmm, mut connection) = FakeVmm::new();
        vmm.knows_no_rings();
        vmm.answer(Response::GetVcpus(Default::default()), &vec![reader.as_fd(); count]);
        let refused = connection.vcpus();
        assert!(matches!(refused, Err(Error::Unexpected { .. })), "{count}: {refused:?}");
    }
}

#[test]
fn a_vmm_that_is_gone_is_disconnected() {
    let (vmm, mut connection) = FakeVmm::new();
    drop(vmm);
    assert!(matches!(connection.start(), Err(Error::Disconnected)));

    let (vmm, mut connection) = FakeVmm::new();
    let call = std::thread::spawn(move || connection.start());
    vmm.request();
    drop(vmm);
    assert!(matches!(call.join().unwrap(), Err(Error::Disconnected)));
}

#[test]
fn the_longest_answer_fits() {
    let (vmm, mut connection) = FakeVmm::new();
    let mut response = MainResponse::new();
    response.mut_get_state().state = vec![1; 0x20000];
    vmm.send(&response, &[]);
    // Not the answer to this, but received whole.
    assert!(matches!(connection.start(), Err(Error::Unexpected { .. })));
}

#[test]
fn a_connection_may_move_to_another_thread() {
    fn check<T: Send>() {}
    check::<Connection>();
}
