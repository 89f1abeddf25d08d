//! `reserve_range` with `async_write`.

use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_getpipe_size;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT, MMIO};
use test_utils::raw::{VcpuPipes, Wait};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    they_come_in_order_before_the_exits_behind_them
    reads_of_such_a_range_are_nobodys
    a_full_pipe_blocks_the_vcpu_and_none_is_lost
    the_end_of_the_vm_unblocks_the_vcpu
    a_signal_to_the_vmm_unblocks_the_vcpu
}

fn they_come_in_order_before_the_exits_behind_them(backend: Backend) {
    let mut program = Program::new();
    for value in 0..100 {
        program = program.mov(value).output(0x30, 1).store(0x9000, 4);
    }
    let driven = Driven::new(backend, &program.output(0x10, 1).forever());
    let reservations = [
        request::reserve(IOPORT, 0x10, 1),
        request::reserve_posted(IOPORT, 0x30, 1),
        request::reserve_posted(MMIO, 0x9000, 4),
    ];
    let mut vcpu = driven.running_one(&reservations);
    for _ in 0..10 {
        for value in 0..100_u32 {
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.no_resume), (IOPORT, 0x30, true, true));
            assert_eq!(io.data, [value as u8]);
            let io = vcpu.await_io();
            assert_eq!((io.space, io.address, io.is_write, io.no_resume), (MMIO, 0x9000, true, true));
            assert_eq!(io.data, value.to_le_bytes());
        }
        let io = vcpu.await_io();
        assert_eq!((io.address, io.no_resume), (0x10, false));
        vcpu.resume();
    }
    driven.finish();
}

fn reads_of_such_a_range_are_nobodys(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(u32::MAX).input(0x30, 4).output(0x10, 4));
    let reservations = [request::reserve(IOPORT, 0x10, 1), request::reserve_posted(IOPORT, 0x30, 4)];
    let mut vcpu = driven.running_one(&reservations);
    let io = vcpu.await_io();
    assert_eq!((io.address, io.data), (0x10, vec![0; 4]));
    driven.finish();
}

const VALUES: u32 = 200;

fn flooder(backend: Backend) -> (Driven, VcpuPipes) {
    let program = (0..VALUES).fold(Program::new(), |program, value| program.mov(value).output(0x30, 1)).forever();
    let driven = Driven::new(backend, &program);
    let vcpu = driven.running_one(&[request::reserve_posted(IOPORT, 0x30, 1)]);
    (driven, vcpu)
}

/// Waits until the pipe holds no further response: a page of it is never filled to the last byte.
fn await_full(vcpu: &VcpuPipes) {
    let size = fcntl_getpipe_size(vcpu.responses()).unwrap() as u64;
    let full = size - size / 4096 * 64;
    test_utils::wait::until("the pipe is full", || ioctl_fionread(vcpu.responses()).unwrap() >= full);
}

fn a_full_pipe_blocks_the_vcpu_and_none_is_lost(backend: Backend) {
    let (driven, mut vcpu) = flooder(backend);
    await_full(&vcpu);
    // The guest is not served while it is blocked; main requests are.
    driven.assert_alive();
    let mut value = 0;
    for _ in 0..30_000 {
        let io = vcpu.await_io();
        assert_eq!((io.no_resume, io.data.as_slice()), (true, &[value as u8][..]));
        value = (value + 1) % VALUES;
    }
    driven.main.done(&request::pause(1, 3));
    loop {
        match vcpu.await_exit() {
            Wait::User(user) => {
                assert_eq!(user, 3);
                break;
            }
            Wait::Io(io) => {
                assert_eq!(io.data, [value as u8]);
                value = (value + 1) % VALUES;
            }
            other => panic!("{other:?}"),
        }
    }
    driven.finish();
}

fn the_end_of_the_vm_unblocks_the_vcpu(backend: Backend) {
    let (driven, vcpu) = flooder(backend);
    await_full(&vcpu);
    driven.finish().assert_took(Duration::ZERO..Duration::from_secs(5));
}

fn a_signal_to_the_vmm_unblocks_the_vcpu(backend: Backend) {
    let (driven, vcpu) = flooder(backend);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    await_full(&vcpu);
    driven.signal(rustix::process::Signal::TERM);
    driven.obey(&event).assert_success().assert_took(Duration::ZERO..Duration::from_secs(5));
}
