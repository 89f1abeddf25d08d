//! Where exits are dispatched to, and what their handlers return.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use common::{MMIO, PIO, PORT, Rig, claim, config, mov_out, timeout};
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{AddressSpace, Direction, Exit, Hypervisor, InternalError, SynicWrite};
use vmm_core::{
    Action, CallHint, Config, Culprit, Exchange, ExitHandler, HandlerThread, HintDetail, LinkError, Machine,
    PostedWrite, State, StopReason, StoppedVcpu, Unclaimed, VcpuExit, VcpuMessage,
};

#[test]
fn an_access_nobody_claimed_reads_zeros_and_swallows_writes() {
    let mut rig = Rig::new(
        1,
        [
            Step::Mov(0xffff_ffff),
            Step::Out { port: 0x80, width: 4 },
            Step::In { port: 0x81, width: 4 },
            Step::Out { port: PORT, width: 4 },
            Step::Mov(u64::MAX),
            Step::Load { address: 0xd000, width: 8 },
            Step::Store { address: 0xe000, width: 8 },
            Step::Out { port: PORT, width: 4 },
        ],
    );
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &[0; 4]);
    rig.resume(0);
    rig.expect_write(0, &[0; 4]);
}

#[test]
fn an_access_belongs_to_the_owner_of_its_first_byte() {
    let steps = [
        Step::Mov(0x0403_0201),
        // Its last byte is the owner's, its first is nobody's.
        Step::Out { port: PORT - 3, width: 4 },
        // Its first byte is the owner's, the others are nobody's.
        Step::Out { port: PORT, width: 4 },
        Step::Store { address: 0xd00f, width: 2 },
    ];
    let mut rig = Rig::new(1, steps);
    rig.reserve(PIO, PORT.into(), 1);
    rig.reserve(MMIO, 0xd000, 0x10);
    rig.start_running();
    let (access, data) = rig.expect_access(0);
    assert_eq!((access.space(), access.address(), &data[..]), (PIO, PORT.into(), &[1, 2, 3, 4][..]));
    rig.resume(0);
    let (access, data) = rig.expect_access(0);
    assert_eq!((access.space(), access.address(), &data[..]), (MMIO, 0xd00f, &[1, 2][..]));
}

#[test]
fn a_short_answer_is_filled_with_zeros_and_a_long_one_is_cut() {
    let read = || [Step::Mov(u64::MAX), Step::In { port: PORT, width: 4 }, Step::Out { port: PORT, width: 4 }];
    let mut rig = Rig::new(1, [read(), read(), read()].concat());
    rig.reserve(PIO, PORT.into(), 4);
    rig.start_running();
    for (answer, expected) in
        [(&[][..], [0; 4]), (&[1, 2][..], [1, 2, 0, 0]), (&[1, 2, 3, 4, 5, 6, 7, 8, 9][..], [1, 2, 3, 4])]
    {
        assert_eq!(rig.expect_access(0).0.len(), 4);
        rig.resume_read(0, answer);
        rig.expect_write(0, &expected);
        rig.resume(0);
    }
}

#[test]
fn a_string_access_carries_up_to_a_page() {
    let data: Vec<u8> = (0..4096_u32).map(|n| n as u8).collect();
    let steps = [Step::Outs { port: PORT, data: data.clone() }, Step::Ins { port: PORT, width: 2, count: 2048 }];
    let mut rig = Rig::new(1, steps.into_iter().chain(mov_out(7)));
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &data);
    rig.resume(0);
    assert_eq!(rig.expect_access(0).0.len(), 4096);
    rig.resume_read(0, &data);
    rig.expect_write(0, &[7]);
}

#[test]
fn a_reservation_made_or_ended_while_the_guest_runs_counts_from_the_next_access_on() {
    let mut rig = Rig::new(1, [mov_out(1), mov_out(2), mov_out(3)].concat());
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &[1]);
    rig.machine.map().release(PIO, PORT.into(), rig.owner).unwrap();
    rig.machine.pause(rig.owner, |_| true, 5);
    rig.resume(0);
    // The pause comes before the guest's next access.
    rig.expect_paused(0, 5);
    rig.reserve(PIO, PORT.into(), 1);
    rig.resume(0);
    rig.expect_write(0, &[2]);
}

