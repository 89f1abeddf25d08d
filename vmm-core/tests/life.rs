//! Starting together, pausing, stopping.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{MMIO, PIO, PORT, Rig, claim, config, mov_out};
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Error as BackendError, Exit, Hypervisor, Kick, MockVcpu, MockVm, VcpuId, Vm};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use test_utils::wait;
use vmm_core::{
    Action, Error, Exchange, ExitHandler, HandlerThread, LinkError, Machine, Notice, PostedWrite, State, StopReason,
    StopSignal, StoppedVcpu, VcpuExit, VcpuMessage,
};

fn endless() -> Vec<Step> {
    mov_out(1).to_vec()
}

fn spinning_rig(vcpus: u32) -> Rig {
    // An access that nobody claims, over and over: the vCPU is always between exits.
    Rig::with(config(vcpus), &Mock::new(Script::forever([Step::Out { port: 0x80, width: 1 }])))
}

#[test]
fn no_vcpu_runs_until_all_have_been_resumed_from_init() {
    let mut rig = Rig::new(4, endless());
    rig.reserve(PIO, PORT.into(), 1);
    rig.start();
    for vcpu in 0..4 {
        rig.expect_init(vcpu);
    }
    for vcpu in 0..3 {
        rig.make_runnable_and_resume(vcpu);
    }
    // A pause is delivered at the gate, so it shows that these vCPUs are there and have not run.
    rig.machine.pause(rig.owner, |vcpu| vcpu.0 < 3, 8);
    for vcpu in 0..3 {
        rig.expect_paused(vcpu, 8);
        assert!(rig.is_silent(vcpu));
        rig.resume(vcpu);
    }
    rig.make_runnable_and_resume(3);
    for vcpu in 0..4 {
        rig.expect_write(vcpu, &[1]);
    }
    let started = std::iter::from_fn(|| rig.notices.channel.try_recv().ok());
    assert_eq!(started.filter(|notice| matches!(notice, Notice::Started(_))).count(), 4);
}

#[test]
fn state_set_at_init_is_there_when_the_guest_runs() {
    let mut rig = Rig::new(1, [Step::Out { port: PORT, width: 4 }]);
    rig.reserve(PIO, PORT.into(), 1);
    rig.start();
    rig.expect_init(0);
    let mut regs = rig.regs(0);
    regs.rax = 0x0403_0201;
    rig.set(0, State::Regs(Box::new(regs)));
    rig.resume(0);
    rig.expect_write(0, &[1, 2, 3, 4]);
}

#[test]
fn a_pause_before_the_start_comes_right_after_init() {
    let mut rig = Rig::new(1, endless());
    rig.reserve(PIO, PORT.into(), 1);
    rig.machine.pause(rig.owner, |_| true, 11);
    rig.start();
    rig.expect_init(0);
    rig.resume(0);
    rig.expect_paused(0, 11);
    rig.resume(0);
    rig.expect_write(0, &[1]);
}

#[test]
fn a_pause_stops_a_running_a_halted_and_an_uninitialised_vcpu() {
    for mut rig in [spinning_rig(2), Rig::new(2, [])] {
        rig.start();
        for vcpu in 0..2 {
            rig.expect_init(vcpu);
            // The second vCPU stays in its wait for a start-up interrupt.
            rig.resume(vcpu);
        }
        for user in 1..50 {
            rig.machine.pause(rig.owner, |_| true, user);
            for vcpu in 0..2 {
                rig.expect_paused(vcpu, user);
                assert!(rig.regs(vcpu).rflags != 0, "state can be read");
            }
            for vcpu in 0..2 {
                rig.resume(vcpu);
            }
        }
    }
}

#[test]
fn a_pause_stops_only_the_vcpus_it_names() {
    let mut rig = spinning_rig(3);
    rig.start_running();
    rig.machine.pause(rig.owner, |vcpu| vcpu == VcpuId(1), 5);
    rig.expect_paused(1, 5);
    assert!(rig.is_silent(0) && rig.is_silent(2));
}

#[test]
fn a_newer_pause_replaces_one_not_delivered_and_a_pause_while_paused_follows_the_resume() {
    let mut rig = spinning_rig(1);
    rig.start_running();
    rig.machine.pause(rig.owner, |_| true, 1);
    rig.expect_paused(0, 1);
    rig.machine.pause(rig.owner, |_| true, 2);
    rig.machine.pause(rig.owner, |_| true, 3);
    rig.resume(0);
    rig.expect_paused(0, 3);
    rig.machine.pause(rig.owner, |_| true, 4);
    rig.resume(0);
    rig.expect_paused(0, 4);
    rig.resume(0);
    rig.machine.pause(rig.owner, |_| true, 5);
    rig.expect_paused(0, 5);
}

