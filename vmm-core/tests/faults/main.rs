//! Everything a machine asks of its backend and of the kernel fails in turn: what failed is named where it is due, what was
//! half made is undone, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod asker;
mod scenario;

use std::collections::BTreeSet;
use std::path::Path;

use scenario::{scenario, scripted};
use test_utils::faults::syscalls::{Call, Silent, failing};
use test_utils::faults::{Faults, Faulty};
use test_utils::log;
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
    // A group's file takes thread ids like any other.
    let group = tempfile::tempdir().unwrap();
    log::keep();
    std::fs::write(group.path().join("cgroup.threads"), "").unwrap();
    each_operation_of_the_backend(group.path());
    each_system_call(group.path());
}

fn each_operation_of_the_backend(group: &Path) {
    let faults = Faults::none();
    assert_eq!(scenario(&Faulty::new(scripted(), &faults), group), [""; 0]);
    let asked: BTreeSet<_> = faults.operations().into_iter().filter(|name| *name != "mmap").collect();
    let missing: Vec<_> = OPERATIONS.iter().filter(|name| !asked.contains(*name)).collect();
    assert!(missing.is_empty(), "never asked for: {missing:?}");

    let before = Resources::own();
    for n in 1.. {
        let faults = Faults::nth(n, EDQUOT);
        let mut complaints = scenario(&Faulty::new(scripted(), &faults), group);
        let warnings = log::take();
        if complaints.is_empty() {
            // What goes wrong behind the guest's own end is not the machine's to report; the log has it.
            complaints = warnings;
        }
        let Some(struck) = faults.struck() else { break };
        // What a mapping is for is what names it.
        let name = if struck == "mmap" { "guest memory at 0x" } else { struck };
        assert_complaint(&complaints, name, &format!("operation {n}, {struck}"));
        Resources::assert_no_more_than(before, &format!("operation {n}, {struck}"));
    }
}

/// Calls whose failure nobody is told of.
const SILENT: [Silent; 4] = [
    ("epoll_ctl", |args| args[1] == libc::EPOLL_CTL_DEL as u64, "what is watched no more is closed next"),
    ("epoll_pwait", |args| args[3] == 0, "the mock looks at irqfds once more"),
    ("ppoll", |args| args[1] == 2, "a vCPU of the mock that halts looks once more"),
    ("read", |args| args[2] == 8, "an eventfd that was not emptied is looked at once more"),
];

fn each_system_call(group: &Path) {
    let before = Resources::own();
    for (call, name) in [
        (Call::EVENTFD, "eventfd"),
        (Call::EPOLL_CREATE, "epoll_create1"),
        (Call::EPOLL_CTL, "KVM_IRQFD"),
        (Call::MMAP, "guest memory at 0x"),
        (Call::CLONE, "thread of vCPU"),
        (Call::OPEN, "control group"),
        (Call::WRITE, "control group"),
        (Call::READ, "read"),
        (Call::WAIT, "poll"),
    ] {
        for n in 1.. {
            let (complaints, struck) = failing(call, n, EDQUOT, || scenario(&scripted(), group));
            let Some(struck) = struck else {
                assert!(n > 1, "no {} was called", call.name);
                println!("{} times {} failed, one a run", n - 1, call.name);
                break;
            };
            let what = format!("call {n}, {}{:x?}", struck.name(), struck.args);
            if !(complaints.is_empty() && struck.is_among(&SILENT)) {
                assert_complaint(&complaints, name, &what);
            }
            Resources::assert_no_more_than(before, &what);
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
