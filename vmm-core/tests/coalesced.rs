//! Posted writes that the backend coalesces.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{PIO, PORT, Rig, claim, config};
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Exit, MockVm, Vm};
use test_utils::faults::{Faults, Faulty};
use test_utils::wait::LIMIT;
use vmm_core::{Action, Machine, ReservationProblem, StopReason, VcpuExit, VcpuMessage};

/// Where what the guest waits for goes.
const OTHER: u16 = 0x70;

fn write(value: u64) -> [Step; 2] {
    [Step::Mov(value), Step::Out { port: PORT, width: 1 }]
}

fn rig(vcpus: u32, steps: Vec<Step>) -> Rig {
    let rig = Rig::new(vcpus, steps);
    rig.machine.reserve_coalesced(PIO, PORT.into(), 1, rig.owner).unwrap();
    rig.reserve(PIO, OTHER.into(), 1);
    rig
}

#[test]
fn they_come_before_the_exit_behind_them_and_none_behind_it() {
    let mut steps = Vec::new();
    for value in 0..100 {
        steps.extend((0..value).flat_map(write));
        steps.extend([Step::Mov(value), Step::Out { port: OTHER, width: 1 }]);
    }
    let mut rig = rig(1, steps);
    rig.start_running();
    for value in 0..100 {
        for posted in 0..value {
            rig.expect_posted(0, &[posted]);
        }
        rig.expect_write(0, &[value]);
        assert!(rig.is_silent(0));
        rig.resume(0);
    }
}

#[test]
fn more_than_there_is_room_for_keep_their_order() {
    let steps: Vec<_> = (0..1000).flat_map(write).chain([Step::Out { port: OTHER, width: 1 }]).collect();
    let mut rig = rig(1, steps);
    rig.start_running();
    for value in 0..1000_u32 {
        rig.expect_posted(0, &[value as u8]);
    }
    rig.expect_write(0, &[999_u32 as u8]);
}

#[test]
fn one_that_no_exit_follows_comes_too() {
    // Behind the script's end the vCPU waits in the guest.
    let mut rig = rig(1, write(7).to_vec());
    rig.start_running();
    rig.expect_posted(0, &[7]);
}

