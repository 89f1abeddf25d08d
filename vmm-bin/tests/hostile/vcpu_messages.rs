//! Messages on a vCPU's pipe that are cut, strange or at the edges of their types. One that does not decode ends the VM
//! with an error; all others are answered.

use std::time::Duration;

use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request;
use test_utils::raw::{Message, VcpuChannel, VcpuPipes};

use crate::common::{Backend, Counters, Driven, in_parallel, on_each_backend};
use crate::samples::{EXTREMES, Shape, in_other_clothes, vcpu_requests, vcpu_shapes};
use crate::{mutated, splitmix};

on_each_backend! {
    each_request_cut_at_each_byte
    each_number_at_its_extremes
    state_of_any_length
    requests_in_other_clothes_and_changed_at_random
    resumes_with_data_of_any_length
    resumes_with_nonsense_registers
}

fn at_exit(backend: Backend) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).input(0x11, 1).forever());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 2)]);
    vcpu.await_io();
    (driven, vcpu)
}

fn each_request_cut_at_each_byte(backend: Backend) {
    let mut cases = Vec::new();
    let resume = vcpu_request::resume_with(&[1], &[0; 8], &[0; 8]);
    for request in vcpu_requests().into_iter().chain([resume]) {
        let bytes = request.as_bytes();
        cases.extend((1..bytes.len()).map(|length| bytes[..length].to_vec()));
    }
    let mut counters = Counters::new(format!("{} vCPU requests cut", backend.name()));
    cases.iter().for_each(|_| counters.count());
    in_parallel(cases, |case| {
        let (driven, vcpu) = at_exit(backend);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        vcpu.write(&case);
        assert!(test_utils::raw::readable_within(&event, test_utils::raw::LIMIT), "not told to exit: {case:02x?}");
        driven.assert_alive();
        driven.relay.command("exit 0");
        driven.end_soon().assert_failure(&["vCPU 0", "relay", "VcpuRequest"]);
    });
}

fn each_number_at_its_extremes(backend: Backend) {
    let (driven, mut vcpu) = at_exit(backend);
    for shape in vcpu_shapes() {
        let mut counters = Counters::new(format!("{} vCPU {} at extremes", backend.name(), shape.name));
        for request in shape.at_extremes_of(shape.fitting) {
            vcpu.ask(&request);
            counters.count();
        }
    }
    driven.assert_alive();
    driven.finish();
}

fn state_of_any_length(backend: Backend) {
    let (driven, mut vcpu) = at_exit(backend);
    let mut counters = Counters::new(format!("{} vCPU state of any length", backend.name()));
    for set in 0..10 {
        for length in [0, 1, 3, 4, 5, 63, 64, 65, 127, 128, 144, 312, 391, 392, 393, 416, 1023, 1024, 1025, 0x3_0000] {
            for byte in [0, 0xff] {
                vcpu.ask(&vcpu_request::set_state(set, &vec![byte; length]));
                counters.count();
            }
        }
        vcpu.ask(&vcpu_request::get_state(set));
    }
    driven.assert_alive();
    driven.finish();
}

/// Each is answered, resumes or ends the vCPU, or ends the VM; the VMM is there as long as it has not told of an end.
fn requests_in_other_clothes_and_changed_at_random(backend: Backend) {
    let mut cases: Vec<_> = vcpu_requests().iter().flat_map(in_other_clothes).collect();
    // Numbers too large for their types decode or do not.
    let too_large = |shape: &Shape| shape.at_extremes_of(&EXTREMES);
    cases.extend(vcpu_shapes().iter().flat_map(too_large).map(|request| request.as_bytes().to_vec()));
    let mut random = 0x6f75_7462_6f61_7264_u64;
    let requests = vcpu_requests();
    let change = |_| mutated(requests[splitmix(&mut random) as usize % requests.len()].as_bytes(), &mut random);
    cases.extend((0..400).map(change));
    // A write of nothing is nothing at all.
    cases.retain(|case| !case.is_empty());
    let mut counters = Counters::new(format!("{} vCPU requests in other clothes", backend.name()));
    cases.iter().for_each(|_| counters.count());
    // One VM takes all, a new one each time one has ended.
    let cases = std::sync::Mutex::new(cases.into_iter());
    let take = || cases.lock().unwrap().next();
    in_parallel(0..4, |_| {
        while let Some(case) = take() {
            let (driven, mut vcpu) = at_exit(backend);
            let event = driven.main.descriptor(&request::get_shutdown_eventfd());
            let mut next = Some(case);
            let mut sent = Vec::new();
            while let Some(case) = next {
                vcpu.write(&case);
                sent = case;
                if either_is_readable(&vcpu, &event) {
                    break;
                }
                // An answer, or the next exit of a vCPU that was resumed.
                vcpu.receive().unwrap_or_else(|| panic!("the pipe ended: {sent:02x?}"));
                next = take();
            }
            // One that has begun to end is there for a second more.
            if !test_utils::raw::readable_within(&event, Duration::ZERO) {
                driven.assert_alive();
            }
            driven.relay.command("exit 0");
            let ended = driven.end_soon();
            assert!(matches!(ended.code, Some(0 | 1)), "{sent:02x?}: {ended:#?}");
        }
    });
}

/// Waits until there is an answer (false) or the VM has begun to end (true).
fn either_is_readable(vcpu: &VcpuPipes, event: &std::os::fd::OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let responses = vcpu.responses();
    let mut fds = [PollFd::new(event, PollFlags::IN), PollFd::from_borrowed_fd(responses, PollFlags::IN)];
    let limit = Timespec { tv_sec: test_utils::raw::LIMIT.as_secs() as i64, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "neither an answer nor an end");
    !fds[1].revents().contains(PollFlags::IN)
}

fn resumes_with_data_of_any_length(backend: Backend) {
    let (driven, mut vcpu) = at_exit(backend);
    let mut counters = Counters::new(format!("{} resumes with data of any length", backend.name()));
    let before = driven.resources();
    for length in (0..20).chain([4095, 4096, 4097, 0x1_0000, 0x3_fff0]).cycle().take(200) {
        vcpu.answer(&vec![0x5a; length]);
        vcpu.await_io();
        counters.count();
    }
    driven.assert_holds_no_more_than(before, "resumes");
    driven.finish();
}

/// What the processor does with them is its own affair; the VMM goes on or ends, and tells.
fn resumes_with_nonsense_registers(backend: Backend) {
    let mut counters = Counters::new(format!("{} resumes with nonsense registers", backend.name()));
    for (regs, sregs, debugregs) in
        [(144, 0, 0), (0, 312, 0), (144, 312, 0), (0, 0, 128), (0, 0, 5), (144, 312, 128), (143, 0, 0), (0, 313, 0)]
    {
        for byte in [0, 0x11, 0xff] {
            let (driven, vcpu) = at_exit(backend);
            let body = Message::new()
                .bytes(1, &[byte])
                .bytes(2, &vec![byte; regs])
                .bytes(3, &vec![byte; sregs])
                .bytes(4, &vec![byte; debugregs]);
            vcpu.send(&Message::new().message(2, &body));
            driven.assert_alive();
            driven.relay.command("exit 0");
            let ended = driven.end_soon();
            assert!(matches!(ended.code, Some(0 | 1)), "{ended:#?}");
            counters.count();
        }
    }
}
