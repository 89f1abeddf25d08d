//! proptest strategies for every message of the protocol, for tests of either side.
//!
//! Enum fields hold known and unknown values alike, byte strings and lists are short, and a message may have no
//! alternative of its `oneof` set: whatever can be on the wire, in small.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use protobuf::{Enum, EnumOrUnknown};

use crate::messages::{
    AddressSpace, CpuidEntry, MainRequest, MainResponse, VcpuRequest, VcpuResponse, main_request, main_response,
    vcpu_request, vcpu_response,
};

/// Builds a strategy for a message from one strategy a field.
macro_rules! message {
    ($type:ty { $($field:ident : $strategy:expr),* $(,)? }) => {{
        ($($strategy,)*).prop_map(|($($field,)*)| {
            let mut message = <$type>::new();
            $(message.$field = $field;)*
            message
        })
    }};
}

/// Any request on a main socket.
pub fn main_request() -> impl Strategy<Value = MainRequest> {
    message!(MainRequest { message: weighted(0.98, main_request_message()) })
}

/// Any response on a main socket.
pub fn main_response() -> impl Strategy<Value = MainResponse> {
    message!(MainResponse { errno: any::<i32>(), message: weighted(0.98, main_response_message()) })
}

/// Any request on a vCPU's pipe.
pub fn vcpu_request() -> impl Strategy<Value = VcpuRequest> {
    message!(VcpuRequest { message: weighted(0.98, vcpu_request_message()) })
}

/// Any response on a vCPU's pipe.
pub fn vcpu_response() -> impl Strategy<Value = VcpuResponse> {
    message!(VcpuResponse { errno: any::<i32>(), message: weighted(0.98, vcpu_response_message()) })
}

/// Any alternative of a main request.
pub fn main_request_message() -> impl Strategy<Value = main_request::Message> {
    use main_request::{
        CheckExtension, Destroy, GetState, GetVcpuRings, MemoryDirtyLog, Message, Negotiate, PauseVcpus, ReserveRange,
        SetIdentityMapAddr, SetIrq, SetIrqRouting, SetState, StateSet,
    };
    prop_oneof![
        create().prop_map(Message::Create),
        message!(Destroy { id: any::<u32>() }).prop_map(Message::Destroy),
        Just(Message::NewConnection(Default::default())),
        Just(Message::GetShutdownEventfd(Default::default())),
        message!(CheckExtension { extension: any::<u32>() }).prop_map(Message::CheckExtension),
        Just(Message::GetSupportedCpuid(Default::default())),
        Just(Message::GetEmulatedCpuid(Default::default())),
        Just(Message::GetMsrIndexList(Default::default())),
        Just(Message::GetNetConfig(Default::default())),
        message!(ReserveRange {
            space: enumeration::<AddressSpace>(),
            start: any::<u64>(),
            length: any::<u64>(),
            async_write: any::<bool>(),
            coalesce: any::<bool>(),
        })
        .prop_map(Message::ReserveRange),
        message!(SetIrq { irq_id: any::<u32>(), active: any::<bool>() }).prop_map(Message::SetIrq),
        message!(SetIrqRouting { routes: vec(route(), 0..8) }).prop_map(Message::SetIrqRouting),
        message!(GetState { set: enumeration::<StateSet>() }).prop_map(Message::GetState),
        message!(SetState { set: enumeration::<StateSet>(), state: data() }).prop_map(Message::SetState),
        message!(SetIdentityMapAddr { address: any::<u32>() }).prop_map(Message::SetIdentityMapAddr),
        message!(PauseVcpus { cpu_mask: any::<u64>(), user: any::<u64>() }).prop_map(Message::PauseVcpus),
        Just(Message::GetVcpus(Default::default())),
        Just(Message::Start(Default::default())),
        call_hint().prop_map(Message::SetCallHint),
        message!(MemoryDirtyLog { id: any::<u32>() }).prop_map(Message::DirtyLog),
        message!(Negotiate { version: any::<u32>(), features: any::<u64>() }).prop_map(Message::Negotiate),
        message!(GetVcpuRings { first: any::<u32>() }).prop_map(Message::GetVcpuRings),
    ]
}

