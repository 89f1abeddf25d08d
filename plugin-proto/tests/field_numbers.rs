//! Field numbers and types are the contract. This holds the generated messages against a table of their own, written
//! down here a second time, and against bytes that no generator made.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use std::collections::BTreeSet;

use plugin_proto::messages::{self, MainRequest, MainResponse, VcpuRequest, VcpuResponse};
use protobuf::MessageDyn;
use protobuf::reflect::{MessageDescriptor, ReflectFieldRef};

/// Every message with its fields, each `number name kind`. Kinds: `u32 u64 bool s32 f32 (fixed32) bytes enum`, `u32*` and
/// `u64*` for packed lists, and the name of a message, with `*` when repeated.
const MESSAGES: &str = "
CpuidEntry: 1 function u32, 3 has_index bool, 4 index u32, 5 eax u32, 6 ebx u32, 7 ecx u32, 8 edx u32
MainRequest: 1 create MainRequest.Create, 2 destroy MainRequest.Destroy, 3 new_connection MainRequest.NewConnection, 4 get_shutdown_eventfd MainRequest.GetShutdownEventfd, 5 check_extension MainRequest.CheckExtension, 6 get_supported_cpuid MainRequest.CpuidRequest, 7 get_emulated_cpuid MainRequest.CpuidRequest, 8 get_msr_index_list MainRequest.MsrListRequest, 9 get_net_config MainRequest.GetNetConfig, 10 reserve_range MainRequest.ReserveRange, 11 set_irq MainRequest.SetIrq, 12 set_irq_routing MainRequest.SetIrqRouting, 13 get_state MainRequest.GetState, 14 set_state MainRequest.SetState, 15 set_identity_map_addr MainRequest.SetIdentityMapAddr, 16 pause_vcpus MainRequest.PauseVcpus, 17 get_vcpus MainRequest.GetVcpus, 18 start MainRequest.Start, 19 set_call_hint MainRequest.SetCallHint, 101 dirty_log MainRequest.MemoryDirtyLog, 200 negotiate MainRequest.Negotiate, 201 get_vcpu_rings MainRequest.GetVcpuRings
MainRequest.Create: 1 id u32, 2 io_event MainRequest.Create.IoEvent, 3 memory MainRequest.Create.Memory, 4 irq_event MainRequest.Create.IrqEvent
MainRequest.Create.IoEvent: 1 space enum, 2 address u64, 3 length u32, 4 datamatch u64
MainRequest.Create.Memory: 1 offset u64, 2 start u64, 3 length u64, 4 read_only bool, 5 dirty_log bool
MainRequest.Create.IrqEvent: 1 irq_id u32, 2 resample bool
MainRequest.Destroy: 1 id u32
MainRequest.NewConnection:
MainRequest.GetShutdownEventfd:
MainRequest.CheckExtension: 1 extension u32
MainRequest.CpuidRequest:
MainRequest.MsrListRequest:
MainRequest.GetNetConfig:
MainRequest.ReserveRange: 1 space enum, 2 start u64, 3 length u64, 4 async_write bool, 200 coalesce bool
MainRequest.SetIrq: 1 irq_id u32, 2 active bool
MainRequest.SetIrqRouting: 1 routes MainRequest.SetIrqRouting.Route*
MainRequest.SetIrqRouting.Route: 1 irq_id u32, 2 irqchip MainRequest.SetIrqRouting.Route.Irqchip, 3 msi MainRequest.SetIrqRouting.Route.Msi
MainRequest.SetIrqRouting.Route.Irqchip: 1 irqchip u32, 2 pin u32
MainRequest.SetIrqRouting.Route.Msi: 1 address u64, 2 data u32
MainRequest.GetState: 1 set enum
MainRequest.SetState: 1 set enum, 2 state bytes
MainRequest.SetIdentityMapAddr: 1 address u32
MainRequest.PauseVcpus: 1 cpu_mask u64, 2 user u64
MainRequest.GetVcpus:
MainRequest.Start:
MainRequest.SetCallHint: 1 space enum, 2 address u64, 3 on_write bool, 4 hints MainRequest.SetCallHint.RegHint*
MainRequest.SetCallHint.RegHint: 1 match_rax bool, 2 match_rbx bool, 3 match_rcx bool, 4 match_rdx bool, 5 rax u64, 6 rbx u64, 7 rcx u64, 8 rdx u64, 9 send_sregs bool, 10 send_debugregs bool
MainRequest.MemoryDirtyLog: 1 id u32
MainRequest.Negotiate: 1 version u32, 2 features u64
MainRequest.GetVcpuRings: 1 first u32
MainResponse: 1 errno s32, 2 create MainResponse.Create, 3 destroy MainResponse.Destroy, 4 new_connection MainResponse.NewConnection, 5 get_shutdown_eventfd MainResponse.GetShutdownEventfd, 6 check_extension MainResponse.CheckExtension, 7 get_supported_cpuid MainResponse.CpuidResponse, 8 get_emulated_cpuid MainResponse.CpuidResponse, 9 get_msr_index_list MainResponse.MsrListResponse, 10 get_net_config MainResponse.GetNetConfig, 11 reserve_range MainResponse.ReserveRange, 12 set_irq MainResponse.SetIrq, 13 set_irq_routing MainResponse.SetIrqRouting, 14 get_state MainResponse.GetState, 15 set_state MainResponse.SetState, 16 set_identity_map_addr MainResponse.SetIdentityMapAddr, 17 pause_vcpus MainResponse.PauseVcpus, 18 get_vcpus MainResponse.GetVcpus, 19 start MainResponse.Start, 20 set_call_hint MainResponse.SetCallHint, 101 dirty_log MainResponse.MemoryDirtyLog, 200 negotiate MainResponse.Negotiate, 201 get_vcpu_rings MainResponse.GetVcpuRings
MainResponse.Create:
MainResponse.Destroy:
MainResponse.NewConnection:
MainResponse.GetShutdownEventfd:
MainResponse.CheckExtension: 1 has_extension bool
MainResponse.CpuidResponse: 1 entries CpuidEntry*
MainResponse.MsrListResponse: 1 indices u32*
MainResponse.GetNetConfig: 1 host_mac_address bytes, 2 host_ipv4_address f32, 3 netmask f32
MainResponse.ReserveRange:
MainResponse.SetIrq:
MainResponse.SetIrqRouting:
MainResponse.GetState: 1 state bytes
MainResponse.SetState:
MainResponse.SetIdentityMapAddr:
MainResponse.PauseVcpus:
MainResponse.GetVcpus:
MainResponse.Start:
MainResponse.SetCallHint:
MainResponse.MemoryDirtyLog: 1 bitmap bytes
MainResponse.Negotiate: 1 version u32, 2 features u64
MainResponse.GetVcpuRings: 1 vcpus u32
VcpuRequest: 1 wait VcpuRequest.Wait, 2 resume VcpuRequest.Resume, 3 get_state VcpuRequest.GetState, 4 set_state VcpuRequest.SetState, 5 get_msrs VcpuRequest.GetMsrs, 6 set_msrs VcpuRequest.SetMsrs, 7 set_cpuid VcpuRequest.SetCpuid, 8 shutdown VcpuRequest.Shutdown, 9 get_hyperv_cpuid VcpuRequest.CpuidRequest, 10 enable_capability VcpuRequest.EnableCapability
VcpuRequest.Wait:
VcpuRequest.Resume: 1 data bytes, 2 regs bytes, 3 sregs bytes, 4 debugregs bytes
VcpuRequest.GetState: 1 set enum
VcpuRequest.SetState: 1 set enum, 2 state bytes
VcpuRequest.CpuidRequest:
VcpuRequest.GetMsrs: 1 entry_indices u32*
VcpuRequest.MsrEntry: 1 index u32, 2 data u64
VcpuRequest.SetMsrs: 1 entries VcpuRequest.MsrEntry*
VcpuRequest.SetCpuid: 1 entries CpuidEntry*
VcpuRequest.Shutdown:
VcpuRequest.EnableCapability: 1 capability u32
VcpuResponse: 1 errno s32, 2 wait VcpuResponse.Wait, 4 get_state VcpuResponse.GetState, 5 set_state VcpuResponse.SetState, 6 get_msrs VcpuResponse.GetMsrs, 7 set_msrs VcpuResponse.SetMsrs, 8 set_cpuid VcpuResponse.SetCpuid, 9 get_hyperv_cpuid VcpuResponse.CpuidResponse, 10 enable_capability VcpuResponse.EnableCapability
VcpuResponse.Wait: 1 init VcpuResponse.Wait.Init, 2 io VcpuResponse.Wait.Io, 3 user VcpuResponse.Wait.User, 4 hyperv_call VcpuResponse.Wait.HypervCall, 5 hyperv_synic VcpuResponse.Wait.HypervSynic
VcpuResponse.Wait.Init:
VcpuResponse.Wait.Io: 1 space enum, 2 address u64, 3 is_write bool, 4 no_resume bool, 5 data bytes, 6 regs bytes, 7 sregs bytes, 8 debugregs bytes, 200 width u32
VcpuResponse.Wait.User: 1 user u64
VcpuResponse.Wait.HypervCall: 1 input u64, 2 params0 u64, 3 params1 u64
VcpuResponse.Wait.HypervSynic: 1 msr u32, 2 control u64, 3 evt_page u64, 4 msg_page u64
VcpuResponse.GetState: 1 state bytes
VcpuResponse.SetState:
VcpuResponse.CpuidResponse: 1 entries CpuidEntry*
VcpuResponse.GetMsrs: 1 entry_data u64*
VcpuResponse.SetMsrs:
VcpuResponse.SetCpuid:
VcpuResponse.EnableCapability:
";

