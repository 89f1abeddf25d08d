//! Events of a vCPU, against a VMM that the test plays.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use plugin_proto::messages::vcpu_request::{Message as Request, StateSet};
use plugin_proto::messages::vcpu_response::wait::{Exit, HypervCall, HypervSynic, Io, User};
use plugin_proto::messages::vcpu_response::{GetState, Message as Response};
use plugin_proto::messages::{AddressSpace as Space, VcpuResponse};
use plugin_proto::{Error as MessageError, encode_vcpu_response};
use plugin_sdk::{AddressSpace, Error, Event, Read, Stopped, Vcpu, kvm_debugregs, kvm_mp_state, kvm_regs, kvm_sregs};
use support::FakeVcpu;
use zerocopy::{FromBytes, IntoBytes};

fn read_exit(address: u64, length: usize) -> Io {
    Io { space: Space::MMIO.into(), address, data: vec![0; length], ..Default::default() }
}

fn write_exit(port: u64, data: &[u8]) -> Io {
    Io { address: port, is_write: true, data: data.to_vec(), ..Default::default() }
}

fn posted_exit(port: u64, data: &[u8]) -> Exit {
    Exit::Io(Io { no_resume: true, ..write_exit(port, data) })
}

fn with_rax(rax: u64) -> kvm_regs {
    kvm_regs { rax, ..Default::default() }
}

fn with_cr3(cr3: u64) -> kvm_sregs {
    kvm_sregs { cr3, ..Default::default() }
}

fn state_answer(state: &(impl IntoBytes + zerocopy::Immutable)) -> Response {
    Response::GetState(GetState { state: state.as_bytes().to_vec(), ..Default::default() })
}

/// A vCPU at init, the plugin's `wait` already read.
fn at_init() -> (FakeVcpu, Vcpu) {
    let (fake, mut vcpu) = FakeVcpu::new();
    fake.init();
    drop(vcpu.wait().unwrap());
    assert!(matches!(fake.request(), Request::Wait(_)));
    (fake, vcpu)
}

fn init(vcpu: &mut Vcpu) -> Stopped<'_> {
    match vcpu.wait().unwrap() {
        Event::Init(stopped) => stopped,
        other => panic!("{other:?}"),
    }
}

fn read(vcpu: &mut Vcpu) -> Read<'_> {
    match vcpu.wait().unwrap() {
        Event::Read(read) => read,
        other => panic!("{other:?}"),
    }
}

/// A vCPU that has been resumed from init, all requests read.
fn running() -> (FakeVcpu, Vcpu) {
    let (fake, mut vcpu) = at_init();
    init(&mut vcpu).resume().unwrap();
    fake.resume();
    (fake, vcpu)
}

#[test]
fn wait_is_sent_once_and_the_first_event_is_init() {
    let (fake, mut vcpu) = at_init();
    init(&mut vcpu).resume().unwrap();
    assert_eq!(fake.resume(), Default::default());
    fake.exit(Exit::User(User::default()));
    assert!(matches!(vcpu.wait(), Ok(Event::Paused(_))));
    assert!(fake.is_quiet());
}

#[test]
fn a_read_shows_its_access_and_is_answered() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(read_exit(0xd000_0004, 4)));
    let read = read(&mut vcpu);
    let access = read.access();
    assert_eq!(access.space, AddressSpace::Mmio);
    assert_eq!((access.address, access.length), (0xd000_0004, 4));
    read.answer(&[1, 2, 3, 4]).unwrap();
    assert_eq!(fake.resume().data, [1, 2, 3, 4]);
}

#[test]
fn an_answer_of_another_length_leaves_the_read_waiting() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(read_exit(0, 4)));
    for wrong in [&[][..], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
        assert!(matches!(
            read(&mut vcpu).answer(wrong),
            Err(Error::AnswerLength { expected: 4, given }) if given == wrong.len()
        ));
        assert!(fake.is_quiet());
    }
    read(&mut vcpu).answer(&[9; 4]).unwrap();
    assert_eq!(fake.resume().data, [9; 4]);
}