#[test]
fn a_pause_waits_for_the_end_of_an_access_and_of_all_its_fragments() {
    let mut rig = Rig::new(1, [Step::Load { address: 0xdffe, width: 4 }, Step::Out { port: PORT, width: 4 }]);
    rig.reserve(MMIO, 0xd000, 0x2000);
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    assert_eq!(rig.expect_access(0).0.address(), 0xdffe);
    rig.machine.pause(rig.owner, |_| true, 6);
    rig.resume_read(0, &[1, 2]);
    assert_eq!(rig.expect_access(0).0.address(), 0xe000);
    rig.resume_read(0, &[3, 4]);
    rig.expect_paused(0, 6);
    assert_eq!(rig.regs(0).rax, 0x0403_0201, "the access is complete");
    rig.resume(0);
    rig.expect_write(0, &[1, 2, 3, 4]);
}

#[test]
fn a_pause_is_told_to_the_one_who_asked() {
    let mut rig = spinning_rig(1);
    let (other, ends) = rig.machine.attach_ends("other").unwrap();
    let next = || ends[0].messages.recv_timeout(wait::LIMIT);
    rig.start();
    rig.expect_init(0);
    rig.resume(0);
    assert!(matches!(next(), Ok(VcpuMessage::Exit(VcpuExit::Init))));
    ends[0].finish(Ok(Action::resume())).unwrap();
    rig.machine.pause(other, |_| true, 7);
    assert!(matches!(next(), Ok(VcpuMessage::Exit(VcpuExit::Paused { user: 7 }))));
    assert!(rig.is_silent(0));
}

#[test]
fn a_stop_ends_vcpus_wherever_they_are() {
    // Not yet resumed from init; at the gate; in an access; paused; in the guest; halted.
    let mut rig = Rig::new(2, endless());
    rig.start();
    rig.expect_init(0);
    rig.make_runnable_and_resume(0);
    rig.expect_init(1);
    rig.machine.join();
    for _ in 0..2 {
        assert!(matches!(rig.stop_reason().1, StopReason::Asked));
    }

    let mut rig = Rig::new(1, endless());
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &[1]);
    rig.machine.join();
    assert!(matches!(rig.stop_reason().1, StopReason::Asked));

    let mut rig = spinning_rig(1);
    rig.start_running();
    rig.machine.pause(rig.owner, |_| true, 1);
    rig.expect_paused(0, 1);
    rig.machine.join();
    assert!(matches!(rig.stop_reason().1, StopReason::Asked));

    for mut rig in [spinning_rig(4), Rig::new(4, [])] {
        rig.start_running();
        rig.machine.join();
        for _ in 0..4 {
            assert!(matches!(rig.stop_reason().1, StopReason::Asked));
        }
    }
}

#[test]
fn a_stop_before_the_start_keeps_the_guest_from_running() {
    let mut rig = Rig::new(1, endless());
    rig.machine.stop();
    rig.start();
    assert!(matches!(rig.stop_reason().1, StopReason::Asked));
}

/// A handler that waits on the descriptor of the stop signal, as one on a pipe does.
struct Waiting {
    stop: StopSignal,
    entered: crossbeam_channel::Sender<()>,
}

impl ExitHandler for Waiting {
    fn handle(&mut self, exit: VcpuExit, _: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        if matches!(exit, VcpuExit::Init) {
            return Ok(Action::resume());
        }
        self.entered.send(()).unwrap();
        let mut fds = [PollFd::new(&self.stop, PollFlags::IN)];
        let limit = Timespec::try_from(wait::LIMIT).unwrap();
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "the stop signal's descriptor is readable");
        Err(LinkError::Stopped)
    }

    fn post(&mut self, _: PostedWrite, _: Option<std::time::Instant>) -> Result<(), LinkError> {
        Ok(())
    }
}

#[test]
fn a_stop_ends_a_vcpu_inside_its_handler() {
    let vm = Mock::new(Script::once(mov_out(1))).create_vm().unwrap();
    let (mut machine, notices) = Machine::new(vm, &config(1)).unwrap();
    let (entered, wait_entered) = crossbeam_channel::bounded(1);
    let stop = machine.stop_signal().clone();
    let owner = machine
        .attach("handler", HandlerThread::Vcpu, |_| Box::new(Waiting { stop: stop.clone(), entered: entered.clone() }))
        .unwrap();
    machine.map().reserve(PIO, PORT.into(), 1, claim(owner)).unwrap();
    machine.start().unwrap();
    wait_entered.recv_timeout(wait::LIMIT).unwrap();
    machine.join();
    let reasons: Vec<_> = notices.channel.try_iter().collect();
    assert!(matches!(reasons.last(), Some(Notice::Stopped(_, StopReason::Asked))), "{reasons:?}");
}

#[test]
fn a_machine_starts_once_and_takes_no_owner_after_that() {
    let mut rig = Rig::new(1, []);
    rig.start();
    assert!(matches!(rig.machine.start(), Err(Error::AlreadyStarted)));
    assert!(matches!(rig.machine.attach_ends("late"), Err(Error::AlreadyStarted)));
}

