//! `get_state` and `set_state` of a vCPU's registers and MP state, `shutdown`, and vCPU requests that are none.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, MP, REGS, SREGS};
use test_utils::raw::{Message, VcpuChannel, VcpuPipes};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    state_that_was_set_is_what_is_got
    state_is_there_at_an_exit_and_at_a_pause
    state_of_another_size_is_einval
    unknown_state_is_einval
    a_wait_between_is_eproto
    an_unknown_request_is_enotty
    a_shut_down_vcpu_ends_the_vm
    a_request_that_does_not_decode_is_an_error
}

fn started(backend: Backend) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().mov(0x1234).output(0x10, 2).forever());
    let vcpu = driven.booted(&[request::reserve(IOPORT, 0x10, 1)]).pop().unwrap();
    (driven, vcpu)
}

fn state_that_was_set_is_what_is_got(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    // 16 registers, each a number of its own; RIP stays, and RFLAGS keeps its fixed bit.
    let mut regs = vcpu.get(REGS);
    for (index, register) in regs[..128].chunks_mut(8).enumerate() {
        register.copy_from_slice(&(0x1111 * (index as u64 + 1)).to_le_bytes());
    }
    vcpu.set(REGS, &regs);
    assert_eq!(vcpu.get(REGS), regs);

    let mut sregs = vcpu.get(SREGS);
    // DS is the second segment, of 24 bytes each; its base comes first, its selector after the limit.
    sregs[24..32].copy_from_slice(&0x1230_u64.to_le_bytes());
    sregs[36..38].copy_from_slice(&0x123_u16.to_le_bytes());
    vcpu.set(SREGS, &sregs);
    assert_eq!(vcpu.get(SREGS), sregs);

    // KVM_MP_STATE_HALTED
    vcpu.set(MP, &[3, 0, 0, 0]);
    assert_eq!(vcpu.get(MP), [3, 0, 0, 0]);
    driven.finish();
}

fn state_is_there_at_an_exit_and_at_a_pause(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    vcpu.resume();
    vcpu.await_io();
    let mut regs = vcpu.get(REGS);
    assert_eq!(regs[..8], 0x1234_u64.to_le_bytes());
    // RBX, which the guest does not touch.
    regs[8..16].copy_from_slice(&0x55_u64.to_le_bytes());
    vcpu.set(REGS, &regs);
    driven.main.done(&request::pause(1, 9));
    vcpu.resume();
    assert_eq!(vcpu.await_exit(), test_utils::raw::Wait::User(9));
    assert_eq!(vcpu.get(REGS)[8..16], 0x55_u64.to_le_bytes());
    let sregs = vcpu.get(SREGS);
    vcpu.set(SREGS, &sregs);
    vcpu.resume();
    vcpu.await_io();
    vcpu.assert_never_split();
    driven.finish();
}

fn state_of_another_size_is_einval(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for (set, size) in [REGS, SREGS, MP] {
        let before = vcpu.get((set, size));
        for wrong in [0, 1, size - 1, size + 1, 2 * size, 4096] {
            vcpu.refused(&vcpu_request::set_state(set, &vec![0xff; wrong]), Errno::INVAL);
        }
        assert_eq!(vcpu.get((set, size)), before);
    }
    driven.finish();
}

fn unknown_state_is_einval(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for set in [8, 99, i32::MAX as u64, -1_i64 as u64] {
        vcpu.refused(&vcpu_request::get_state(set), Errno::INVAL);
        vcpu.refused(&vcpu_request::set_state(set, &[0; 144]), Errno::INVAL);
    }
    driven.finish();
}

fn a_wait_between_is_eproto(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    vcpu.refused(&vcpu_request::wait(), Errno::PROTO);
    vcpu.resume();
    vcpu.await_io();
    vcpu.refused(&vcpu_request::wait(), Errno::PROTO);
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn an_unknown_request_is_enotty(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for field in [11, 100, 0x1fff_ffff] {
        vcpu.refused(&Message::new().message(field, &Message::new()), Errno::NOTTY);
    }
    driven.finish();
}

fn a_shut_down_vcpu_ends_the_vm(backend: Backend) {
    for at_exit in [false, true] {
        let (driven, mut vcpu) = started(backend);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        if at_exit {
            vcpu.resume();
            vcpu.await_io();
        }
        vcpu.send(&vcpu_request::shutdown());
        driven.obey(&event).assert_success();
    }
}

fn a_request_that_does_not_decode_is_an_error(backend: Backend) {
    for bytes in [&[0xff; 4][..], &[0x12, 5], &[0x0b]] {
        let (driven, vcpu) = started(backend);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        vcpu.write(bytes);
        driven.obey(&event).assert_failure(&["vCPU 0", "relay", "VcpuRequest"]);
    }
}