#[test]
fn two_owners_get_their_own_accesses() {
    let hypervisor = Mock::new(Script::once([mov_out(1).to_vec(), vec![Step::Out { port: 0x70, width: 1 }]].concat()));
    let mut rig = Rig::with(config(1), &hypervisor);
    let (other, other_ends) = rig.machine.attach_ends("other").unwrap();
    let next = || other_ends[0].messages.recv_timeout(test_utils::wait::LIMIT).unwrap();
    rig.reserve(PIO, PORT.into(), 1);
    rig.machine.map().reserve(PIO, 0x70, 1, claim(other)).unwrap();
    rig.start();
    rig.expect_init(0);
    rig.resume(0);
    assert!(matches!(next(), VcpuMessage::Exit(VcpuExit::Init)));
    other_ends[0].finish(Ok(Action::resume())).unwrap();
    rig.expect_write(0, &[1]);
    rig.resume(0);
    assert!(matches!(next(), VcpuMessage::Exit(VcpuExit::Access { access, .. }) if access.address() == 0x70));
}

/// The same device, called by the vCPU's thread and by its own.
fn device_serves_both(thread: HandlerThread) {
    let steps = [Step::In { port: PORT, width: 1 }, Step::Out { port: PORT, width: 1 }];
    let hypervisor = Mock::new(Script::forever(steps));
    let (mut machine, notices) = Machine::new(hypervisor.create_vm().unwrap(), &config(2)).unwrap();
    let written = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
    let owner = machine
        .attach("device", thread, |vcpu| {
            let written = Arc::clone(&written);
            let mut n = 0_u8;
            let handler = move |exit: VcpuExit, stopped: &mut StoppedVcpu<'_>| match exit {
                VcpuExit::Init => {
                    // Else the second vCPU would wait for a start-up interrupt.
                    let runnable = State::MpState(hypervisor::kvm_mp_state { mp_state: 0 });
                    stopped.set(runnable).unwrap().unwrap();
                    Action::resume()
                }
                VcpuExit::Access { access, .. } if access.direction() == Direction::Read => {
                    n += 1;
                    Action::Resume(Exchange::read_data(&[n + 100 * vcpu.0 as u8]))
                }
                VcpuExit::Access { access, exchange } => {
                    let mut written = written.lock().unwrap();
                    written[vcpu.index()].extend_from_slice(exchange.write_data(&access));
                    if n == 5 { Action::Stop } else { Action::resume() }
                }
                _ => Action::resume(),
            };
            Box::new(handler) as Box<dyn ExitHandler>
        })
        .unwrap();
    machine.map().reserve(AddressSpace::Pio, PORT.into(), 1, claim(owner)).unwrap();
    machine.start().unwrap();
    let mut stopped = 0;
    while stopped < 2 {
        if let vmm_core::Notice::Stopped(_, reason) = notices.channel.recv_timeout(test_utils::wait::LIMIT).unwrap() {
            assert!(matches!(reason, StopReason::Released { .. }), "{reason}");
            stopped += 1;
        }
    }
    assert_eq!(*written.lock().unwrap(), [vec![1, 2, 3, 4, 5], vec![101, 102, 103, 104, 105]]);
}

#[test]
fn a_handler_on_the_vcpu_thread_serves_each_vcpu() {
    device_serves_both(HandlerThread::Vcpu);
}

#[test]
fn a_handler_on_its_own_thread_serves_each_vcpu() {
    device_serves_both(HandlerThread::Own);
}

