//! `get_msrs`, `set_msrs`, `set_cpuid`, `get_hyperv_cpuid` and `enable_capability`.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::kvm::skipped;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, CpuidEntry};
use test_utils::raw::{Fields, VcpuChannel, VcpuPipes};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    msrs_are_read_and_set_up_to_the_first_unknown_one
    msrs_too_many_for_the_kernel_are_refused
    the_supported_cpuid_can_be_set
    a_cpuid_too_long_for_the_kernel_is_refused
    hyperv_leaves_lie_together
    only_hyperv_capabilities_can_be_enabled
}

const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
/// Nobody's MSR.
const UNKNOWN: u32 = 0x1234_5678;
const SYNIC: u32 = 123;
const SYNIC2: u32 = 148;
const HYPERV_CPUID: u32 = 167;

fn started(backend: Backend) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    let vcpu = driven.booted(&[request::reserve(IOPORT, 0x10, 1)]).pop().unwrap();
    (driven, vcpu)
}

fn msrs(vcpu: &mut VcpuPipes, indices: &[u32]) -> Vec<u64> {
    vcpu.done(&vcpu_request::get_msrs(indices)).uints(1)
}

fn msrs_are_read_and_set_up_to_the_first_unknown_one(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    vcpu.done(&vcpu_request::set_msrs(&[(SYSENTER_CS, 8), (SYSENTER_EIP, 0x1234_5678_9abc)]));
    assert_eq!(msrs(&mut vcpu, &[SYSENTER_EIP, SYSENTER_CS]), [0x1234_5678_9abc, 8]);
    vcpu.done(&vcpu_request::set_msrs(&[(SYSENTER_CS, 16), (UNKNOWN, 1), (SYSENTER_ESP, 0x1000)]));
    assert_eq!(msrs(&mut vcpu, &[SYSENTER_CS, SYSENTER_ESP, UNKNOWN, SYSENTER_CS]), [16, 0]);
    assert_eq!(msrs(&mut vcpu, &[UNKNOWN, SYSENTER_CS]), [0; 0]);
    assert_eq!(msrs(&mut vcpu, &[]), [0; 0]);
    vcpu.done(&vcpu_request::set_msrs(&[(UNKNOWN, 1)]));
    vcpu.done(&vcpu_request::set_msrs(&[]));
    assert_eq!(msrs(&mut vcpu, &[SYSENTER_CS; 200]), [16; 200]);
    driven.finish();
}

fn msrs_too_many_for_the_kernel_are_refused(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for count in [257, 1000, 20_000] {
        vcpu.refused(&vcpu_request::get_msrs(&vec![SYSENTER_CS; count]), Errno::TOOBIG);
        vcpu.refused(&vcpu_request::set_msrs(&vec![(SYSENTER_CS, 5); count]), Errno::TOOBIG);
    }
    assert_eq!(msrs(&mut vcpu, &[SYSENTER_CS]), [0], "none of them was set");
    driven.finish();
}

fn the_supported_cpuid_can_be_set(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    let answer = driven.main.done(&request::get_supported_cpuid());
    let entries: Vec<_> = answer.body.messages(1).iter().map(CpuidEntry::parse).collect();
    vcpu.done(&vcpu_request::set_cpuid(&entries));
    // And by other clients' habit: numbers that are 0 are left out.
    vcpu.done(&vcpu_request::set_cpuid(&[CpuidEntry::default()]));
    vcpu.done(&vcpu_request::set_cpuid(&[]));
    vcpu.done(&vcpu_request::set_cpuid(&entries));
    vcpu.resume();
    vcpu.await_io();
    driven.finish();
}

fn a_cpuid_too_long_for_the_kernel_is_refused(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for count in [257, 5000] {
        let entries: Vec<_> = (0..count).map(|function| CpuidEntry { function, ..Default::default() }).collect();
        vcpu.refused(&vcpu_request::set_cpuid(&entries), Errno::TOOBIG);
    }
    driven.finish();
}

fn has(driven: &Driven, extension: u32) -> bool {
    driven.main.done(&request::check_extension(extension)).body.uint(1) != 0
}

fn hyperv_leaves_lie_together(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    let answer = vcpu.ask(&vcpu_request::get_hyperv_cpuid());
    if has(&driven, HYPERV_CPUID) {
        assert_eq!(answer.errno, 0);
        let entries: Vec<_> = answer.body.messages(1).iter().map(CpuidEntry::parse).collect();
        assert_eq!(entries[0].function, 0x4000_0000);
        let interface = entries.iter().find(|entry| entry.function == 0x4000_0001).unwrap();
        assert_eq!(interface.values[0], u32::from_le_bytes(*b"Hv#1"));
    } else {
        assert_ne!(answer.errno, 0);
        skipped(&format!("hyperv_leaves_lie_together on {}", backend.name()), &"there is no Hyper-V CPUID");
    }
    driven.finish();
}

fn only_hyperv_capabilities_can_be_enabled(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    // Among them capabilities of KVM that a plugin must not touch, such as the split irqchip (121).
    for capability in [0, 1, 121, 122, 124, 147, 149, u32::MAX] {
        vcpu.refused(&vcpu_request::enable_capability(capability), Errno::INVAL);
    }
    for capability in [SYNIC, SYNIC2] {
        if has(&driven, capability) {
            let done: Fields = vcpu.done(&vcpu_request::enable_capability(capability));
            assert_eq!(done.numbers(), [0_u32; 0]);
        } else {
            vcpu.refused(&vcpu_request::enable_capability(capability), Errno::INVAL);
            let test = format!("only_hyperv_capabilities_can_be_enabled on {}", backend.name());
            skipped(&test, &format!("there is no capability {capability}"));
        }
    }
    driven.finish();
}