/// Any alternative of a main response.
pub fn main_response_message() -> impl Strategy<Value = main_response::Message> {
    use main_response::{
        CheckExtension, CpuidResponse, GetNetConfig, GetState, GetVcpuRings, MemoryDirtyLog, Message, MsrListResponse,
        Negotiate,
    };
    let cpuid = || message!(CpuidResponse { entries: vec(cpuid_entry(), 0..8) });
    prop_oneof![
        Just(Message::Create(Default::default())),
        Just(Message::Destroy(Default::default())),
        Just(Message::NewConnection(Default::default())),
        Just(Message::GetShutdownEventfd(Default::default())),
        message!(CheckExtension { has_extension: any::<bool>() }).prop_map(Message::CheckExtension),
        cpuid().prop_map(Message::GetSupportedCpuid),
        cpuid().prop_map(Message::GetEmulatedCpuid),
        message!(MsrListResponse { indices: vec(any::<u32>(), 0..16) }).prop_map(Message::GetMsrIndexList),
        message!(GetNetConfig { host_mac_address: data(), host_ipv4_address: any::<u32>(), netmask: any::<u32>() })
            .prop_map(Message::GetNetConfig),
        Just(Message::ReserveRange(Default::default())),
        Just(Message::SetIrq(Default::default())),
        Just(Message::SetIrqRouting(Default::default())),
        message!(GetState { state: data() }).prop_map(Message::GetState),
        Just(Message::SetState(Default::default())),
        Just(Message::SetIdentityMapAddr(Default::default())),
        Just(Message::PauseVcpus(Default::default())),
        Just(Message::GetVcpus(Default::default())),
        Just(Message::Start(Default::default())),
        Just(Message::SetCallHint(Default::default())),
        message!(MemoryDirtyLog { bitmap: data() }).prop_map(Message::DirtyLog),
        message!(Negotiate { version: any::<u32>(), features: any::<u64>() }).prop_map(Message::Negotiate),
        message!(GetVcpuRings { vcpus: any::<u32>() }).prop_map(Message::GetVcpuRings),
    ]
}

/// Any alternative of a vCPU request.
pub fn vcpu_request_message() -> impl Strategy<Value = vcpu_request::Message> {
    use vcpu_request::{
        EnableCapability, GetMsrs, GetState, Message, MsrEntry, Resume, SetCpuid, SetMsrs, SetState, StateSet,
    };
    let msr = || message!(MsrEntry { index: any::<u32>(), data: any::<u64>() });
    prop_oneof![
        Just(Message::Wait(Default::default())),
        message!(Resume { data: data(), regs: data(), sregs: data(), debugregs: data() }).prop_map(Message::Resume),
        message!(GetState { set: enumeration::<StateSet>() }).prop_map(Message::GetState),
        message!(SetState { set: enumeration::<StateSet>(), state: data() }).prop_map(Message::SetState),
        message!(GetMsrs { entry_indices: vec(any::<u32>(), 0..16) }).prop_map(Message::GetMsrs),
        message!(SetMsrs { entries: vec(msr(), 0..8) }).prop_map(Message::SetMsrs),
        message!(SetCpuid { entries: vec(cpuid_entry(), 0..8) }).prop_map(Message::SetCpuid),
        Just(Message::Shutdown(Default::default())),
        Just(Message::GetHypervCpuid(Default::default())),
        message!(EnableCapability { capability: any::<u32>() }).prop_map(Message::EnableCapability),
    ]
}

/// Any alternative of a vCPU response.
pub fn vcpu_response_message() -> impl Strategy<Value = vcpu_response::Message> {
    use vcpu_response::{CpuidResponse, GetMsrs, GetState, Message, Wait};
    prop_oneof![
        message!(Wait { exit: weighted(0.98, exit()) }).prop_map(Message::Wait),
        message!(GetState { state: data() }).prop_map(Message::GetState),
        Just(Message::SetState(Default::default())),
        message!(GetMsrs { entry_data: vec(any::<u64>(), 0..16) }).prop_map(Message::GetMsrs),
        Just(Message::SetMsrs(Default::default())),
        Just(Message::SetCpuid(Default::default())),
        message!(CpuidResponse { entries: vec(cpuid_entry(), 0..8) }).prop_map(Message::GetHypervCpuid),
        Just(Message::EnableCapability(Default::default())),
    ]
}