#[test]
fn a_write_shows_its_data_and_is_resumed() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(write_exit(0x3f8, b"A")));
    let Event::Write(write) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    let access = write.access();
    assert_eq!(access.space, AddressSpace::Pio);
    assert_eq!((access.address, access.length), (0x3f8, 1));
    assert_eq!(write.data(), b"A");
    write.resume().unwrap();
    assert_eq!(fake.resume(), Default::default());
}

#[test]
fn a_string_access_may_have_a_page_of_data() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(read_exit(0x1f0, 4096)));
    read(&mut vcpu).answer(&[0x5a; 4096]).unwrap();
    assert_eq!(fake.resume().data, [0x5a; 4096]);
}

#[test]
fn posted_writes_come_one_after_the_other_without_a_resume() {
    let (fake, mut vcpu) = running();
    fake.exit(posted_exit(0x80, &[1]));
    fake.exit(posted_exit(0x80, &[2]));
    fake.exit(Exit::Io(read_exit(0, 1)));
    for expected in [1, 2] {
        let Event::Posted(posted) = vcpu.wait().unwrap() else {
            panic!("another event");
        };
        assert_eq!((posted.access.address, &posted.data[..]), (0x80, &[expected][..]));
    }
    read(&mut vcpu);
    assert!(fake.is_quiet());
}

#[test]
fn a_pause_carries_its_user() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::User(User { user: 77, ..Default::default() }));
    let Event::Paused(paused) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    assert_eq!(paused.user(), 77);
    paused.resume().unwrap();
    fake.resume();
}

#[test]
fn a_dropped_event_comes_again_with_what_was_set_in_it() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(write_exit(0x70, &[1, 2])));
    if let Event::Write(mut dropped) = vcpu.wait().unwrap() {
        dropped.state().set_regs(&with_rax(5));
    }
    assert!(fake.is_quiet());

    let Event::Write(write) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    assert_eq!((write.access().address, write.data()), (0x70, &[1, 2][..]));
    write.resume().unwrap();
    let regs = kvm_regs::read_from_bytes(&fake.resume().regs).unwrap();
    assert_eq!(regs.rax, 5);
}

#[test]
fn a_held_event_is_had_again_without_waiting() {
    let (fake, mut vcpu) = FakeVcpu::new();
    assert!(vcpu.held().is_none(), "not asked for yet");
    fake.init();
    drop(vcpu.wait().unwrap());
    fake.request();
    let Some(mut event @ Event::Init(_)) = vcpu.held() else {
        panic!("another event");
    };
    event.state().unwrap().set_regs(&with_rax(1));
    vcpu.held().unwrap().resume().unwrap();
    assert_eq!(fake.resume().regs, with_rax(1).as_bytes());
    fake.exit(posted_exit(0x80, &[1]));
    assert!(vcpu.held().is_none(), "it runs");
    assert!(vcpu.wait().unwrap().state().is_none());
    assert!(vcpu.held().is_none(), "it runs on after a posted write");
}

#[test]
fn a_hypercall_is_answered_with_its_result() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::HypervCall(HypervCall { input: 0x1_0005, params0: 6, params1: 7, ..Default::default() }));
    let Event::HypervCall(mut call) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    assert_eq!((call.call().input, call.call().params), (0x1_0005, [6, 7]));
    call.state().set_regs(&with_rax(2));
    call.answer(0x1234_5678_9abc_def0).unwrap();
    let resume = fake.resume();
    assert_eq!(resume.data, 0x1234_5678_9abc_def0_u64.to_ne_bytes());
    assert_eq!(resume.regs, with_rax(2).as_bytes());
}

