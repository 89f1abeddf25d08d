//! Descriptors that are missing, too many or of the wrong kind. All that came are closed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use test_utils::guest::Program;
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, Memory};
use test_utils::raw::{LIMIT, MainSocket, readable_within};

use crate::common::{Backend, Counters, Driven, on_each_backend};
use crate::samples::main_requests;

on_each_backend! {
    memory_of_the_wrong_kind_is_refused
    descriptors_that_no_request_takes_are_closed
    too_many_descriptors_close_the_connection
    a_socket_that_carries_itself_is_closed
    those_left_unread_on_closed_connections_are_limited
}

const PAGE: u64 = 0x1000;

/// Descriptors that are no memfd, with their names; some are the VMM's own, which it has handed out.
fn wrong_kinds(driven: &Driven) -> Vec<(&'static str, OwnedFd)> {
    let (socket, _) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let vcpu = driven.main.vcpus().pop().unwrap();
    let path = |path: &str, flags| open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let mut kinds = vec![
        ("a directory", path("/", OFlags::RDONLY | OFlags::DIRECTORY)),
        ("a file that was only named", path("/", OFlags::PATH)),
        ("an executable", path("/proc/self/exe", OFlags::RDONLY)),
        ("/dev/null", path("/dev/null", OFlags::RDWR)),
        ("/dev/zero", path("/dev/zero", OFlags::RDWR)),
        ("a process's memory", path("/proc/self/mem", OFlags::RDWR)),
        ("a regular file", OwnedFd::from(file)),
        ("a socket", socket),
        ("an epoll descriptor", epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()),
        ("the reading end of a pipe", read),
        ("the writing end of a pipe", write),
        ("an eventfd", eventfd(5, EventfdFlags::CLOEXEC).unwrap()),
        ("a pidfd", pidfd_open(getpid(), PidfdFlags::empty()).unwrap()),
        ("a pidfd of the VMM", pidfd_open(driven.running.pid(), PidfdFlags::empty()).unwrap()),
        ("the VMM's shutdown event", driven.main.descriptor(&request::get_shutdown_eventfd())),
        ("the main socket itself", driven.main.as_fd().try_clone_to_owned().unwrap()),
        ("another main socket", driven.main.descriptor(&request::new_connection())),
        ("a vCPU's requests", vcpu.requests().try_clone_to_owned().unwrap()),
        ("a vCPU's responses", vcpu.responses().try_clone_to_owned().unwrap()),
    ];
    if let Ok(kvm) = File::open("/dev/kvm") {
        kinds.push(("/dev/kvm", kvm.into()));
    }
    kinds
}

fn memory_of_the_wrong_kind_is_refused(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} memory of the wrong kind", backend.name()));
    let kinds = wrong_kinds(&driven);
    let before = driven.resources();
    for _ in 0..10 {
        for (name, fd) in &kinds {
            for length in [0, PAGE] {
                let create = request::create_memory(5, Memory::new(0x8000, length));
                let answer = driven.main.ask_with(&create, &[fd.as_fd()]);
                assert_ne!(answer.errno, 0, "{name}");
                counters.count();
            }
        }
    }
    drop(kinds);
    driven.assert_holds_no_more_than(before, "descriptors of the wrong kind");
    driven.assert_alive();
    driven.finish();
}

fn descriptors_that_no_request_takes_are_closed(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} descriptors that no request takes", backend.name()));
    let memory = sealed_memfd(PAGE);
    let round = |counters: &mut Counters| {
        for request in main_requests() {
            let _ = driven.main.ask_with(&request, &[memory.as_fd()]);
            counters.count();
        }
        for id in [60, 61, 62] {
            driven.main.ask(&request::destroy(id));
        }
        for bytes in [&[][..], &[0xff; 3], &[0x0a]] {
            let other = driven.connect();
            other.send(bytes, &[memory.as_fd()]).unwrap();
            other.assert_disconnected();
            counters.count();
        }
    };
    round(&mut counters);
    let before = driven.resources();
    (0..20).for_each(|_| round(&mut counters));
    driven.assert_holds_no_more_than(before, "descriptors that no request takes");
    driven.finish();
}

fn too_many_descriptors_close_the_connection(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} too many descriptors", backend.name()));
    let memory = sealed_memfd(PAGE);
    let before = driven.resources();
    for count in [2, 3, 4, 5, 6, 7, 8, 16, 32, 33, 100, 252, 253] {
        let fds: Vec<BorrowedFd<'_>> = vec![memory.as_fd(); count];
        for request in [request::create_memory(5, Memory::new(0x8000, PAGE)), request::get_shutdown_eventfd()] {
            let other = driven.connect();
            other.send(request.as_bytes(), &fds).unwrap();
            other.assert_disconnected();
            counters.count();
        }
    }
    driven.assert_holds_no_more_than(before, "too many descriptors");
    driven.assert_alive();
    driven.finish();
}

fn a_socket_that_carries_itself_is_closed(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} sockets that carry themselves", backend.name()));
    let before = driven.resources();
    for _ in 0..100 {
        let other = driven.connect();
        let create = request::create_memory(5, Memory::new(0x8000, PAGE));
        other.send(create.as_bytes(), &[other.as_fd()]).unwrap();
        drop(other);
        counters.count();
    }
    driven.assert_alive();
    driven.assert_holds_no_more_than(before, "sockets that carry themselves");
    driven.finish();
}

/// A plugin that asks for the descriptors of 16 vCPUs, does not read them, and makes the VMM close the connection, over and over.
/// What is under way counts for the VMM's user.
fn those_left_unread_on_closed_connections_are_limited(backend: Backend) {
    /// As docs/protocol.md has it.
    const MOST: usize = 128;
    let driven = Driven::with(backend, &Program::new(), &["-c", "16"]);
    let mut counters = Counters::new(format!("{} connections closed with unread descriptors", backend.name()));
    let before = driven.resources();
    for _ in 0..3 {
        // At the end there is no place left for the one descriptor of a new connection either, so they are made before.
        let others: Vec<_> = (0..20).map(|_| driven.connect()).collect();
        for other in &others {
            other.send(request::get_vcpus().as_bytes(), &[]).unwrap();
            // No request.
            let _ = other.send(&[0xff; 20], &[]);
            assert!(readable_within(other, LIMIT));
            counters.count();
        }
        let unread: usize = others.iter().filter_map(MainSocket::receive).map(|answer| answer.fds.len()).sum();
        assert_eq!(unread, MOST);
        others.iter().for_each(MainSocket::assert_disconnected);
        // They were read, so the others' count again for nothing.
        driven.assert_alive();
    }
    driven.assert_holds_no_more_than(before, "connections closed with unread descriptors");
    driven.finish().assert_logged(&["WARN", "128 of them unread"]);
}