/// Any reason for which a vCPU may have stopped.
pub fn exit() -> impl Strategy<Value = vcpu_response::wait::Exit> {
    use vcpu_response::wait::{Exit, HypervCall, HypervSynic, Io, User};
    prop_oneof![
        Just(Exit::Init(Default::default())),
        message!(Io {
            space: enumeration::<AddressSpace>(),
            address: any::<u64>(),
            is_write: any::<bool>(),
            no_resume: any::<bool>(),
            data: data(),
            regs: data(),
            sregs: data(),
            debugregs: data(),
            width: prop_oneof![8 => 0..=9_u32, 1 => any::<u32>()],
        })
        .prop_map(Exit::Io),
        message!(User { user: any::<u64>() }).prop_map(Exit::User),
        message!(HypervCall { input: any::<u64>(), params0: any::<u64>(), params1: any::<u64>() })
            .prop_map(Exit::HypervCall),
        message!(HypervSynic {
            msr: any::<u32>(),
            control: any::<u64>(),
            evt_page: any::<u64>(),
            msg_page: any::<u64>(),
        })
        .prop_map(Exit::HypervSynic),
    ]
}

/// Any leaf of CPUID.
pub fn cpuid_entry() -> impl Strategy<Value = CpuidEntry> {
    message!(CpuidEntry {
        function: any::<u32>(),
        has_index: any::<bool>(),
        index: any::<u32>(),
        eax: any::<u32>(),
        ebx: any::<u32>(),
        ecx: any::<u32>(),
        edx: any::<u32>(),
    })
}

fn create() -> impl Strategy<Value = main_request::Create> {
    use main_request::Create;
    use main_request::create::{Constructor, IoEvent, IrqEvent, Memory};
    let constructor = prop_oneof![
        message!(IoEvent {
            space: enumeration::<AddressSpace>(),
            address: any::<u64>(),
            length: any::<u32>(),
            datamatch: any::<u64>(),
        })
        .prop_map(Constructor::IoEvent),
        message!(Memory {
            offset: any::<u64>(),
            start: any::<u64>(),
            length: any::<u64>(),
            read_only: any::<bool>(),
            dirty_log: any::<bool>(),
        })
        .prop_map(Constructor::Memory),
        message!(IrqEvent { irq_id: any::<u32>(), resample: any::<bool>() }).prop_map(Constructor::IrqEvent),
    ];
    message!(Create { id: any::<u32>(), constructor: weighted(0.98, constructor) })
}

fn route() -> impl Strategy<Value = main_request::set_irq_routing::Route> {
    use main_request::set_irq_routing::Route;
    use main_request::set_irq_routing::route::{self, Irqchip, Msi};
    let kind = prop_oneof![
        message!(Irqchip { irqchip: any::<u32>(), pin: any::<u32>() }).prop_map(route::Route::Irqchip),
        message!(Msi { address: any::<u64>(), data: any::<u32>() }).prop_map(route::Route::Msi),
    ];
    message!(Route { irq_id: any::<u32>(), route: weighted(0.98, kind) })
}

fn call_hint() -> impl Strategy<Value = main_request::SetCallHint> {
    use main_request::SetCallHint;
    use main_request::set_call_hint::RegHint;
    let hint = message!(RegHint {
        match_rax: any::<bool>(),
        match_rbx: any::<bool>(),
        match_rcx: any::<bool>(),
        match_rdx: any::<bool>(),
        rax: any::<u64>(),
        rbx: any::<u64>(),
        rcx: any::<u64>(),
        rdx: any::<u64>(),
        send_sregs: any::<bool>(),
        send_debugregs: any::<bool>(),
    });
    message!(SetCallHint {
        space: enumeration::<AddressSpace>(),
        address: any::<u64>(),
        on_write: any::<bool>(),
        hints: vec(hint, 0..8),
    })
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..64)
}

/// Mostly a value the protocol knows, sometimes any number.
fn enumeration<E: Enum>() -> impl Strategy<Value = EnumOrUnknown<E>> {
    prop_oneof![
        9 => proptest::sample::select(E::VALUES).prop_map(EnumOrUnknown::new),
        1 => any::<i32>().prop_map(EnumOrUnknown::from_i32),
    ]
}