#[test]
fn a_write_to_the_synthetic_interrupt_controller_shows_how_that_stands() {
    let (fake, mut vcpu) = running();
    let exit = HypervSynic { msr: 0x4000_0083, control: 1, evt_page: 2, msg_page: 3, ..Default::default() };
    fake.exit(Exit::HypervSynic(exit));
    let Event::HypervSynic(synic) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    let write = synic.write();
    assert_eq!((write.msr, write.control, write.event_page, write.message_page), (0x4000_0083, 1, 2, 3));
    synic.resume().unwrap();
    assert_eq!(fake.resume(), Default::default());
}

#[test]
fn any_event_can_be_resumed_without_a_look_and_a_read_then_gets_zeros() {
    let (fake, mut vcpu) = running();
    fake.exit(posted_exit(0x80, &[1]));
    vcpu.wait().unwrap().resume().unwrap();
    assert!(fake.is_quiet());
    for (exit, answer) in [
        (Exit::Io(read_exit(0xd000, 3)), &[0, 0, 0][..]),
        (Exit::Io(write_exit(0x70, &[1])), &[]),
        (Exit::User(User { user: 1, ..Default::default() }), &[]),
        (Exit::HypervCall(HypervCall::default()), &[0; 8]),
        (Exit::HypervSynic(HypervSynic::default()), &[]),
    ] {
        fake.exit(exit);
        vcpu.wait().unwrap().resume().unwrap();
        assert_eq!(fake.resume().data, answer);
    }
}

fn set_asked_for(fake: &FakeVcpu) -> StateSet {
    match fake.request() {
        Request::GetState(get) => get.set.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn registers_are_asked_for_by_their_set() {
    let (fake, mut vcpu) = at_init();
    let mut init = init(&mut vcpu);
    fake.answer(state_answer(&with_rax(1)));
    assert_eq!(init.state().regs().unwrap().rax, 1);
    assert_eq!(set_asked_for(&fake), StateSet::REGS);
    fake.answer(state_answer(&with_cr3(2)));
    assert_eq!(init.state().sregs().unwrap().cr3, 2);
    assert_eq!(set_asked_for(&fake), StateSet::SREGS);
    fake.answer(state_answer(&kvm_mp_state { mp_state: 3 }));
    assert_eq!(init.state().mp_state().unwrap().mp_state, 3);
    assert_eq!(set_asked_for(&fake), StateSet::MP);
}

#[test]
fn registers_that_are_set_travel_with_the_resume() {
    let (fake, mut vcpu) = at_init();
    let mut init = init(&mut vcpu);
    let debugregs = kvm_debugregs { dr7: 0x400, ..Default::default() };
    init.state().set_regs(&with_rax(0x1234));
    init.state().set_sregs(&with_cr3(0x5000));
    init.state().set_debugregs(&debugregs);
    assert!(fake.is_quiet());
    init.resume().unwrap();
    let resume = fake.resume();
    assert_eq!(resume.regs, with_rax(0x1234).as_bytes());
    assert_eq!(resume.sregs, with_cr3(0x5000).as_bytes());
    assert_eq!(resume.debugregs, debugregs.as_bytes());
    assert!(resume.data.is_empty());
}

#[test]
fn a_look_at_registers_that_were_set_applies_them_first() {
    let (fake, mut vcpu) = at_init();
    let mut init = init(&mut vcpu);
    init.state().set_regs(&with_rax(1));
    init.state().set_sregs(&with_cr3(2));
    // Two requests in the pipe would be read as one, so they are answered one by one.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Request::SetState(set) = fake.request() else {
                panic!("another request");
            };
            assert_eq!((set.set.unwrap(), &set.state[..]), (StateSet::REGS, with_rax(1).as_bytes()));
            fake.answer(Response::SetState(Default::default()));
            assert_eq!(set_asked_for(&fake), StateSet::REGS);
            fake.answer(state_answer(&with_rax(3)));
        });
        assert_eq!(init.state().regs().unwrap().rax, 3, "as the kernel has made it");
    });
    init.resume().unwrap();
    let resume = fake.resume();
    assert!(resume.regs.is_empty(), "they were applied before");
    assert_eq!(resume.sregs, with_cr3(2).as_bytes());
}

