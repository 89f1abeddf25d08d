//! The responses of protocol version 0 that carry the exits of a vCPU to its plugin.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{Access, Direction, SynicWrite};
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::messages::{VcpuResponse, vcpu_response};
use rustix::io::Errno as OsErrno;
use thiserror::Error as ThisError;
use vmm_core::{LinkError, Registers};

use crate::refusal::{self, Refusal};
use crate::wire::{space_to_wire, to_bytes};

/// What breaks the link to a plugin.
#[derive(Debug, ThisError)]
pub(crate) enum Fault {
    #[error("vCPU request: {0}")]
    Decode(plugin_proto::Error),
    #[error("vCPU response: {0}")]
    Encode(plugin_proto::Error),
    #[error("resume with {0} of a wrong size")]
    ResumeSize(&'static str),
    #[error("{0}")]
    Ring(plugin_proto::ring::Fault),
    #[error("reading a vCPU pipe: {0}")]
    Read(OsErrno),
    #[error("writing a vCPU pipe: {0}")]
    Write(OsErrno),
    #[error("waiting for a vCPU pipe: {0}")]
    Poll(OsErrno),
    #[error("waiting for a ring: {0}")]
    Futex(OsErrno),
}

impl From<Fault> for LinkError {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

pub(crate) fn init_response() -> VcpuResponse {
    let mut response = VcpuResponse::new();
    response.mut_wait().set_init(vcpu_response::wait::Init::new());
    response
}

pub(crate) fn access_response(access: &Access, data: &[u8]) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    let io = response.mut_wait().mut_io();
    io.space = space_to_wire(access.space()).into();
    io.address = access.address();
    io.is_write = access.direction() == Direction::Write;
    // The length of a read is that of its zeros.
    io.data = match access.direction() {
        Direction::Write => data.to_vec(),
        Direction::Read => vec![0; access.len()],
    };
    response
}

pub(crate) fn attach(response: &mut VcpuResponse, attached: &Registers) {
    let io = response.mut_wait().mut_io();
    if let Some(regs) = attached.regs() {
        io.regs = to_bytes(regs);
    }
    if let Some(sregs) = attached.sregs() {
        io.sregs = to_bytes(sregs);
    }
    if let Some(debug_regs) = attached.debug_regs() {
        io.debugregs = to_bytes(debug_regs);
    }
}

pub(crate) fn hyperv_call_response(input: u64, [params0, params1]: [u64; 2]) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    let call = vcpu_response::wait::HypervCall { input, params0, params1, ..Default::default() };
    response.mut_wait().set_hyperv_call(call);
    response
}

pub(crate) fn hyperv_synic_response(write: SynicWrite) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    let SynicWrite { msr, control, evt_page, msg_page } = write;
    let synic = vcpu_response::wait::HypervSynic { msr, control, evt_page, msg_page, ..Default::default() };
    response.mut_wait().set_hyperv_synic(synic);
    response
}

pub(crate) fn posted_response(access: &Access, data: &[u8]) -> VcpuResponse {
    let mut response = access_response(access, data);
    response.mut_wait().mut_io().no_resume = true;
    response
}

pub(crate) fn paused_response(user: u64) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    response.mut_wait().mut_user().user = user;
    response
}

/// The response to a request, still empty: its oneof is that of the request, where the protocol has one.
pub(crate) fn empty_response(request: &Message) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    match request {
        Message::Wait(_) => drop(response.mut_wait()),
        Message::GetState(_) => drop(response.mut_get_state()),
        Message::SetState(_) => drop(response.mut_set_state()),
        Message::GetMsrs(_) => drop(response.mut_get_msrs()),
        Message::SetMsrs(_) => drop(response.mut_set_msrs()),
        Message::SetCpuid(_) => drop(response.mut_set_cpuid()),
        Message::GetHypervCpuid(_) => drop(response.mut_get_hyperv_cpuid()),
        Message::EnableCapability(_) => drop(response.mut_enable_capability()),
        _ => {}
    }
    response
}

/// The name of a request in the protocol.
pub(crate) fn request_name(request: Option<&Message>) -> &'static str {
    match request {
        Some(Message::Wait(_)) => "wait",
        Some(Message::Resume(_)) => "resume",
        Some(Message::GetState(_)) => "get_state",
        Some(Message::SetState(_)) => "set_state",
        Some(Message::GetMsrs(_)) => "get_msrs",
        Some(Message::SetMsrs(_)) => "set_msrs",
        Some(Message::SetCpuid(_)) => "set_cpuid",
        Some(Message::Shutdown(_)) => "shutdown",
        Some(Message::GetHypervCpuid(_)) => "get_hyperv_cpuid",
        Some(Message::EnableCapability(_)) => "enable_capability",
        _ => "an unknown request",
    }
}

/// A response that carries only an errno. The reason is logged.
pub(crate) fn refusal(request: Option<&Message>, why: &Refusal) -> VcpuResponse {
    refusal::log(format_args!("{} refused: {why}", request_name(request)));
    let response = request.map(empty_response).unwrap_or_default();
    VcpuResponse { errno: why.errno.0, ..response }
}