#[test]
fn each_access_gets_an_empty_exchange() {
    let vm = Mock::new(Script::once([1, 2, 3].into_iter().flat_map(mov_out))).create_vm().unwrap();
    let (mut machine, notices) = Machine::new(vm, &config(1)).unwrap();
    let owner = machine
        .attach("device", HandlerThread::Vcpu, |_| {
            Box::new(|exit: VcpuExit, _: &mut StoppedVcpu<'_>| match exit {
                VcpuExit::Access { exchange, access } if exchange.write_data(&access) == [3] => Action::Stop,
                VcpuExit::Access { mut exchange, .. } => {
                    assert!(exchange.data.is_empty() && exchange.accessed.is_none());
                    assert!(!exchange.attached.present().any() && !exchange.set.present().any());
                    exchange.data = vmm_core::Bytes::from_slice(&[1]);
                    exchange.set.put_regs(&hypervisor::kvm_regs { rflags: 2, ..Default::default() });
                    Action::Resume(exchange)
                }
                _ => Action::resume(),
            })
        })
        .unwrap();
    machine.map().reserve(PIO, PORT.into(), 1, claim(owner)).unwrap();
    machine.start().unwrap();
    assert!(matches!(stop_reason(&notices), StopReason::Released { .. }));
    machine.join();
}

/// Why the machine's vCPU stopped.
fn stop_reason(notices: &vmm_core::Notices) -> StopReason {
    loop {
        let notice = notices.channel.recv_timeout(test_utils::wait::LIMIT).unwrap();
        if let vmm_core::Notice::Stopped(_, reason) = notice {
            return reason;
        }
    }
}

/// A handler that fails at the first access.
struct Broken(Option<LinkError>);

impl ExitHandler for Broken {
    fn handle(&mut self, exit: VcpuExit, _: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        match exit {
            VcpuExit::Access { .. } => Err(self.0.take().unwrap()),
            _ => Ok(Action::resume()),
        }
    }

    fn post(&mut self, _: PostedWrite, _: Option<std::time::Instant>) -> Result<(), LinkError> {
        Ok(())
    }
}

#[test]
fn a_failing_handler_stops_its_vcpu_with_the_owners_name() {
    for thread in [HandlerThread::Vcpu, HandlerThread::Own] {
        for (error, expected) in [
            (LinkError::Disconnected, "serial disconnected"),
            (LinkError::TimedOut, "serial did not answer a port write of 1 bytes at 0x3f8 in time"),
            (LinkError::Fault("garbage".into()), "serial: garbage"),
        ] {
            let vm = Mock::new(Script::once(mov_out(1))).create_vm().unwrap();
            let (mut machine, notices) = Machine::new(vm, &config(1)).unwrap();
            let mut error = Some(error);
            let owner = machine.attach("serial", thread, |_| Box::new(Broken(error.take()))).unwrap();
            machine.map().reserve(PIO, PORT.into(), 1, claim(owner)).unwrap();
            machine.start().unwrap();
            assert_eq!(stop_reason(&notices).to_string(), expected);
        }
    }
}

#[test]
fn an_owner_that_drops_its_end_stops_the_vcpu() {
    let mut rig = Rig::new(1, mov_out(1));
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &[1]);
    rig.ends.clear();
    assert!(matches!(rig.stop_reason().1, StopReason::Disconnected { .. }));
}

#[test]
fn an_owner_that_does_not_answer_in_time_stops_the_vcpu_with_the_accesss_address() {
    let mut config = config(1);
    config.exit_timeout = timeout(20);
    let mut rig = Rig::with(config, &Mock::new(Script::once([Step::Load { address: 0xd000, width: 4 }])));
    rig.reserve(MMIO, 0xd000, 4);
    rig.start_running();
    let (_, reason) = rig.stop_reason();
    assert_eq!(reason.to_string(), "tester did not answer a mmio read of 4 bytes at 0xd000 in time");
    assert!(reason.is_failure());
}