fn refused() -> BackendError {
    BackendError::System { what: "the test", source: std::io::Error::other("refused") }
}

#[test]
fn a_vcpu_that_cannot_be_made_keeps_all_from_starting() {
    let mut vm = MockVm::new();
    vm.expect_create_vcpu().times(3).returning(|id| {
        if id == VcpuId(2) {
            return Err(refused());
        }
        let mut vcpu = MockVcpu::new();
        vcpu.expect_kick_handle().return_once(|| Kick::from_fn(|| {}));
        // Neither run nor asked for its state: mockall fails on any other call.
        Ok(Box::new(vcpu))
    });
    let (mut machine, notices) = Machine::new(Arc::new(vm) as Arc<dyn Vm>, &config(4)).unwrap();
    assert!(matches!(machine.start(), Err(Error::Backend(_))));
    machine.join();
    assert!(notices.channel.try_recv().is_err());
}

/// A machine whose one vCPU is `vcpu`, resumed from init.
fn machine_around(mut vcpu: MockVcpu) -> Rig {
    vcpu.expect_id().return_const(VcpuId(0));
    vcpu.expect_kick_handle().return_once(|| Kick::from_fn(|| {}));
    let mut vm = MockVm::new();
    vm.expect_create_vcpu().return_once(move |_| Ok(Box::new(vcpu)));
    let (mut machine, notices) = Machine::new(Arc::new(vm) as Arc<dyn Vm>, &config(1)).unwrap();
    let (owner, ends) = machine.attach_ends("tester").unwrap();
    let mut rig = Rig { machine, notices, owner, ends };
    rig.start();
    rig.expect_init(0);
    rig
}

#[test]
fn a_run_that_fails_stops_the_vcpu_with_the_backends_error() {
    let mut vcpu = MockVcpu::new();
    vcpu.expect_run().times(1).return_once(|| Err(refused()));
    let rig = machine_around(vcpu);
    rig.resume(0);
    let (_, reason) = rig.stop_reason();
    assert_eq!((reason.to_string().as_str(), reason.is_failure()), ("the test failed: refused", true));
}

#[test]
fn join_within_gives_up_on_a_vcpu_that_never_exits() {
    let (free, freed) = crossbeam_channel::bounded::<()>(0);
    let (enter, entered) = crossbeam_channel::bounded(1);
    let mut vcpu = MockVcpu::new();
    vcpu.expect_run().return_once(move || {
        enter.send(()).unwrap();
        let _ = freed.recv();
        Ok(Exit::Interrupted)
    });
    let mut rig = machine_around(vcpu);
    rig.resume(0);
    entered.recv_timeout(wait::LIMIT).unwrap();
    let limit = std::time::Duration::from_millis(30);
    assert!(matches!(rig.machine.join_within(limit), Err(Error::NotStopped { .. })));
    // It is left alone from here on, and ends when it can.
    rig.machine.join_within(limit).unwrap();
    drop(free);
    assert!(matches!(rig.stop_reason().1, StopReason::Asked));
}

#[test]
fn a_vcpu_thread_that_panics_is_told_of() {
    let mut vcpu = MockVcpu::new();
    vcpu.expect_run().return_once(|| -> hypervisor::Result<Exit> { panic!("on purpose") });
    let rig = machine_around(vcpu);
    rig.resume(0);
    assert!(matches!(rig.stop_reason().1, StopReason::Panicked));
}

#[test]
fn a_resume_with_registers_that_cannot_be_set_stops_the_vcpu_before_it_runs() {
    let mut vcpu = MockVcpu::new();
    vcpu.expect_set_regs().times(1).return_once(|_| Err(refused()));
    let rig = machine_around(vcpu);
    rig.resume_with(0, Exchange::with_regs(&Default::default()));
    let (_, reason) = rig.stop_reason();
    assert_eq!(reason.to_string(), "tester resumed with state that cannot be set: the test failed: refused");
    assert!(reason.is_failure());
}

#[test]
fn state_the_backend_refuses_is_told_to_the_owner_and_the_vcpu_lives_on() {
    let mut vcpu = MockVcpu::new();
    vcpu.expect_set_mp_state().times(1).return_once(|_| Err(refused()));
    vcpu.expect_sregs().times(1).return_once(|| Err(refused()));
    vcpu.expect_run().return_once(|| Ok(Exit::Shutdown));
    // Where the guest was is not known then.
    vcpu.expect_regs().times(1).return_once(|| Err(refused()));
    let rig = machine_around(vcpu);
    assert!(matches!(rig.vcpu(0).set(State::MpState(Default::default())), Ok(Err(_))));
    assert!(matches!(rig.vcpu(0).get(vmm_core::StateKind::Sregs), Ok(Err(_))));
    rig.resume(0);
    assert!(matches!(rig.stop_reason().1, StopReason::Shutdown { state: None }));
}