#[test]
fn a_pause_comes_behind_what_was_written_before_it() {
    let steps: Vec<_> = write(7).into_iter().chain([Step::Out { port: OTHER, width: 1 }]).chain(write(8)).collect();
    let mut rig = rig(1, steps);
    rig.start_running();
    rig.expect_posted(0, &[7]);
    rig.expect_write(0, &[7]);
    rig.machine.pause(rig.owner, |_| true, 5);
    rig.resume(0);
    // The kick may come before the second write or behind it.
    match rig.message(0) {
        VcpuMessage::Posted(write) => {
            assert_eq!(write.data(), [8]);
            rig.expect_paused(0, 5);
        }
        VcpuMessage::Exit(VcpuExit::Paused { user: 5 }) => {
            rig.resume(0);
            rig.expect_posted(0, &[8]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_vcpus_tell_each_once() {
    const VCPUS: usize = 4;
    const WRITES: usize = 500;
    let steps: Vec<_> = (0..WRITES as u64).flat_map(write).collect();
    let mut rig = rig(VCPUS as u32, steps);
    rig.start_running();
    let mut times = [0; 256];
    for _ in 0..VCPUS * WRITES {
        let mut select = crossbeam_channel::Select::new();
        for end in &rig.ends {
            select.recv(&end.messages);
        }
        let vcpu = select.ready_timeout(LIMIT).expect("a write");
        let VcpuMessage::Posted(write) = rig.message(vcpu) else { panic!("no posted write") };
        times[usize::from(write.data()[0])] += 1;
    }
    let expected = |value| VCPUS * (0..WRITES).filter(|write| write % 256 == value).count();
    assert!((0..256).all(|value| times[value] == expected(value)), "{times:?}");
}

#[test]
fn what_was_written_before_its_range_was_released_is_told() {
    let steps: Vec<_> = write(1)
        .into_iter()
        .chain(write(2))
        .chain([Step::Out { port: OTHER, width: 1 }])
        .chain(write(3))
        .chain([Step::Out { port: OTHER, width: 1 }])
        .collect();
    // The exits of another owner are what the vCPU stands in while the range goes.
    let mut rig = Rig::new(1, steps);
    rig.machine.reserve_coalesced(PIO, PORT.into(), 1, rig.owner).unwrap();
    rig.reserve(PIO, OTHER.into(), 1);
    rig.start_running();
    rig.expect_posted(0, &[1]);
    rig.expect_posted(0, &[2]);
    rig.expect_write(0, &[2]);
    rig.machine.release(PIO, PORT.into(), rig.owner).unwrap();
    rig.resume(0);
    // The third write is nobody's.
    rig.expect_write(0, &[3]);
    // The range can be reserved again, as any other.
    rig.machine.map().reserve(PIO, PORT.into(), 1, claim(rig.owner)).unwrap();
}

#[test]
fn a_release_takes_what_lies_there_for_its_owner_who_is_told_though_no_exit_follows() {
    let mut vm = MockVm::new();
    vm.expect_coalesce_writes().return_once(|_, _, _| Ok(()));
    vm.expect_stop_coalescing().return_once(|_, _, _| Ok(()));
    vm.expect_has_coalesced().return_const(false);
    let written = hypervisor::Access::write(PIO, PORT.into(), &[5]);
    let mut left = written.into_iter();
    vm.expect_take_coalesced().times(1..).returning(move |into| into.extend(left.next()));
    let mock = Mock::new(Script::once([Step::Out { port: OTHER, width: 1 }]));
    let inner = hypervisor::Hypervisor::create_vm(&mock).unwrap();
    vm.expect_create_vcpu().returning(move |id| inner.create_vcpu(id));
    let mut rig = rig_of(vm);
    rig.reserve(PIO, OTHER.into(), 1);
    rig.start_running();
    rig.expect_access(0);
    rig.resume(0);
    // No exit follows: the guest has come to its end, and stays in it.
    rig.machine.release(PIO, PORT.into(), rig.owner).unwrap();
    rig.expect_posted(0, &[5]);
}

#[test]
fn they_come_before_the_end_that_their_vcpu_makes() {
    let mut rig = rig(1, write(7).into_iter().chain([Step::Exit(Exit::Shutdown)]).collect());
    rig.start_running();
    rig.expect_posted(0, &[7]);
    assert!(matches!(rig.stop_reason().1, StopReason::Shutdown { .. }));
}

#[test]
fn they_come_before_the_failure_to_run_their_vcpu() {
    let mut vm = MockVm::new();
    vm.expect_coalesce_writes().return_once(|_, _, _| Ok(()));
    vm.expect_has_coalesced().return_const(true);
    let written = hypervisor::Access::write(PIO, PORT.into(), &[5]);
    let mut left = written.into_iter();
    vm.expect_take_coalesced().times(1..).returning(move |into| into.extend(left.next()));
    let faults = Faults::nth_of("KVM_RUN", 1, rustix::io::Errno::NOMEM.raw_os_error());
    let mock = Faulty::new(Mock::new(Script::nothing()), &faults);
    let inner = hypervisor::Hypervisor::create_vm(&mock).unwrap();
    vm.expect_create_vcpu().returning(move |id| inner.create_vcpu(id));
    let mut rig = rig_of(vm);
    rig.start_running();
    rig.expect_posted(0, &[5]);
    assert!(matches!(rig.stop_reason().1, StopReason::Backend(_)));
}

/// A machine of one vCPU whose writes to the port are coalesced.
fn rig_of(vm: MockVm) -> Rig {
    let (mut machine, notices) = Machine::new(Arc::new(vm) as Arc<dyn Vm>, &config(1)).unwrap();
    let (owner, ends) = machine.attach_ends("tester").unwrap();
    machine.reserve_coalesced(PIO, PORT.into(), 1, owner).unwrap();
    Rig { machine, notices, owner, ends }
}

#[test]
fn only_its_owner_releases_a_range() {
    let mut rig = Rig::new(1, write(7));
    let (other, ends) = rig.machine.attach_ends("other").unwrap();
    rig.machine.reserve_coalesced(PIO, PORT.into(), 1, rig.owner).unwrap();
    for (start, owner) in [(u64::from(PORT), other), (u64::from(PORT) + 1, rig.owner)] {
        let error = rig.machine.release(PIO, start, owner).unwrap_err();
        assert!(
            matches!(error, vmm_core::Error::Reservation { problem: ReservationProblem::NotReserved, .. }),
            "{error}"
        );
    }
    rig.start_running();
    // The other initialises it second.
    assert!(matches!(ends[0].messages.recv_timeout(LIMIT).unwrap(), VcpuMessage::Exit(VcpuExit::Init)));
    ends[0].finish(Ok(Action::resume())).unwrap();
    rig.expect_posted(0, &[7]);
}

#[test]
fn where_the_backend_cannot_they_are_posted_one_by_one() {
    let steps: Vec<_> = (0..10).flat_map(write).chain([Step::Out { port: OTHER, width: 1 }]).collect();
    let faults = Faults::nth_of("KVM_REGISTER_COALESCED_MMIO", 1, rustix::io::Errno::NOSPC.raw_os_error());
    let mut rig = Rig::with(config(1), &Faulty::new(Mock::new(Script::once(steps)), &faults));
    rig.machine.reserve_coalesced(PIO, PORT.into(), 1, rig.owner).unwrap();
    rig.reserve(PIO, OTHER.into(), 1);
    rig.start_running();
    (0..10).for_each(|value| rig.expect_posted(0, &[value]));
    rig.expect_write(0, &[9]);
    rig.machine.release(PIO, PORT.into(), rig.owner).unwrap();
}