#[test]
fn registers_that_are_refused_when_looked_at_are_forgotten() {
    let (fake, mut vcpu) = at_init();
    let mut init = init(&mut vcpu);
    init.state().set_sregs(&with_cr3(2));
    fake.refuse(22);
    assert_eq!(init.state().sregs().unwrap_err().errno(), Some(22));
    fake.request();
    init.resume().unwrap();
    assert!(fake.resume().sregs.is_empty());
}

#[test]
fn registers_set_in_one_event_are_forgotten_in_the_next() {
    let (fake, mut vcpu) = at_init();
    let mut stopped = init(&mut vcpu);
    stopped.state().set_regs(&with_rax(1));
    stopped.resume().unwrap();
    fake.resume();
    fake.exit(Exit::Io(write_exit(0, &[0])));
    let Event::Write(mut write) = vcpu.wait().unwrap() else {
        panic!("another event");
    };
    fake.answer(state_answer(&with_rax(2)));
    assert_eq!(write.state().regs().unwrap().rax, 2);
    assert!(matches!(fake.request(), Request::GetState(_)));
    write.resume().unwrap();
    assert!(fake.resume().regs.is_empty());
}

#[test]
fn attached_registers_are_known_without_asking_and_not_sent_back() {
    let (fake, mut vcpu) = running();
    fake.exit(Exit::Io(Io {
        regs: with_rax(8).as_bytes().to_vec(),
        sregs: with_cr3(9).as_bytes().to_vec(),
        debugregs: kvm_debugregs { dr6: 10, ..Default::default() }.as_bytes().to_vec(),
        ..read_exit(0, 1)
    }));
    let mut read = read(&mut vcpu);
    assert_eq!(read.state().regs().unwrap().rax, 8);
    assert_eq!(read.state().sregs().unwrap().cr3, 9);
    assert_eq!(read.state().debugregs().unwrap().dr6, 10);
    assert!(fake.is_quiet());
    read.answer(&[0]).unwrap();
    let resume = fake.resume();
    assert!(resume.regs.is_empty() && resume.sregs.is_empty() && resume.debugregs.is_empty());
}

#[test]
fn state_of_a_wrong_size_is_an_error() {
    let (fake, mut vcpu) = at_init();
    fake.answer(state_answer(&[0u8; 3]));
    let state = init(&mut vcpu).state().regs();
    assert!(matches!(state, Err(Error::Unexpected { .. })));
}

#[test]
fn the_mp_state_is_set_at_once() {
    let (fake, mut vcpu) = at_init();
    let mut init = init(&mut vcpu);
    fake.answer(Response::SetState(Default::default()));
    init.state().set_mp_state(&kvm_mp_state { mp_state: 1 }).unwrap();
    let Request::SetState(set) = fake.request() else {
        panic!("another request");
    };
    assert_eq!(set.set.enum_value(), Ok(StateSet::MP));
    assert_eq!(set.state, [1, 0, 0, 0]);
}

#[test]
fn a_refused_request_leaves_the_vcpu_where_it_is() {
    let (fake, mut vcpu) = at_init();
    let mut stopped = init(&mut vcpu);
    fake.refuse(22);
    let error = stopped.state().set_mp_state(&kvm_mp_state { mp_state: 99 }).unwrap_err();
    assert!(matches!(error, Error::Refused { request: "set_state of mp_state", .. }), "{error}");
    fake.request();
    stopped.resume().unwrap();
    fake.resume();
}

#[test]
fn responses_may_come_in_pieces_and_many_at_once() {
    let (fake, mut vcpu) = running();
    let mut bytes = Vec::new();
    let mut response = VcpuResponse::new();
    response.mut_wait().set_io(read_exit(0x10, 2));
    encode_vcpu_response(&response, &mut bytes).unwrap();
    let (start, rest) = bytes.split_at(3);
    fake.exit(posted_exit(0x80, &[1]));
    fake.send_bytes(start);
    assert!(matches!(vcpu.wait(), Ok(Event::Posted(_))));
    fake.send_bytes(rest);
    assert_eq!(read(&mut vcpu).access().address, 0x10);
}