/// Every enum with its values.
const ENUMS: &str = "
AddressSpace: IOPORT 0, MMIO 1
MainRequest.StateSet: PIC0 0, PIC1 1, IOAPIC 2, PIT 3, CLOCK 4
VcpuRequest.StateSet: REGS 0, SREGS 1, FPU 2, DEBUGREGS 3, LAPIC 4, MP 5, XCREGS 6, EVENTS 7
";

/// The lines of a table, as name and entries.
fn rows(table: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    table.trim().lines().map(|line| {
        let (name, entries) = line.split_once(':').unwrap();
        let entries = entries.trim();
        let entries = if entries.is_empty() { Vec::new() } else { entries.split(", ").collect() };
        (name, entries)
    })
}

/// The bytes of a field of the kind with a telling value, and that value as reflection shows it.
fn sample(number: u8, kind: &str) -> (Vec<u8>, String) {
    let tag = |wire_type: u8| {
        let tag = u16::from(number) << 3 | u16::from(wire_type);
        if tag < 0x80 { vec![tag as u8] } else { vec![tag as u8 | 0x80, (tag >> 7) as u8] }
    };
    let field = |wire_type, value: &[u8]| [&tag(wire_type), value].concat();
    match kind {
        "u32" => (field(0, b"\xff\xff\xff\xff\x0f"), "U32(4294967295)".into()),
        "u64" => (field(0, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "U64(18446744073709551615)".into()),
        "bool" => (field(0, b"\x01"), "Bool(true)".into()),
        // Zigzag: -2 is 3.
        "s32" => (field(0, b"\x03"), "I32(-2)".into()),
        "f32" => (field(5, b"\x64\x73\x5c\x05"), "U32(89944932)".into()),
        "bytes" => (field(2, b"\x03abc"), "Bytes([97, 98, 99])".into()),
        "enum" => (field(0, b"\x01"), "1".into()),
        "u32*" => (field(2, b"\x02\x01\x02"), "[U32(1), U32(2)]".into()),
        "u64*" => (field(2, b"\x02\x01\x02"), "[U64(1), U64(2)]".into()),
        list if list.ends_with('*') => {
            ([field(2, b"\x00"), field(2, b"\x00")].concat(), format!("2 {}", list.trim_end_matches('*')))
        }
        message => (field(2, b"\x00"), format!("1 {message}")),
    }
}

/// The value of a field, in the words of [`sample`].
fn shown(message: &dyn MessageDyn, descriptor: &MessageDescriptor, name: &str) -> String {
    use protobuf::reflect::{ReflectValueRef, RuntimeType};
    let path = |descriptor: &MessageDescriptor| descriptor.name_to_package().to_owned();
    let field = descriptor.field_by_name(name).unwrap();
    match field.get_reflect(message) {
        ReflectFieldRef::Repeated(list) => match list.element_type() {
            RuntimeType::Message(element) => format!("{} {}", list.len(), path(&element)),
            _ => format!("{:?}", list.into_iter().collect::<Vec<_>>()),
        },
        ReflectFieldRef::Optional(value) => match value.value() {
            None => "nothing".into(),
            Some(ReflectValueRef::Message(inner)) => format!("1 {}", path(&inner.descriptor_dyn())),
            Some(ReflectValueRef::Enum(_, value)) => value.to_string(),
            Some(value) => format!("{value:?}"),
        },
        ReflectFieldRef::Map(_) => unreachable!("proto has no maps"),
    }
}

#[test]
fn every_field_is_read_and_written_under_its_number_and_type() {
    let file = messages::file_descriptor();
    for (name, fields) in rows(MESSAGES) {
        let descriptor = file.message_by_package_relative_name(name).unwrap();
        for field in &fields {
            let [number, field_name, kind] = field.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{name}: {field}");
            };
            let (bytes, value) = sample(number.parse().unwrap(), kind);
            let message = descriptor.parse_from_bytes(&bytes).unwrap();
            assert_eq!(shown(&*message, &descriptor, field_name), value, "{name}.{field_name}");
            assert_eq!(message.write_to_bytes_dyn().unwrap(), bytes, "{name}.{field_name}");
        }
        assert_eq!(descriptor.fields().count(), fields.len(), "fields of {name}");
    }
}

