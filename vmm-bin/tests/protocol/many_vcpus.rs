//! VMs of up to 16 vCPUs, and past that.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::Wait;
use test_utils::raw::request::{self, IOPORT};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    sixteen_work_through_the_descriptors_of_one_answer
    seventeen_are_refused_with_e2big
    none_runs_before_all_were_resumed_from_init
}

fn sixteen_work_through_the_descriptors_of_one_answer(backend: Backend) {
    let driven = Driven::with(backend, &Program::new().input(0x10, 1).output(0x11, 1).forever(), &["-c", "16"]);
    let mut vcpus = driven.running(&[request::reserve(IOPORT, 0x10, 2)]);
    assert_eq!(vcpus.len(), 16);
    for round in 0..5 {
        for (index, vcpu) in (0..).zip(&mut vcpus) {
            assert!(!vcpu.await_io().is_write);
            vcpu.answer(&[index * 10 + round]);
        }
        for (index, vcpu) in (0..).zip(&mut vcpus) {
            assert_eq!(vcpu.await_io().data, [index * 10 + round]);
            vcpu.resume();
        }
    }
    vcpus.iter_mut().for_each(|vcpu| drop(vcpu.await_io()));
    driven.main.done(&request::pause(0xffff, 1));
    for vcpu in &mut vcpus {
        vcpu.answer(&[0]);
        assert_eq!(vcpu.await_exit(), Wait::User(1));
    }
    driven.finish();
}

fn seventeen_are_refused_with_e2big(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "17"]);
    driven.main.refused(&request::get_vcpus(), Errno::TOOBIG);
    driven.assert_alive();
    driven.finish().assert_logged(&["WARN", "17", "16"]);
}

fn none_runs_before_all_were_resumed_from_init(backend: Backend) {
    let driven = Driven::with(backend, &Program::new().output(0x10, 1).forever(), &["-c", "3"]);
    let mut vcpus = driven.booted(&[request::reserve(IOPORT, 0x10, 1)]);
    for vcpu in &vcpus[..2] {
        vcpu.resume();
    }
    // One that ran would report its write, not the pause.
    driven.main.done(&request::pause(0b11, 1));
    for vcpu in &mut vcpus[..2] {
        assert_eq!(vcpu.await_exit(), Wait::User(1));
        vcpu.resume();
    }
    vcpus[2].resume();
    vcpus.iter_mut().for_each(|vcpu| drop(vcpu.await_io()));
    driven.finish();
}
