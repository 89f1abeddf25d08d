//! Requests out of order.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, REGS};
use test_utils::raw::{Message, VcpuChannel, VcpuPipes, Wait};

use crate::common::{Backend, Counters, Driven, RAM_ID, on_each_backend};
use crate::samples::{main_requests, vcpu_requests};

on_each_backend! {
    everything_before_wait_is_refused
    two_resumes_at_once_are_one_or_two
    a_resume_too_many_answers_the_next_exit
    state_that_is_asked_for_while_the_guest_runs_comes_at_its_next_stop
    many_requests_in_one_write_do_no_harm
    too_many_requests_in_one_write_end_the_vm
    everything_after_destroy_is_answered
    everything_after_a_vcpus_end_is_answered_for_a_second
    starts_over_and_over_are_refused
}

fn talking(backend: Backend) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).input(0x11, 1).forever());
    let vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 2)]);
    (driven, vcpu)
}

fn everything_before_wait_is_refused(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut vcpu = driven.main.vcpus().pop().unwrap();
    driven.main.done(&request::start());
    let mut counters = Counters::new(format!("{} vCPU requests before wait", backend.name()));
    let resume = vcpu_request::resume_with(&[1], &[2; 3], &[4; 5]);
    for _ in 0..50 {
        for request in vcpu_requests().iter().skip(1).chain([&resume, &vcpu_request::resume()]) {
            vcpu.send(request);
            assert!(vcpu.receive().unwrap().is(Errno::PROTO), "{request:?}");
            counters.count();
        }
    }
    vcpu.await_init();
    driven.finish();
}

fn two_resumes_at_once_are_one_or_two(backend: Backend) {
    let (driven, mut vcpu) = talking(backend);
    let mut counters = Counters::new(format!("{} two resumes at once", backend.name()));
    vcpu.await_io();
    let (first, second) = (vcpu_request::answer(&[1]), vcpu_request::answer(&[2]));
    for _ in 0..200 {
        vcpu.write(&[first.as_bytes(), second.as_bytes()].concat());
        vcpu.await_io();
        // Two writes may be read as one request or as two: then one exit more goes by, or the pause at once.
        vcpu.write(first.as_bytes());
        vcpu.write(second.as_bytes());
        driven.main.done(&request::pause(1, 1));
        while vcpu.await_exit() != Wait::User(1) {
            vcpu.resume();
        }
        vcpu.resume();
        vcpu.await_io();
        counters.count();
    }
    driven.assert_alive();
    driven.finish();
}

fn a_resume_too_many_answers_the_next_exit(backend: Backend) {
    let (driven, mut vcpu) = talking(backend);
    let mut counters = Counters::new(format!("{} resumes too many", backend.name()));
    for _ in 0..200 {
        vcpu.await_io();
        vcpu.resume();
        vcpu.await_taken();
        // Now the guest runs, or waits already; this answers whatever it stops for next.
        vcpu.resume();
        vcpu.await_io();
        vcpu.await_io();
        vcpu.resume();
        vcpu.await_taken();
        counters.count();
    }
    driven.assert_alive();
    driven.finish();
}

fn state_that_is_asked_for_while_the_guest_runs_comes_at_its_next_stop(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut vcpu = driven.running_one(&[]);
    let mut counters = Counters::new(format!("{} state asked for while the guest runs", backend.name()));
    for user in 0..100 {
        vcpu.await_taken();
        vcpu.send(&vcpu_request::get_state(REGS.0));
        driven.main.done(&request::pause(1, user));
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        let answer = vcpu.receive().unwrap();
        assert_eq!((answer.errno, answer.field, answer.body.bytes(1).len()), (0, Some(4), REGS.1));
        vcpu.resume();
        counters.count();
    }
    driven.finish();
}

/// They are read as one message, of which the last alternative counts.
fn many_requests_in_one_write_do_no_harm(backend: Backend) {
    let (driven, mut vcpu) = talking(backend);
    vcpu.await_io();
    let mut counters = Counters::new(format!("{} many requests in one write", backend.name()));
    let get = vcpu_request::get_state(REGS.0);
    for count in [2, 10, 30] {
        let mut bytes: Vec<u8> = vcpu_requests().iter().flat_map(|request| request.as_bytes().to_vec()).collect();
        bytes.extend(get.as_bytes().repeat(count));
        vcpu.write(&bytes);
        let answer = vcpu.receive().unwrap();
        assert_eq!((answer.errno, answer.field, answer.body.bytes(1).len()), (0, Some(4), REGS.1));
        counters.count();
    }
    assert!(!vcpu.has_response_within(std::time::Duration::ZERO));
    driven.finish();
}

/// More than a few fields that come again are no request.
fn too_many_requests_in_one_write_end_the_vm(backend: Backend) {
    for count in [66, 20_000] {
        let (driven, mut vcpu) = talking(backend);
        vcpu.await_io();
        vcpu.write(&vcpu_request::get_state(REGS.0).as_bytes().repeat(count));
        driven.end().assert_failure(&["vCPU 0", "too many fields"]);
    }
}

fn everything_after_destroy_is_answered(backend: Backend) {
    let (driven, mut vcpu) = talking(backend);
    vcpu.await_io();
    let mut counters = Counters::new(format!("{} requests after destroy", backend.name()));
    driven.main.done(&request::destroy(RAM_ID));
    driven.main.done(&request::reserve(IOPORT, 0x10, 0));
    for request in main_requests() {
        driven.main.ask(&request);
        counters.count();
    }
    driven.main.refused(&request::destroy(RAM_ID), Errno::NOENT);
    driven.main.refused(&request::reserve(IOPORT, 0x10, 0), Errno::NOENT);
    for request in vcpu_requests() {
        vcpu.ask(&request);
        counters.count();
    }
    driven.assert_alive();
    driven.finish();
}

fn everything_after_a_vcpus_end_is_answered_for_a_second(backend: Backend) {
    let (driven, mut vcpu) = talking(backend);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    vcpu.await_io();
    let mut counters = Counters::new(format!("{} requests after a vCPU's end", backend.name()));
    vcpu.send(&vcpu_request::shutdown());
    assert!(test_utils::raw::readable_within(&event, test_utils::raw::LIMIT));
    for request in main_requests().into_iter().chain([Message::new().message(77, &Message::new())]) {
        driven.main.ask(&request);
        counters.count();
    }
    driven.main.refused(&request::start(), Errno::INVAL);
    driven.relay.command("exit 0");
    driven.end_soon().assert_success();
}

fn starts_over_and_over_are_refused(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "4"]);
    let mut counters = Counters::new(format!("{} starts too many", backend.name()));
    let mut vcpus = driven.main.vcpus();
    driven.main.done(&request::start());
    vcpus.iter_mut().for_each(VcpuPipes::await_init);
    let before = driven.resources();
    for _ in 0..300 {
        driven.main.refused(&request::start(), Errno::INVAL);
        counters.count();
    }
    driven.assert_holds_no_more_than(before, "starts");
    driven.finish();
}