#[test]
fn the_table_names_every_message_there_is() {
    fn collect(message: &MessageDescriptor, names: &mut BTreeSet<String>) {
        names.insert(message.name_to_package().to_owned());
        message.nested_messages().for_each(|inner| collect(&inner, names));
    }
    let mut names = BTreeSet::new();
    messages::file_descriptor().messages().for_each(|message| collect(&message, &mut names));
    let table: BTreeSet<_> = rows(MESSAGES).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, table);
}

#[test]
fn every_enum_value_has_its_number() {
    let file = messages::file_descriptor();
    for (name, values) in rows(ENUMS) {
        let descriptor = file.enum_by_package_relative_name(name).unwrap();
        let generated: Vec<_> =
            descriptor.values().map(|value| format!("{} {}", value.name(), value.value())).collect();
        assert_eq!(generated, values, "{name}");
    }
}

#[test]
fn alternatives_exclude_each_other() {
    for (message, names) in [
        ("MainRequest", "message"),
        ("MainRequest.Create", "constructor"),
        ("MainRequest.SetIrqRouting.Route", "route"),
        ("MainResponse", "message"),
        ("VcpuRequest", "message"),
        ("VcpuResponse", "message"),
        ("VcpuResponse.Wait", "exit"),
    ] {
        let descriptor = messages::file_descriptor().message_by_package_relative_name(message).unwrap();
        let of_messages = rows(MESSAGES)
            .find(|(name, _)| *name == message)
            .map(|(_, fields)| fields.iter().filter(|field| field.contains('.')).count());
        let oneof = descriptor.oneof_by_name(names).unwrap();
        assert_eq!(Some(oneof.fields().count()), of_messages, "{message}");
    }
}

