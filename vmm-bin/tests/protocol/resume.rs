//! `resume`: what a read returns, and registers set before the guest runs on.

use test_utils::guest::{ENTRY, Program, RAM_START};
use test_utils::memory::read_at;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, DEBUGREGS, REGS, SREGS};
use test_utils::raw::{VcpuChannel, VcpuPipes};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    data_too_short_leaves_the_rest_zero
    data_too_long_is_cut
    registers_set_by_the_resume_from_a_write_are_the_guests
    registers_set_by_the_resume_from_a_read_do_not_undo_it
    registers_set_by_the_resume_from_init_and_pause_are_the_guests
    registers_of_a_wrong_size_stop_the_vcpu_with_an_error
    registers_that_the_kernel_does_not_take_stop_the_vcpu_with_an_error
    a_string_instruction_brings_up_to_4096_bytes
}

/// RBX is the second register.
const RBX: std::ops::Range<usize> = 8..16;

fn echo(backend: Backend, width: u8) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().mov(u32::MAX).input(0x11, width).output(0x10, 4).forever());
    let vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    (driven, vcpu)
}

fn data_too_short_leaves_the_rest_zero(backend: Backend) {
    let (driven, mut vcpu) = echo(backend, 4);
    for length in 0..4 {
        assert!(!vcpu.await_io().is_write);
        vcpu.answer(&[0xaa; 3][..length]);
        let mut expected = [0; 4];
        expected[..length].fill(0xaa);
        assert_eq!(vcpu.await_io().data, expected);
        vcpu.resume();
    }
    driven.finish();
}

fn data_too_long_is_cut(backend: Backend) {
    let (driven, mut vcpu) = echo(backend, 1);
    for length in [2, 4, 8, 9, 4096, 4097, 100_000] {
        vcpu.await_io();
        vcpu.answer(&vec![0xaa; length]);
        assert_eq!(vcpu.await_io().data, [0xaa, 0xff, 0xff, 0xff], "{length}");
        vcpu.resume();
    }
    driven.finish();
}

fn registers_set_by_the_resume_from_a_write_are_the_guests(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).output(0x10, 2).forever());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    vcpu.await_io();
    let mut regs = vcpu.get(REGS);
    regs[..8].copy_from_slice(&0xbeef_u64.to_le_bytes());
    let mut sregs = vcpu.get(SREGS);
    sregs[24..32].copy_from_slice(&0x40_u64.to_le_bytes());
    vcpu.send(&vcpu_request::resume_with(&[], &regs, &sregs));
    assert_eq!(vcpu.await_io().data, [0xef, 0xbe]);
    assert_eq!(vcpu.get(SREGS)[24..32], 0x40_u64.to_le_bytes());
    driven.finish();
}

/// The read's own result and the instruction pointer behind it stay, whatever registers the plugin sends along.
fn registers_set_by_the_resume_from_a_read_do_not_undo_it(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(0).input(0x11, 2).output(0x10, 2).forever());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    for round in 1..50_u64 {
        vcpu.await_io();
        let mut regs = vcpu.get(REGS);
        regs[RBX].copy_from_slice(&round.to_le_bytes());
        vcpu.send(&vcpu_request::resume_with(&(round as u16).to_le_bytes(), &regs, &[]));
        assert_eq!(vcpu.await_io().data, (round as u16).to_le_bytes());
        assert_eq!(vcpu.get(REGS)[RBX], round.to_le_bytes());
        vcpu.resume();
    }
    driven.finish();
}

fn registers_set_by_the_resume_from_init_and_pause_are_the_guests(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 2).forever());
    let mut vcpu = driven.booted(&[request::reserve(IOPORT, 0x10, 4)]).pop().unwrap();
    let mut regs = vec![0; REGS.1];
    regs[..8].copy_from_slice(&0x1111_u64.to_le_bytes());
    regs[128..136].copy_from_slice(&ENTRY.to_le_bytes());
    regs[136] = 2;
    vcpu.send(&vcpu_request::resume_with(&[], &regs, &[]));
    assert_eq!(vcpu.await_io().data, [0x11, 0x11]);
    driven.main.done(&request::pause(1, 1));
    vcpu.resume();
    assert_eq!(vcpu.await_exit(), test_utils::raw::Wait::User(1));
    let mut regs = vcpu.get(REGS);
    regs[..8].copy_from_slice(&0x2222_u64.to_le_bytes());
    vcpu.send(&vcpu_request::resume_with(&[], &regs, &[]));
    assert_eq!(vcpu.await_io().data, [0x22, 0x22]);
    driven.finish();
}

fn registers_of_a_wrong_size_stop_the_vcpu_with_an_error(backend: Backend) {
    let (regs, sregs) = (REGS.1, SREGS.1);
    for (regs, sregs) in [(1, 0), (regs - 1, 0), (regs + 1, 0), (0, sregs - 1), (0, sregs + 1), (regs, 1), (1, sregs)] {
        let (driven, mut vcpu) = echo(backend, 1);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        vcpu.await_io();
        vcpu.send(&vcpu_request::resume_with(&[1], &vec![0; regs], &vec![0; sregs]));
        driven.obey(&event).assert_failure(&["vCPU 0", "relay", "resume", "regs"]);
    }
}

fn registers_that_the_kernel_does_not_take_stop_the_vcpu_with_an_error(backend: Backend) {
    for exits_before in [1, 2] {
        let (driven, mut vcpu) = echo(backend, 1);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        // At the read, at the write behind it.
        for _ in 1..exits_before {
            vcpu.await_io();
            vcpu.answer(&[1]);
        }
        vcpu.await_io();
        // `kvm_debugregs` has no flags.
        let mut debugregs = vcpu.get(DEBUGREGS);
        debugregs[48] = 1;
        vcpu.send(&vcpu_request::resume_with_debugregs(&debugregs));
        driven.obey(&event).assert_failure(&["vCPU 0", "relay", "KVM_SET_DEBUGREGS"]);
    }
}

fn a_string_instruction_brings_up_to_4096_bytes(backend: Backend) {
    for (width, count) in [(1_u8, 4096_u16), (1, 1), (2, 2048), (2, 300)] {
        let program = Program::new().input_string(0x11, width, count).output(0x10, 1);
        let driven = Driven::new(backend, &program);
        driven.main.done(&request::reserve(IOPORT, 0x10, 4));
        let ram = driven.load();
        let mut vcpu = driven.main.vcpus().pop().unwrap();
        driven.main.done(&request::start());
        vcpu.await_init();
        vcpu.boot(ENTRY);
        vcpu.resume();
        let expected: Vec<u8> = (0..usize::from(width) * usize::from(count)).map(|n| (n % 251) as u8).collect();
        let mut given = 0;
        while given < expected.len() {
            let io = vcpu.await_io();
            assert!(!io.is_write && io.address == 0x11 && (1..=4096).contains(&io.data.len()), "{io:?}");
            vcpu.answer(&expected[given..given + io.data.len()]);
            given += io.data.len();
        }
        assert!(vcpu.await_io().is_write);
        assert_eq!(read_at(&ram, 0x3000 - RAM_START, expected.len()), expected);
        driven.finish();
    }
}
