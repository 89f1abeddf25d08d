//! Hyper-V's exits, which a script of the mock makes; KVM makes none without a guest that speaks Hyper-V.

use test_utils::raw::Wait;
use test_utils::raw::request::{self, IOPORT};

use crate::common::Driven;

#[test]
fn a_hypercall_is_a_wait_and_its_result_comes_with_the_resume() {
    let driven = Driven::scripted("hypercall 0x1005c 0x1122334455667788 2\nout 0x10 4\nagain\n");
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    for data in [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[9], &[], &[5; 100]] {
        let Wait::HyperV(4, call) = vcpu.await_exit() else { panic!("no call") };
        assert_eq!([1, 2, 3].map(|field| call.uint(field)), [0x1005c, 0x1122_3344_5566_7788, 2]);
        vcpu.answer(data);
        let mut expected = [0; 4];
        let length = data.len().min(4);
        expected[..length].copy_from_slice(&data[..length]);
        assert_eq!(vcpu.await_io().data, expected);
        vcpu.resume();
    }
    driven.finish();
}

#[test]
fn a_change_of_the_synic_is_a_wait() {
    let driven = Driven::scripted("synic 0x40000080 1 0x5001 0x6001\nagain\n");
    let mut vcpu = driven.running_one(&[]);
    for _ in 0..3 {
        let Wait::HyperV(5, synic) = vcpu.await_exit() else { panic!("no change") };
        assert_eq!([1, 2, 3, 4].map(|field| synic.uint(field)), [0x4000_0080, 1, 0x5001, 0x6001]);
        vcpu.resume();
    }
    vcpu.await_exit();
    driven.main.done(&request::pause(1, 5));
    vcpu.resume();
    assert_eq!(vcpu.await_exit(), Wait::User(5));
    driven.finish();
}
