//! `reserve_range` with `coalesce`.

use std::time::Duration;

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::protobuf::Message;
use test_utils::raw::request::{self, IOPORT, MMIO};
use test_utils::raw::vcpu_ring::kind;
use test_utils::raw::{VcpuPipes, Wait};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    they_come_in_order_before_the_exits_behind_them
    they_come_in_order_over_rings
    one_that_no_exit_follows_comes_too
    reads_of_such_a_range_are_nobodys
    of_several_vcpus_each_comes_once
    they_come_while_the_range_is_given_up_and_taken_again
    without_async_write_it_is_einval
    a_range_too_long_to_be_coalesced_is_posted
}

const PORT: u64 = 0x30;
const ADDRESS: u64 = 0x9000;

/// Writes to both ranges, more than there is room for, then one that is waited for.
fn writer() -> Program {
    let program = (0..200)
        .fold(Program::new(), |program, value| program.mov(value).output(PORT as u16, 1).store(ADDRESS as u16, 4));
    program.output(0x10, 1).forever()
}

fn ranges() -> [Message; 3] {
    [
        request::reserve(IOPORT, 0x10, 1),
        request::reserve_coalesced(IOPORT, PORT, 1),
        request::reserve_coalesced(MMIO, ADDRESS, 4),
    ]
}

fn they_come_in_order_before_the_exits_behind_them(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    let mut vcpu = driven.running_one(&ranges());
    for _ in 0..10 {
        for value in 0..200_u32 {
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.no_resume), (IOPORT, PORT, true, true));
            assert_eq!(io.data, [value as u8]);
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.no_resume), (MMIO, ADDRESS, true, true));
            assert_eq!(io.data, value.to_le_bytes());
        }
        let io = vcpu.await_io();
        assert_eq!((io.address, io.no_resume), (0x10, false));
        vcpu.resume();
    }
    driven.finish();
}

fn they_come_in_order_over_rings(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    let mut ring = driven.ring(&ranges());
    for _ in 0..10 {
        for value in 0..200_u32 {
            let posted = ring.expect(kind::POSTED);
            assert_eq!((posted.address, posted.data()), (PORT, vec![value as u8]));
            let posted = ring.expect(kind::POSTED);
            assert_eq!((posted.address, posted.data()), (ADDRESS, value.to_le_bytes().to_vec()));
        }
        assert_eq!(ring.expect(kind::WRITE).address, 0x10);
        ring.resume();
    }
    driven.finish();
}

fn one_that_no_exit_follows_comes_too(backend: Backend) {
    let driven = Driven::new(
        backend,
        &Program::new().mov(7).output(PORT as u16, 1).assemble(|code| {
            let mut again = code.create_label();
            code.set_label(&mut again)?;
            code.jmp(again)
        }),
    );
    let mut vcpu = driven.running_one(&[request::reserve_coalesced(IOPORT, PORT, 1)]);
    let io = vcpu.await_io();
    assert_eq!((io.address, io.no_resume, io.data), (PORT, true, vec![7]));
    driven.finish();
}

fn reads_of_such_a_range_are_nobodys(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(u32::MAX).input(PORT as u16, 4).output(0x10, 4));
    let reservations = [request::reserve(IOPORT, 0x10, 1), request::reserve_coalesced(IOPORT, PORT, 4)];
    let mut vcpu = driven.running_one(&reservations);
    let io = vcpu.await_io();
    assert_eq!((io.address, io.data), (0x10, vec![0; 4]));
    driven.finish();
}

fn of_several_vcpus_each_comes_once(backend: Backend) {
    const WRITES: u32 = 250;
    let program = (0..WRITES).fold(Program::new(), |program, value| program.mov(value).output(PORT as u16, 1));
    let driven = Driven::with(backend, &program.output(0x10, 1), &["--cpus", "3"]);
    let mut vcpus = driven.running(&[request::reserve(IOPORT, 0x10, 1), request::reserve_coalesced(IOPORT, PORT, 1)]);
    let mut times = vec![0; WRITES as usize];
    let mut waiting = 0;
    while waiting < vcpus.len() || times.iter().any(|times| *times < 3) {
        let vcpu = next(&mut vcpus);
        let io = vcpu.await_io();
        if io.no_resume {
            times[usize::from(io.data[0])] += 1;
        } else {
            waiting += 1;
        }
    }
    assert!(times.iter().all(|times| *times == 3), "{times:?}");
    driven.finish();
}

/// The first that has something to say.
fn next(vcpus: &mut [VcpuPipes]) -> &mut VcpuPipes {
    let mut ready = None;
    test_utils::wait::until("a vCPU says something", || {
        ready = vcpus.iter().position(|vcpu| vcpu.has_response_within(Duration::from_millis(1)));
        ready.is_some()
    });
    &mut vcpus[ready.unwrap()]
}

fn they_come_while_the_range_is_given_up_and_taken_again(backend: Backend) {
    let program = (0..20).fold(Program::new(), |program, value| program.mov(value).output(PORT as u16, 1));
    let driven = Driven::new(backend, &program.output(0x10, 1).forever());
    let mut vcpu =
        driven.running_one(&[request::reserve(IOPORT, 0x10, 1), request::reserve_coalesced(IOPORT, PORT, 1)]);
    for round in 0..100 {
        // Those of a round in which the range was everyone's are nobody's.
        let reserved = round % 2 == 0;
        let mut values = Vec::new();
        loop {
            match vcpu.await_exit() {
                Wait::Io(io) if io.no_resume => values.extend(io.data),
                Wait::Io(io) => {
                    assert_eq!(io.address, 0x10);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(values, if reserved { (0..20).collect::<Vec<_>>() } else { Vec::new() });
        let length = u64::from(!reserved);
        driven.main.done(&request::reserve_coalesced(IOPORT, PORT, length));
        vcpu.resume();
    }
    driven.finish();
}

fn without_async_write_it_is_einval(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let synchronous = |length| {
        let body = Message::new().uint(1, IOPORT).uint(2, PORT).uint(3, length).uint(200, 1);
        Message::new().message(10, &body)
    };
    driven.main.refused(&synchronous(1), Errno::INVAL);
    driven.main.done(&request::reserve(IOPORT, PORT, 1));
    // To give a range up it is not looked at, as `async_write` is not.
    driven.main.done(&synchronous(0));
    driven.finish();
}

fn a_range_too_long_to_be_coalesced_is_posted(backend: Backend) {
    let driven = Driven::new(backend, &writer());
    let [waited, port, _] = ranges();
    let mut vcpu = driven.running_one(&[waited, port, request::reserve_coalesced(MMIO, ADDRESS, 1 << 33)]);
    for value in 0..200_u32 {
        assert_eq!(vcpu.await_io().data, [value as u8]);
        assert_eq!(vcpu.await_io().data, value.to_le_bytes());
    }
    driven.finish();
}