#[test]
fn an_owner_that_asks_without_end_does_not_answer_in_time() {
    for thread in [HandlerThread::Vcpu, HandlerThread::Own] {
        let mut config = config(1);
        config.exit_timeout = timeout(20);
        let vm = Mock::new(Script::once(mov_out(1))).create_vm().unwrap();
        let (mut machine, notices) = Machine::new(vm, &config).unwrap();
        let owner = machine.attach("curious", thread, |_| Box::new(Curious)).unwrap();
        machine.map().reserve(PIO, PORT.into(), 1, claim(owner)).unwrap();
        machine.start().unwrap();
        let reason = loop {
            match notices.channel.recv_timeout(test_utils::wait::LIMIT).unwrap() {
                vmm_core::Notice::Stopped(_, reason) => break reason,
                _ => continue,
            }
        };
        assert!(matches!(reason, StopReason::TimedOut { .. }), "{reason}");
    }
}

/// A handler that reads registers until the vCPU may not wait any longer.
struct Curious;

impl ExitHandler for Curious {
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        while let VcpuExit::Access { .. } = exit {
            vcpu.regs()?.unwrap();
        }
        Ok(Action::resume())
    }

    fn post(&mut self, _: PostedWrite, _: Option<std::time::Instant>) -> Result<(), LinkError> {
        Ok(())
    }
}

#[test]
fn the_guests_end_is_told_with_its_reason() {
    let internal = InternalError { suberror: 4, data: [9; 6], words: 1 };
    let at = "at RIP 0xfff0 (16-bit code, CS base 0xffff0000)";
    for (exit, expected, culprit) in [
        (Exit::Shutdown, format!("triple fault {at}"), Some(Culprit::Guest)),
        (Exit::Halted, "halted".into(), None),
        (Exit::EntryFailed(7), format!("guest entry failed, hardware reason 0x7 {at}"), Some(Culprit::Guest)),
        (
            Exit::InternalError(internal),
            format!(
                "internal error: suberror 4: unexpected exit reason, the kernel's words 0x9; {at}; \
                 the processor left the guest for a reason that the hypervisor does not handle"
            ),
            Some(Culprit::Guest),
        ),
        (
            Exit::EntryFailed(0x21),
            format!(
                "guest entry failed, hardware reason 0x21 (the processor takes the guest's registers for invalid) {at}"
            ),
            Some(Culprit::Guest),
        ),
    ] {
        let mut rig = Rig::new(1, [Step::Exit(exit)]);
        rig.start_running();
        let (_, reason) = rig.stop_reason();
        assert_eq!((reason.to_string(), reason.culprit()), (expected, culprit));
        assert_eq!(reason.state().is_some(), culprit.is_some());
    }
}

#[test]
fn an_unclaimed_access_stops_the_vcpu_where_that_is_asked_for() {
    let load = Step::Load { address: 0x9000, width: 4 };
    for (step, said) in [
        (Step::In { port: 0x71, width: 1 }, "nobody has reserved a port read of 1 bytes at 0x71 at RIP 0xfff0"),
        (Step::Out { port: 0x80, width: 2 }, "nobody has reserved a port write of 2 bytes at 0x80 at RIP 0xfff0"),
        (load, "nobody has reserved a mmio read of 4 bytes at 0x9000 at RIP 0xfff0"),
        // Writes alone are the owner's.
        (Step::In { port: 0x20, width: 1 }, "nobody has reserved a port read of 1 bytes at 0x20 at RIP 0xfff0"),
    ] {
        let config = Config { unclaimed: Unclaimed::Stop, ..config(1) };
        let mut rig = Rig::with(config, &Mock::new(Script::once(mov_out(1).into_iter().chain([step]))));
        rig.reserve(PIO, PORT.into(), 1);
        rig.reserve_posted(PIO, 0x20, 1);
        rig.start_running();
        rig.expect_write(0, &[1]);
        rig.resume(0);
        let (_, reason) = rig.stop_reason();
        assert!(reason.to_string().starts_with(said), "{reason}");
        assert_eq!((reason.culprit(), reason.is_failure()), (Some(Culprit::Guest), true));
    }
}

#[test]
fn an_unknown_exit_is_passed_over() {
    let unknown = [99, 99, 98, 99].map(|reason| Step::Exit(Exit::Unknown(reason)));
    let mut rig = Rig::new(1, unknown.into_iter().chain(mov_out(4)));
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    rig.expect_write(0, &[4]);
}

