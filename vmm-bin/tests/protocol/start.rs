//! `get_vcpus`, `start` and what comes before.

use rustix::io::Errno;
use rustix::pipe::fcntl_getpipe_size;
use test_utils::guest::{ENTRY, Program};
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::{Fields, VcpuChannel, vcpu_request};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    a_second_start_is_einval
    the_pipes_are_long_and_can_be_taken_again
    requests_sent_before_the_start_wait_for_it
    before_init_is_read_all_but_wait_is_eproto
    a_vcpu_at_init_is_as_the_machine_resets_it
    the_plugin_may_exit_before_init_was_read
}

fn a_second_start_is_einval(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    driven.main.done(&request::start());
    driven.main.refused(&request::start(), Errno::INVAL);
    driven.main.new_connection().refused(&request::start(), Errno::INVAL);
    driven.finish();
}

fn the_pipes_are_long_and_can_be_taken_again(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    drop(driven.main.vcpus());
    let mut vcpus = driven.main.vcpus();
    assert_eq!(vcpus.len(), 1);
    for end in [vcpus[0].requests(), vcpus[0].responses()] {
        assert_eq!(fcntl_getpipe_size(end).unwrap(), 0x40000);
    }
    driven.main.done(&request::start());
    vcpus[0].await_init();
    driven.finish();
}

fn requests_sent_before_the_start_wait_for_it(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1));
    driven.main.done(&request::reserve(IOPORT, 0x10, 1));
    driven.load();
    let [mut vcpu] = <[_; 1]>::try_from(driven.main.vcpus()).unwrap();
    vcpu.send(&vcpu_request::wait());
    driven.main.done(&request::start());
    assert_eq!(vcpu.await_exit(), test_utils::raw::Wait::Init);
    vcpu.boot(ENTRY);
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn before_init_is_read_all_but_wait_is_eproto(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut vcpu = driven.main.vcpus().pop().unwrap();
    driven.main.done(&request::start());
    let requests = [
        vcpu_request::get_state(0),
        vcpu_request::get_state(99),
        vcpu_request::set_state(0, &[0; 144]),
        vcpu_request::get_msrs(&[0x10]),
        vcpu_request::set_msrs(&[]),
        vcpu_request::set_cpuid(&[]),
        vcpu_request::get_hyperv_cpuid(),
        vcpu_request::enable_capability(123),
        vcpu_request::resume(),
        vcpu_request::shutdown(),
    ];
    for request in &requests {
        vcpu.send(request);
        let answer = vcpu.receive().unwrap();
        assert!(answer.is(Errno::PROTO), "{request:?}: {answer:?}");
        let [asked] = Fields::parse(request.as_bytes()).numbers()[..] else { panic!("{request:?}") };
        assert_eq!(answer.field, vcpu_request::answer_field(asked), "{request:?}: {answer:?}");
    }
    vcpu.await_init();
    vcpu.refused(&vcpu_request::wait(), Errno::PROTO);
    driven.finish();
}

fn a_vcpu_at_init_is_as_the_machine_resets_it(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "2"]);
    let mut vcpus = driven.main.vcpus();
    driven.main.done(&request::start());
    for (vcpu, mp_state) in vcpus.iter_mut().zip([0, 1]) {
        vcpu.await_init();
        let regs = vcpu.get(vcpu_request::REGS);
        // RIP and RFLAGS.
        assert_eq!((&regs[128..136], &regs[136..144]), (&0xfff0_u64.to_le_bytes()[..], &2_u64.to_le_bytes()[..]));
        let sregs = vcpu.get(vcpu_request::SREGS);
        // The base of CS.
        assert_eq!(sregs[..8], 0xffff_0000_u64.to_le_bytes());
        // RUNNABLE, and UNINITIALIZED for all others.
        assert_eq!(vcpu.get(vcpu_request::MP), [mp_state, 0, 0, 0]);
    }
    driven.finish();
}

fn the_plugin_may_exit_before_init_was_read(backend: Backend) {
    for takes_vcpus in [false, true] {
        let driven = Driven::with(backend, &Program::new(), &["-c", "3"]);
        let vcpus = takes_vcpus.then(|| driven.main.vcpus());
        driven.main.done(&request::start());
        driven.assert_alive();
        driven.finish();
        drop(vcpus);
    }
}
