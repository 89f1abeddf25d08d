//! Everything a machine asks of its backend and of the kernel fails in turn: what failed is named where it is due, what was
//! half made is undone, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod asker;
mod scenario;

use std::collections::BTreeSet;

use scenario::{scenario, scripted};
use test_utils::faults::syscalls::{Call, failing};
use test_utils::faults::{Faults, Faulty};
use test_utils::resources::Resources;

/// No scenario gets this by itself.
const EDQUOT: i32 = 122;

/// All that a machine or its owner can ask for.
const OPERATIONS: [&str; 41] = [
    "KVM_CHECK_EXTENSION",
    "KVM_CREATE_VCPU",
    "KVM_CREATE_VM",
    "KVM_ENABLE_CAP",
    "KVM_GET_CLOCK",
    "KVM_GET_DEBUGREGS",
    "KVM_GET_DIRTY_LOG",
    "KVM_GET_EMULATED_CPUID",
    "KVM_GET_FPU",
    "KVM_GET_IRQCHIP",
    "KVM_GET_LAPIC",
    "KVM_GET_MP_STATE",
    "KVM_GET_MSRS",
    "KVM_GET_MSR_INDEX_LIST",
    "KVM_GET_PIT2",
    "KVM_GET_REGS",
    "KVM_GET_SREGS",
    "KVM_GET_SUPPORTED_CPUID",
    "KVM_GET_SUPPORTED_HV_CPUID",
    "KVM_GET_VCPU_EVENTS",
    "KVM_GET_XCRS",
    "KVM_IOEVENTFD",
    "KVM_IRQFD",
    "KVM_IRQ_LINE",
    "KVM_RUN",
    "KVM_SET_CLOCK",
    "KVM_SET_CPUID2",
    "KVM_SET_DEBUGREGS",
    "KVM_SET_FPU",
    "KVM_SET_GSI_ROUTING",
    "KVM_SET_IDENTITY_MAP_ADDR",
    "KVM_SET_IRQCHIP",
    "KVM_SET_LAPIC",
    "KVM_SET_MP_STATE",
    "KVM_SET_MSRS",
    "KVM_SET_PIT2",
    "KVM_SET_REGS",
    "KVM_SET_SREGS",
    "KVM_SET_USER_MEMORY_REGION",
    "KVM_SET_VCPU_EVENTS",
    "KVM_SET_XCRS",
];

/// One test, since it compares what the process holds.
#[test]
fn whatever_fails_is_named_and_undone() {
    each_operation_of_the_backend();
    each_system_call();
}

fn each_operation_of_the_backend() {
    let faults = Faults::none();
    assert_eq!(scenario(&Faulty::new(scripted(), &faults)), [""; 0]);
    let asked: BTreeSet<_> = faults.operations().into_iter().filter(|name| *name != "mmap").collect();
    let missing: Vec<_> = OPERATIONS.iter().filter(|name| !asked.contains(*name)).collect();
    assert!(missing.is_empty(), "never asked for: {missing:?}");

    let before = Resources::own();
    for n in 1.. {
        let faults = Faults::nth(n, EDQUOT);
        let complaints = scenario(&Faulty::new(scripted(), &faults));
        let Some(struck) = faults.struck() else { break };
        // What a mapping is for is what names it.
        let name = if struck == "mmap" { "guest memory at 0x" } else { struck };
        assert_complaint(&complaints, name, &format!("operation {n}, {struck}"));
        Resources::assert_no_more_than(before, &format!("operation {n}, {struck}"));
    }
}

fn each_system_call() {
    let before = Resources::own();
    for (call, name) in [
        (Call::EVENTFD, "eventfd"),
        (Call::EPOLL_CREATE, "epoll_create1"),
        (Call::MMAP, "guest memory at 0x"),
        (Call::CLONE, "thread of vCPU"),
    ] {
        for n in 1.. {
            let (complaints, struck) = failing(call, n, EDQUOT, || scenario(&scripted()));
            if struck.is_none() {
                assert!(n > 1, "no {} was called", call.name);
                break;
            }
            assert_complaint(&complaints, name, &format!("call {n} of {}", call.name));
            Resources::assert_no_more_than(before, &format!("call {n} of {}", call.name));
        }
    }
}

/// There is one complaint, which names what failed, and why.
#[track_caller]
fn assert_complaint(complaints: &[String], name: &str, what: &str) {
    let [complaint] = complaints else { panic!("{what}: {complaints:?}") };
    assert!(complaint.contains(name), "{what}: {complaint}");
    assert!(complaint.contains(&format!("os error {EDQUOT}")), "{what}: {complaint}");
}