#[test]
fn a_posted_write_is_told_and_the_guest_runs_on() {
    let steps = [mov_out(1), mov_out(2), mov_out(3)].concat().into_iter().chain([Step::Out { port: 0x70, width: 1 }]);
    let mut rig = Rig::new(1, steps);
    rig.reserve_posted(PIO, PORT.into(), 1);
    rig.reserve(PIO, 0x70, 1);
    rig.start_running();
    // Nobody has resumed anything since init: the order is that of the guest.
    for expected in [1, 2, 3] {
        rig.expect_posted(0, &[expected]);
    }
    rig.expect_write(0, &[3]);
}

#[test]
fn reads_of_a_range_of_posted_writes_are_nobodys() {
    let steps = [Step::Mov(0xff), Step::In { port: PORT, width: 1 }, Step::Out { port: 0x70, width: 1 }];
    let mut rig = Rig::new(1, steps);
    rig.reserve_posted(PIO, PORT.into(), 1);
    rig.reserve(PIO, 0x70, 1);
    rig.start_running();
    rig.expect_write(0, &[0]);
}

#[test]
fn posted_writes_that_nobody_takes_hold_the_guest_and_none_is_lost() {
    let writes = (0..100_u8).flat_map(|n| mov_out(n.into()));
    let mut rig = Rig::new(1, writes.chain([Step::Out { port: 0x70, width: 1 }]));
    rig.reserve_posted(PIO, PORT.into(), 1);
    rig.reserve(PIO, 0x70, 1);
    rig.start_running();
    // The channel is full long before the hundredth.
    test_utils::wait::until("the channel is full", || rig.ends[0].messages.is_full());
    for expected in 0..100 {
        rig.expect_posted(0, &[expected]);
    }
    rig.expect_write(0, &[99]);
}

#[test]
fn a_stop_unblocks_a_vcpu_whose_posted_writes_nobody_takes() {
    let hypervisor = Mock::new(Script::forever([Step::Out { port: PORT, width: 1 }]));
    let mut rig = Rig::with(config(1), &hypervisor);
    rig.reserve_posted(PIO, PORT.into(), 1);
    rig.start_running();
    test_utils::wait::until("the channel is full", || rig.ends[0].messages.is_full());
    rig.machine.join();
    assert!(matches!(rig.stop_reason().1, StopReason::Asked));
}

/// A handler that logs posted writes, and an access as 99.
struct Logging(Arc<Mutex<Vec<u8>>>);

impl ExitHandler for Logging {
    fn handle(&mut self, exit: VcpuExit, _: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        if !matches!(exit, VcpuExit::Access { .. }) {
            return Ok(Action::resume());
        }
        self.0.lock().unwrap().push(99);
        Ok(Action::Stop)
    }

    fn post(&mut self, write: PostedWrite, _: Option<std::time::Instant>) -> Result<(), LinkError> {
        self.0.lock().unwrap().extend_from_slice(write.data());
        Ok(())
    }
}

#[test]
fn a_handler_gets_posted_writes_in_order_with_other_exits() {
    for thread in [HandlerThread::Vcpu, HandlerThread::Own] {
        let steps = [mov_out(1), mov_out(2)].concat().into_iter().chain([Step::Out { port: 0x70, width: 1 }]);
        let (mut machine, notices) =
            Machine::new(Mock::new(Script::once(steps)).create_vm().unwrap(), &config(1)).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let owner = machine.attach("device", thread, |_| Box::new(Logging(Arc::clone(&log)))).unwrap();
        let posted = vmm_core::Claim { owner, service: vmm_core::Service::PostedWrites };
        machine.map().reserve(PIO, PORT.into(), 1, posted).unwrap();
        machine.map().reserve(PIO, 0x70, 1, claim(owner)).unwrap();
        machine.start().unwrap();
        while !matches!(
            notices.channel.recv_timeout(test_utils::wait::LIMIT).unwrap(),
            vmm_core::Notice::Stopped(_, StopReason::Released { .. })
        ) {}
        assert_eq!(*log.lock().unwrap(), [1, 2, 99]);
    }
}