#[test]
fn the_end_of_the_vmm_is_told_apart_from_a_cut_message() {
    let (fake, mut vcpu) = running();
    drop(fake);
    assert!(matches!(vcpu.wait(), Err(Error::Disconnected)));

    let (fake, mut vcpu) = running();
    fake.send_bytes(&[5, 1]);
    drop(fake);
    assert!(matches!(vcpu.wait(), Err(Error::Message(MessageError::Truncated { have: 2, .. }))));
}

#[test]
fn a_resume_after_the_vmms_end_is_disconnected() {
    let (fake, mut vcpu) = at_init();
    drop(fake);
    assert!(matches!(init(&mut vcpu).resume(), Err(Error::Disconnected)));
}

#[test]
fn a_waiting_thread_is_woken_by_the_vmms_end() {
    let (fake, mut vcpu) = FakeVcpu::new();
    let thread = std::thread::spawn(move || vcpu.wait().map(drop));
    assert!(matches!(fake.request(), Request::Wait(_)));
    drop(fake);
    assert!(matches!(thread.join().unwrap(), Err(Error::Disconnected)));
}

/// What `wait` makes of a response in which `exit` stands.
fn error_of(exit: Exit) -> Error {
    let (fake, mut vcpu) = running();
    fake.exit(exit);
    vcpu.wait().map(drop).unwrap_err()
}

#[test]
fn exits_that_make_no_sense_are_errors() {
    let bad_regs = Io { regs: vec![0; 3], ..read_exit(0, 1) };
    let posted_read = Io { no_resume: true, ..read_exit(0, 1) };
    for io in [bad_regs, posted_read] {
        let error = error_of(Exit::Io(io));
        assert!(matches!(error, Error::Unexpected { .. }), "{error}");
    }
    let (fake, mut vcpu) = running();
    fake.answer(Response::SetMsrs(Default::default()));
    assert!(matches!(vcpu.wait(), Err(Error::Unexpected { .. })));
}

#[test]
fn an_address_space_that_nobody_knows_is_an_error() {
    let (fake, mut vcpu) = running();
    // wait { io { space: 7 } }
    fake.send_bytes(&[6, 0x12, 4, 0x12, 2, 0x08, 7]);
    assert!(matches!(vcpu.wait(), Err(Error::Unexpected { .. })));
}

#[test]
fn a_vcpu_may_move_to_another_thread() {
    fn check<T: Send>() {}
    check::<Vcpu>();
}

#[test]
fn events_say_width_and_count_as_the_vmm_reports_them() {
    let (fake, mut vcpu) = running();
    for (width, expected) in [(1, (1, 2)), (2, (2, 1)), (0, (2, 1))] {
        fake.exit(Exit::Io(Io { width, ..read_exit(0x10, 2) }));
        let read = read(&mut vcpu);
        assert_eq!((read.width(), read.count()), expected);
        read.answer(&[0; 2]).unwrap();
        fake.resume();

        fake.exit(Exit::Io(Io { width, ..write_exit(0x10, &[1, 2]) }));
        let Event::Write(write) = vcpu.wait().unwrap() else { panic!("another event") };
        assert_eq!((write.width(), write.count()), expected);
        write.resume().unwrap();
        fake.resume();

        fake.exit(Exit::Io(Io { width, no_resume: true, ..write_exit(0x10, &[1, 2]) }));
        let Event::Posted(posted) = vcpu.wait().unwrap() else { panic!("another event") };
        assert_eq!((posted.width(), posted.count()), expected);
    }
}

#[test]
fn a_width_that_does_not_divide_the_length_is_an_error() {
    for width in [3, 9, u32::MAX] {
        let (fake, mut vcpu) = running();
        fake.exit(Exit::Io(Io { width, ..read_exit(0x10, 4) }));
        assert!(matches!(vcpu.wait(), Err(Error::Unexpected { .. })), "{width}");
    }
}