#[test]
fn whole_messages_are_the_bytes_worked_out_by_hand() {
    use messages::{AddressSpace, main_request, main_response, vcpu_request, vcpu_response};
    use protobuf::Message;

    let mut request = MainRequest::new();
    request.set_create(main_request::Create {
        id: 7,
        constructor: Some(main_request::create::Constructor::Memory(main_request::create::Memory {
            start: 0x1000,
            length: 0x2000,
            read_only: true,
            ..Default::default()
        })),
        ..Default::default()
    });
    assert_eq!(request.write_to_bytes().unwrap(), b"\x0a\x0c\x08\x07\x1a\x08\x10\x80\x20\x18\x80\x40\x20\x01");

    let mut response = MainResponse::new();
    response.set_get_net_config(main_response::GetNetConfig {
        host_mac_address: vec![2, 0, 0, 0, 0, 1],
        host_ipv4_address: 0x055c_7364,
        netmask: 0x00ff_ffff,
        ..Default::default()
    });
    assert_eq!(
        response.write_to_bytes().unwrap(),
        b"\x52\x12\x0a\x06\x02\x00\x00\x00\x00\x01\x15\x64\x73\x5c\x05\x1d\xff\xff\xff\x00"
    );

    let mut request = VcpuRequest::new();
    request.set_resume(vcpu_request::Resume { data: vec![0x61], ..Default::default() });
    assert_eq!(request.write_to_bytes().unwrap(), b"\x12\x03\x0a\x01\x61");

    let mut response = VcpuResponse::new();
    response.mut_wait().set_io(vcpu_response::wait::Io {
        space: AddressSpace::MMIO.into(),
        address: 0xfee0_0000,
        is_write: true,
        data: vec![1, 2, 3, 4],
        ..Default::default()
    });
    assert_eq!(
        response.write_to_bytes().unwrap(),
        b"\x12\x12\x12\x10\x08\x01\x10\x80\x80\x80\xf7\x0f\x18\x01\x2a\x04\x01\x02\x03\x04"
    );

    let refused = MainResponse { errno: 1, ..Default::default() };
    assert_eq!(refused.write_to_bytes().unwrap(), b"\x08\x02");
}

#[test]
fn the_exit_that_the_reference_shows_has_those_bytes() {
    use messages::{vcpu_request, vcpu_response};
    use plugin_proto::{encode_vcpu_request, encode_vcpu_response};

    let mut bytes = Vec::new();
    let mut exit = VcpuResponse::new();
    exit.mut_wait().set_io(vcpu_response::wait::Io { address: 0x10, data: vec![0], ..Default::default() });
    encode_vcpu_response(&exit, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x09\x12\x07\x12\x05\x10\x10\x2a\x01\x00");

    let mut get = VcpuRequest::new();
    get.set_get_state(vcpu_request::GetState::new());
    encode_vcpu_request(&get, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x1a\x00");

    let mut regs = VcpuResponse::new();
    regs.mut_get_state().state = vec![0xaa; 144];
    encode_vcpu_response(&regs, &mut bytes).unwrap();
    assert_eq!(bytes[..8], *b"\x96\x01\x22\x93\x01\x0a\x90\x01");
    assert_eq!(bytes[8..], [0xaa; 144]);

    let mut resume = VcpuRequest::new();
    resume.mut_resume().data = vec![0x61];
    encode_vcpu_request(&resume, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x12\x03\x0a\x01\x61");
}