#[test]
fn a_hint_attaches_registers_to_its_access_alone() {
    let steps = [
        Step::Mov(7),
        Step::Out { port: PORT, width: 1 },
        Step::Out { port: PORT + 1, width: 1 },
        Step::In { port: PORT, width: 1 },
        Step::Mov(8),
        Step::Out { port: PORT, width: 1 },
    ];
    let mut rig = Rig::new(1, steps);
    rig.reserve(PIO, PORT.into(), 2);
    let seven = HintDetail { rax: Some(7), sregs: true, ..HintDetail::default() };
    let any = HintDetail { debug_regs: true, ..HintDetail::default() };
    rig.machine.set_call_hint(Some(CallHint {
        space: PIO,
        address: PORT.into(),
        direction: Direction::Write,
        details: vec![seven, any],
    }));
    rig.start_running();
    // By access: the RAX attached, and whether segment and debug registers are.
    let expected = [(Some(7), true, false), (None, false, false), (None, false, false), (Some(8), false, true)];
    for expected in expected {
        let VcpuExit::Access { exchange, .. } = rig.exit(0) else { panic!("no access") };
        let attached = &exchange.attached;
        let rax = attached.regs().map(|regs| regs.rax);
        assert_eq!((rax, attached.sregs().is_some(), attached.debug_regs().is_some()), expected);
        rig.resume(0);
    }
}

#[test]
fn registers_attached_to_a_read_are_merged() {
    let steps = [Step::Mov(0x5500), Step::In { port: PORT, width: 1 }, Step::Out { port: PORT, width: 2 }];
    let mut rig = Rig::new(1, steps);
    rig.reserve(PIO, PORT.into(), 1);
    let direction = Direction::Read;
    let hint = CallHint { space: PIO, address: PORT.into(), direction, details: Vec::new() };
    rig.machine.set_call_hint(Some(hint));
    rig.start_running();
    let VcpuExit::Access { mut exchange, .. } = rig.exit(0) else { panic!("no access") };
    exchange.set.put_regs(&hypervisor::kvm_regs { rbx: 3, ..*exchange.attached.regs().unwrap() });
    exchange.data = vmm_core::Bytes::from_slice(&[0x77]);
    rig.resume_with(0, exchange);
    rig.expect_write(0, &[0x77, 0x55]);
    assert_eq!(rig.regs(0).rbx, 3);
    rig.machine.set_call_hint(None);
}

#[test]
fn a_hyperv_call_goes_to_the_first_owner_whose_answer_is_its_result() {
    let steps = [Step::HypervCall { input: 0x1005c, params: [1, 2] }, Step::Out { port: PORT, width: 4 }];
    let mut rig = Rig::new(1, steps);
    rig.reserve(PIO, PORT.into(), 4);
    rig.start_running();
    match rig.exit(0) {
        VcpuExit::HypervCall { input, params, .. } => assert_eq!((input, params), (0x1005c, [1, 2])),
        other => panic!("{other:?}"),
    }
    rig.resume_read(0, &[9, 8, 7, 6]);
    rig.expect_write(0, &[9, 8, 7, 6]);
}

#[test]
fn a_synic_exit_is_resumed_without_an_answer() {
    let synic = SynicWrite { msr: 0x4000_0080, control: 1, evt_page: 0x5001, msg_page: 0x6001 };
    let mut rig = Rig::new(1, [vec![Step::Exit(Exit::HypervSynic(synic))], mov_out(4).to_vec()].concat());
    rig.reserve(PIO, PORT.into(), 1);
    rig.start_running();
    match rig.exit(0) {
        VcpuExit::HypervSynic(write) => assert_eq!(write, synic),
        other => panic!("{other:?}"),
    }
    rig.resume(0);
    rig.expect_write(0, &[4]);
}
