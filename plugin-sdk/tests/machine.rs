//! Queries, interrupts, chips and hints, against a VMM that the test plays.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::os::fd::AsFd;

use plugin_proto::messages::main_request::set_irq_routing::route::{Irqchip as WirePin, Msi, Route as WireTarget};
use plugin_proto::messages::main_request::{Message as Request, StateSet};
use plugin_proto::messages::main_response::{
    CheckExtension, CpuidResponse, GetNetConfig, GetState, Message as Response, MsrListResponse,
};
use plugin_proto::messages::{AddressSpace as Space, CpuidEntry};
use plugin_sdk::{
    AddressSpace, CallHint, Connection, Direction, Error, HintDetail, Irqchip, Pic, Route, RouteTarget, kvm_clock_data,
    kvm_cpuid_entry2, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2,
};
use support::FakeVmm;
use zerocopy::{Immutable, IntoBytes};

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`
const INDEX_COUNTS: u32 = 1;

/// What `call` returns when the VMM answers with `response`, and what it asked.
fn ask<T>(response: Response, call: impl FnOnce(&mut Connection) -> Result<T, Error>) -> (T, Request) {
    let (vmm, mut connection) = FakeVmm::new();
    vmm.answer(response, &[]);
    let returned = call(&mut connection).unwrap();
    (returned, vmm.request().0)
}

#[test]
fn an_extension_is_there_or_not() {
    for there in [true, false] {
        let answer = CheckExtension { has_extension: there, ..Default::default() };
        let (said, request) = ask(Response::CheckExtension(answer), |connection| connection.check_extension(123));
        assert_eq!(said, there);
        let Request::CheckExtension(check) = request else {
            panic!("another request");
        };
        assert_eq!(check.extension, 123);
    }
}

#[test]
fn cpuid_entries_are_the_kernels() {
    let wire =
        CpuidEntry { function: 7, has_index: true, index: 1, eax: 2, ebx: 3, ecx: 4, edx: 5, ..Default::default() };
    let plain = CpuidEntry { function: 1, index: 9, ..Default::default() };
    let answer = CpuidResponse { entries: vec![wire, plain], ..Default::default() };
    let with_index = kvm_cpuid_entry2 {
        function: 7,
        index: 1,
        flags: INDEX_COUNTS,
        eax: 2,
        ebx: 3,
        ecx: 4,
        edx: 5,
        ..Default::default()
    };
    let without_index = kvm_cpuid_entry2 { function: 1, ..Default::default() };

    let (entries, request) = ask(Response::GetSupportedCpuid(answer.clone()), Connection::supported_cpuid);
    assert_eq!(entries, [with_index, without_index]);
    assert!(matches!(request, Request::GetSupportedCpuid(_)));
    let (entries, request) = ask(Response::GetEmulatedCpuid(answer), Connection::emulated_cpuid);
    assert_eq!(entries, [with_index, without_index]);
    assert!(matches!(request, Request::GetEmulatedCpuid(_)));
}

#[test]
fn msr_indices_come_as_they_are() {
    let answer = MsrListResponse { indices: vec![0x10, 0xc000_0080], ..Default::default() };
    let (indices, request) = ask(Response::GetMsrIndexList(answer), Connection::msr_indices);
    assert_eq!(indices, [0x10, 0xc000_0080]);
    assert!(matches!(request, Request::GetMsrIndexList(_)));
}

#[test]
fn the_network_has_its_addresses_in_reading_order_and_its_tap() {
    let (vmm, mut connection) = FakeVmm::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // The protocol's own example.
    let answer = GetNetConfig {
        host_mac_address: vec![1, 2, 3, 4, 5, 6],
        host_ipv4_address: 0x055c_7364,
        netmask: 0x00ff_ffff,
        ..Default::default()
    };
    vmm.answer(Response::GetNetConfig(answer.clone()), &[reader.as_fd()]);
    let net = connection.net_config().unwrap();
    assert_eq!(net.host_mac, [1, 2, 3, 4, 5, 6]);
    assert_eq!(net.host_ip, Ipv4Addr::new(100, 115, 92, 5));
    assert_eq!(net.netmask, Ipv4Addr::new(255, 255, 255, 0));
    rustix::io::write(&writer, b"!").unwrap();
    assert_eq!(rustix::io::read(&net.tap, &mut [0]), Ok(1));

    vmm.answer(Response::GetNetConfig(answer.clone()), &[]);
    assert!(matches!(connection.net_config(), Err(Error::Unexpected { .. })), "no tap");
    let answer = GetNetConfig { host_mac_address: vec![1, 2], ..answer };
    vmm.answer(Response::GetNetConfig(answer), &[reader.as_fd()]);
    assert!(matches!(connection.net_config(), Err(Error::Unexpected { .. })), "no MAC address");
}

#[test]
fn a_line_is_set_by_its_number() {
    let (_, request) = ask(Response::SetIrq(Default::default()), |connection| connection.set_irq(11, true));
    let Request::SetIrq(set) = request else {
        panic!("another request");
    };
    assert_eq!((set.irq_id, set.active), (11, true));
}

#[test]
fn routes_lead_to_pins_or_are_messages() {
    let routes = [
        Route { gsi: 4, target: RouteTarget::Pin { chip: Irqchip::Pic(Pic::Secondary), pin: 3 } },
        Route { gsi: 4, target: RouteTarget::Pin { chip: Irqchip::Ioapic, pin: 20 } },
        Route { gsi: 30, target: RouteTarget::Msi { address: 0xfee0_0000, data: 0x41 } },
    ];
    let answer = Response::SetIrqRouting(Default::default());
    let (_, request) = ask(answer, |connection| connection.set_irq_routing(&routes));
    let Request::SetIrqRouting(sent) = request else {
        panic!("another request");
    };
    let pin = |irqchip, pin| Some(WireTarget::Irqchip(WirePin { irqchip, pin, ..Default::default() }));
    let msi = Some(WireTarget::Msi(Msi { address: 0xfee0_0000, data: 0x41, ..Default::default() }));
    let sent: Vec<_> = sent.routes.into_iter().map(|route| (route.irq_id, route.route)).collect();
    assert_eq!(sent, [(4, pin(1, 3)), (4, pin(2, 20)), (30, msi)]);
}

#[test]
fn an_interrupt_controller_has_the_kernels_number() {
    assert_eq!(Irqchip::try_from(0).unwrap(), Irqchip::Pic(Pic::Primary));
    assert_eq!(Irqchip::try_from(1).unwrap(), Irqchip::Pic(Pic::Secondary));
    assert_eq!(Irqchip::try_from(2).unwrap(), Irqchip::Ioapic);
    assert!(matches!(Irqchip::try_from(3), Err(Error::UnknownNumber { number: 3, .. })));
}

/// Sees that `get` asks for `set` and returns `state`, and that `set_it` sends it.
fn check_state<T: IntoBytes + Immutable>(
    set: StateSet,
    state: &T,
    get: impl FnOnce(&mut Connection) -> Result<T, Error>,
    set_it: impl FnOnce(&mut Connection, &T) -> Result<(), Error>,
) {
    let answer = GetState { state: state.as_bytes().to_vec(), ..Default::default() };
    let (got, request) = ask(Response::GetState(answer), get);
    assert_eq!(got.as_bytes(), state.as_bytes());
    let Request::GetState(sent) = request else {
        panic!("another request");
    };
    assert_eq!(sent.set.enum_value(), Ok(set));

    let (_, request) = ask(Response::SetState(Default::default()), |connection| set_it(connection, state));
    let Request::SetState(sent) = request else {
        panic!("another request");
    };
    assert_eq!((sent.set.enum_value(), &sent.state[..]), (Ok(set), state.as_bytes()));
}

#[test]
fn the_state_of_chips_is_the_kernels_structure() {
    let pic = kvm_pic_state { imr: 0xef, ..Default::default() };
    for (chip, set) in [(Pic::Primary, StateSet::PIC0), (Pic::Secondary, StateSet::PIC1)] {
        check_state(set, &pic, |c| c.pic(chip), |c, state| c.set_pic(chip, state));
    }
    let ioapic = kvm_ioapic_state { base_address: 0xfec0_0000, ..Default::default() };
    check_state(StateSet::IOAPIC, &ioapic, Connection::ioapic, Connection::set_ioapic);
    let pit = kvm_pit_state2 { flags: 1, ..Default::default() };
    check_state(StateSet::PIT, &pit, Connection::pit, Connection::set_pit);
    let clock = kvm_clock_data { clock: 77, ..Default::default() };
    check_state(StateSet::CLOCK, &clock, Connection::clock, Connection::set_clock);
}

#[test]
fn state_of_a_wrong_size_is_an_error() {
    let (vmm, mut connection) = FakeVmm::new();
    vmm.answer(Response::GetState(GetState { state: vec![0; 3], ..Default::default() }), &[]);
    assert!(matches!(connection.ioapic(), Err(Error::Unexpected { .. })));
}

#[test]
fn the_identity_map_is_where_it_was_said() {
    let answer = Response::SetIdentityMapAddr(Default::default());
    let (_, request) = ask(answer, |connection| connection.set_identity_map_address(0xfeff_c000));
    let Request::SetIdentityMapAddr(set) = request else {
        panic!("another request");
    };
    assert_eq!(set.address, 0xfeff_c000);
}

#[test]
fn a_hint_matches_the_registers_that_have_a_value() {
    let detail = HintDetail { rax: Some(0), rcx: Some(7), sregs: true, ..Default::default() };
    let hint = CallHint {
        space: AddressSpace::Mmio,
        address: NonZeroU64::new(0xd000).unwrap(),
        direction: Direction::Write,
        details: vec![detail, HintDetail { debugregs: true, ..Default::default() }],
    };
    let (_, request) = ask(Response::SetCallHint(Default::default()), |connection| connection.set_call_hint(&hint));
    let Request::SetCallHint(sent) = request else {
        panic!("another request");
    };
    assert_eq!((sent.space.unwrap(), sent.address, sent.on_write), (Space::MMIO, 0xd000, true));
    let [first, second] = &sent.hints[..] else {
        panic!("another number of details");
    };
    assert_eq!((first.match_rax, first.match_rbx, first.match_rcx, first.match_rdx), (true, false, true, false));
    assert_eq!((first.rax, first.rcx, first.send_sregs, first.send_debugregs), (0, 7, true, false));
    assert!(!(second.match_rax || second.send_sregs) && second.send_debugregs);
}

#[test]
fn a_hint_is_taken_away_by_address_0() {
    let (_, request) = ask(Response::SetCallHint(Default::default()), Connection::remove_call_hint);
    assert_eq!(request, Request::SetCallHint(Default::default()));
}
