//! The state of a vCPU that is stopped, past its registers, against a VMM that the test plays.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use plugin_proto::messages::CpuidEntry;
use plugin_proto::messages::vcpu_request::{Message as Request, StateSet};
use plugin_proto::messages::vcpu_response::{CpuidResponse, GetMsrs, GetState, Message as Response};
use plugin_sdk::{
    Capability, Error, Event, State, Vcpu, kvm_cpuid_entry2, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_vcpu_events, kvm_xcrs,
};
use support::FakeVcpu;
use zerocopy::IntoBytes;

/// What `call` returns when the VMM answers with `response`, and what it asked.
fn ask<T>(response: Response, call: impl FnOnce(&mut State<'_>) -> Result<T, Error>) -> (T, Request) {
    let (result, request) = try_ask(response, call);
    (result.unwrap(), request)
}

fn try_ask<T>(
    response: Response,
    call: impl FnOnce(&mut State<'_>) -> Result<T, Error>,
) -> (Result<T, Error>, Request) {
    let (fake, mut vcpu): (FakeVcpu, Vcpu) = FakeVcpu::new();
    fake.init();
    let Ok(Event::Init(mut init)) = vcpu.wait() else {
        panic!("another event");
    };
    fake.request();
    fake.answer(response);
    let result = call(init.state());
    (result, fake.request())
}

/// Sees that `get` asks for `set` and is answered with `bytes`, and that `set_it` sends them, at once.
fn check_state<T>(
    set: StateSet,
    bytes: &[u8],
    get: impl FnOnce(&mut State<'_>) -> Result<T, Error>,
    set_it: impl FnOnce(&mut State<'_>, &T) -> Result<(), Error>,
) {
    let answer = GetState { state: bytes.to_vec(), ..Default::default() };
    let (state, request) = ask(Response::GetState(answer), get);
    let Request::GetState(sent) = request else {
        panic!("another request");
    };
    assert_eq!(sent.set.enum_value(), Ok(set));
    let (_, request) = ask(Response::SetState(Default::default()), |s| set_it(s, &state));
    let Request::SetState(sent) = request else {
        panic!("another request");
    };
    assert_eq!((sent.set.enum_value(), &sent.state[..]), (Ok(set), bytes));
}

#[test]
fn state_is_the_kernels_structure_and_is_set_at_once() {
    let xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    check_state(StateSet::XCREGS, xcrs.as_bytes(), |s| s.xcrs(), |s, state| s.set_xcrs(state));
    let mut lapic = kvm_lapic_state::default();
    lapic.regs[0x20] = 5;
    check_state(StateSet::LAPIC, lapic.as_bytes(), |s| s.lapic(), |s, state| s.set_lapic(state));
    let mp_state = kvm_mp_state { mp_state: 3 };
    check_state(StateSet::MP, mp_state.as_bytes(), |s| s.mp_state(), |s, state| s.set_mp_state(state));
    let events = kvm_vcpu_events { sipi_vector: 9, ..Default::default() };
    check_state(StateSet::EVENTS, events.as_bytes(), |s| s.vcpu_events(), |s, state| s.set_vcpu_events(state));
}

/// Each byte is another, so that a field in the wrong place shows.
#[test]
fn the_fpus_registers_keep_their_bytes() {
    let bytes: Vec<u8> = (0..size_of::<kvm_fpu>()).map(|n| (n % 251) as u8).collect();
    check_state(StateSet::FPU, &bytes, |s| s.fpu(), |s, state| s.set_fpu(state));
    let answer = GetState { state: bytes, ..Default::default() };
    let (fpu, _) = ask(Response::GetState(answer), |s| s.fpu());
    assert_eq!(fpu.fcw, u16::from_ne_bytes([128, 129]));
    assert_eq!(fpu.xmm[0][0], 152);
}

#[test]
fn msrs_come_in_order_up_to_the_first_unknown() {
    let answer = GetMsrs { entry_data: vec![7, 8], ..Default::default() };
    let (values, request) = ask(Response::GetMsrs(answer), |s| s.msrs(&[0x10, 0x174, 0xffff]));
    assert_eq!(values, [7, 8]);
    let Request::GetMsrs(get) = request else {
        panic!("another request");
    };
    assert_eq!(get.entry_indices, [0x10, 0x174, 0xffff]);

    let answer = GetMsrs { entry_data: vec![7, 8], ..Default::default() };
    let (too_many, _) = try_ask(Response::GetMsrs(answer), |s| s.msrs(&[0x10]));
    assert!(matches!(too_many, Err(Error::Unexpected { .. })));
}

#[test]
fn msrs_are_set_by_number_and_value() {
    let entries = [kvm_msr_entry { index: 0x174, data: 8, ..Default::default() }];
    let (_, request) = ask(Response::SetMsrs(Default::default()), |s| s.set_msrs(&entries));
    let Request::SetMsrs(set) = request else {
        panic!("another request");
    };
    let sent: Vec<_> = set.entries.iter().map(|entry| (entry.index, entry.data)).collect();
    assert_eq!(sent, [(0x174, 8)]);
}

#[test]
fn cpuid_entries_are_sent_with_the_index_where_it_counts() {
    let entries = [
        kvm_cpuid_entry2 { function: 4, index: 2, flags: 1, eax: 9, ..Default::default() },
        kvm_cpuid_entry2 { function: 1, ..Default::default() },
    ];
    let (_, request) = ask(Response::SetCpuid(Default::default()), |s| s.set_cpuid(&entries));
    let Request::SetCpuid(set) = request else {
        panic!("another request");
    };
    let with_index = CpuidEntry { function: 4, has_index: true, index: 2, eax: 9, ..Default::default() };
    assert_eq!(set.entries, [with_index, CpuidEntry { function: 1, ..Default::default() }]);
}

#[test]
fn hyperv_cpuid_entries_are_the_kernels() {
    let entry = CpuidEntry { function: 0x4000_0001, eax: 0x3123_7648, ..Default::default() };
    let answer = CpuidResponse { entries: vec![entry], ..Default::default() };
    let (entries, request) = ask(Response::GetHypervCpuid(answer), |s| s.hyperv_cpuid());
    assert_eq!(entries, [kvm_cpuid_entry2 { function: 0x4000_0001, eax: 0x3123_7648, ..Default::default() }]);
    assert!(matches!(request, Request::GetHypervCpuid(_)));
}

#[test]
fn a_capability_has_the_kernels_number() {
    for (capability, number) in [(Capability::HypervSynic, 123), (Capability::HypervSynic2, 148)] {
        assert_eq!(Capability::try_from(number).unwrap(), capability);
        let answer = Response::EnableCapability(Default::default());
        let (_, request) = ask(answer, |s| s.enable_capability(capability));
        let Request::EnableCapability(enable) = request else {
            panic!("another request");
        };
        assert_eq!(enable.capability, number);
    }
    assert!(matches!(Capability::try_from(1), Err(Error::UnknownNumber { number: 1, .. })));
}
