//! What passes between a vCPU and its plugin, in the messages of protocol version 0: for pipes all of it, for rings what is not
//! the hot exchange.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{Access, Capability, Direction, SynicWrite, kvm_cpuid_entry2, kvm_msr_entry};
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::messages::{VcpuRequest, VcpuResponse, vcpu_request, vcpu_response};
use plugin_proto::{Entries, bare_vcpu_request, decode_entries, decode_vcpu_request};
use rustix::io::Errno as OsErrno;
use thiserror::Error as ThisError;
use vmm_core::{Bytes, Command, Exchange, LinkError, Registers, State};

use crate::errno::Errno;
use crate::wire::{
    cpuid_entry, cpuid_from_wire, cpuid_to_wire, from_bytes, space_to_wire, state_from_bytes, state_kind,
    state_to_bytes, to_bytes,
};

type Result<T> = std::result::Result<T, LinkError>;

/// The requests that set something and are answered by an errno alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    State,
    Msrs,
    Cpuid,
    Capability,
}

/// What a plugin can do to break its link.
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

/// What a request is about.
pub(crate) enum Asked {
    /// The vCPU.
    Vcpu(Command),
    /// Nothing that the vCPU has to hear of: here is the answer.
    Nothing { answer: VcpuResponse },
}

/// The answer to the request that set something.
pub(crate) fn done_response(setting: Option<Setting>, done: hypervisor::Result<()>) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    response.errno = done.map_or_else(|error| Errno::from(&error).0, |()| 0);
    match setting {
        Some(Setting::Msrs) => drop(response.mut_set_msrs()),
        Some(Setting::Cpuid) => drop(response.mut_set_cpuid()),
        Some(Setting::Capability) => drop(response.mut_enable_capability()),
        Some(Setting::State) | None => drop(response.mut_set_state()),
    }
    response
}

/// The plugin's next request.
pub(crate) enum Incoming {
    Request(VcpuRequest),
    /// One that sets many things, decoded another way.
    Entries(Entries),
    /// One that says more than the protocol allows: here is the answer.
    Refused(VcpuResponse),
}

impl Incoming {
    /// What it sets, if it does.
    pub(crate) fn setting(&self) -> Option<Setting> {
        match self {
            Self::Request(request) => request.message.as_ref().and_then(setting_of),
            Self::Entries(Entries::Msrs(_)) => Some(Setting::Msrs),
            Self::Entries(Entries::Cpuid(_)) => Some(Setting::Cpuid),
            Self::Refused(_) => None,
        }
    }
}

/// Reads a request.
pub(crate) fn decode(bytes: &[u8]) -> Result<Incoming> {
    let decoded = match decode_entries(bytes) {
        Some(entries) => entries.map(Incoming::Entries),
        None => decode_vcpu_request(bytes).map(Incoming::Request),
    };
    match decoded {
        Ok(incoming) => Ok(incoming),
        Err(plugin_proto::Error::TooMany { outermost, .. }) => {
            Ok(Incoming::Refused(refusal(bare_vcpu_request(outermost).message.as_ref(), Errno::TOOBIG)))
        }
        Err(error) => Err(Fault::Decode(error).into()),
    }
}

/// The answer to a request to set something that is refused here.
pub(crate) fn refused_response(setting: Option<Setting>, errno: Errno) -> VcpuResponse {
    let mut response = done_response(setting, Ok(()));
    response.errno = errno.0;
    response
}

/// What a request asks. A resume comes in the box of the access that it answers, which is taken from `exchange`.
pub(crate) fn command(incoming: Incoming, exchange: &mut Option<Box<Exchange>>) -> Result<Asked> {
    let request = match incoming {
        Incoming::Request(request) => request,
        Incoming::Entries(Entries::Msrs(entries)) => {
            // As protobuf has it, of a number that is too long the low bits count.
            let entry = |[index, data]: [u64; 2]| kvm_msr_entry { index: index as u32, data, ..Default::default() };
            return Ok(Asked::Vcpu(Command::SetMsrs(entries.into_iter().map(entry).collect())));
        }
        Incoming::Entries(Entries::Cpuid(entries)) => {
            return Ok(Asked::Vcpu(Command::SetCpuid(entries.into_iter().map(cpuid_entry).collect())));
        }
        Incoming::Refused(answer) => return Ok(Asked::Nothing { answer }),
    };
    let refused = |message: &Message, errno| Ok(Asked::Nothing { answer: refusal(Some(message), errno) });
    match request.message {
        Some(Message::Resume(resume)) => {
            let mut exchange = exchange.take().unwrap_or_default();
            resume_from_wire(&resume, &mut exchange)?;
            Ok(Asked::Vcpu(Command::Resume(exchange)))
        }
        Some(Message::Shutdown(_)) => Ok(Asked::Vcpu(Command::Stop)),
        Some(ref message @ Message::GetState(ref get)) => match state_kind(get.set) {
            Ok(kind) => Ok(Asked::Vcpu(Command::Get(kind))),
            Err(errno) => refused(message, errno),
        },
        Some(ref message @ Message::SetState(ref set)) => {
            match state_kind(set.set).and_then(|kind| state_from_bytes(kind, &set.state)) {
                Ok(state) => Ok(Asked::Vcpu(Command::Set(state))),
                Err(errno) => refused(message, errno),
            }
        }
        Some(Message::GetMsrs(get)) => Ok(Asked::Vcpu(Command::GetMsrs(get.entry_indices))),
        Some(Message::SetMsrs(set)) => {
            let entry = |entry: vcpu_request::MsrEntry| kvm_msr_entry {
                index: entry.index,
                data: entry.data,
                ..Default::default()
            };
            Ok(Asked::Vcpu(Command::SetMsrs(set.entries.into_iter().map(entry).collect())))
        }
        Some(Message::SetCpuid(set)) => Ok(Asked::Vcpu(Command::SetCpuid(cpuid_from_wire(&set.entries)))),
        Some(Message::GetHypervCpuid(_)) => Ok(Asked::Vcpu(Command::GetHypervCpuid)),
        Some(ref message @ Message::EnableCapability(ref enable)) => match Capability::from_number(enable.capability) {
            Some(capability) => Ok(Asked::Vcpu(Command::EnableCapability(capability))),
            None => refused(message, Errno::INVAL),
        },
        Some(ref message @ Message::Wait(_)) => refused(message, Errno::PROTO),
        message => Ok(Asked::Nothing { answer: refusal(message.as_ref(), Errno::NOTTY) }),
    }
}

pub(crate) fn resume_from_wire(resume: &vcpu_request::Resume, exchange: &mut Exchange) -> Result<()> {
    let wrong = |what| move |_: Errno| LinkError::from(Fault::ResumeSize(what));
    exchange.data = Bytes::from_slice(&resume.data);
    if !resume.regs.is_empty() {
        exchange.set.put_regs(&from_bytes(&resume.regs).map_err(wrong("regs"))?);
    }
    if !resume.sregs.is_empty() {
        exchange.set.put_sregs(&from_bytes(&resume.sregs).map_err(wrong("sregs"))?);
    }
    if !resume.debugregs.is_empty() {
        exchange.set.put_debug_regs(&from_bytes(&resume.debugregs).map_err(wrong("debugregs"))?);
    }
    Ok(())
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
    // A read tells its length by as many zeros.
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

pub(crate) fn msrs_response(values: hypervisor::Result<Vec<u64>>) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    match values {
        Ok(values) => response.mut_get_msrs().entry_data = values,
        Err(error) => {
            response.errno = Errno::from(&error).0;
            response.mut_get_msrs();
        }
    }
    response
}

pub(crate) fn cpuid_response(entries: hypervisor::Result<Vec<kvm_cpuid_entry2>>) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    match entries {
        Ok(entries) => response.mut_get_hyperv_cpuid().entries = cpuid_to_wire(&entries),
        Err(error) => {
            response.errno = Errno::from(&error).0;
            response.mut_get_hyperv_cpuid();
        }
    }
    response
}

fn setting_of(request: &Message) -> Option<Setting> {
    match request {
        Message::SetState(_) => Some(Setting::State),
        Message::SetMsrs(_) => Some(Setting::Msrs),
        Message::SetCpuid(_) => Some(Setting::Cpuid),
        Message::EnableCapability(_) => Some(Setting::Capability),
        _ => None,
    }
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

pub(crate) fn state_response(state: hypervisor::Result<State>) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    match state {
        Ok(state) => response.mut_get_state().state = state_to_bytes(&state),
        Err(error) => {
            response.errno = Errno::from(&error).0;
            response.mut_get_state();
        }
    }
    response
}

/// An answer that says only why not; its oneof is that of the request, where the protocol has one.
pub(crate) fn refusal(request: Option<&Message>, errno: Errno) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    response.errno = errno.0;
    match request {
        Some(Message::Wait(_)) => drop(response.mut_wait()),
        Some(Message::GetState(_)) => drop(response.mut_get_state()),
        Some(Message::SetState(_)) => drop(response.mut_set_state()),
        Some(Message::GetMsrs(_)) => drop(response.mut_get_msrs()),
        Some(Message::SetMsrs(_)) => drop(response.mut_set_msrs()),
        Some(Message::SetCpuid(_)) => drop(response.mut_set_cpuid()),
        Some(Message::GetHypervCpuid(_)) => drop(response.mut_get_hyperv_cpuid()),
        Some(Message::EnableCapability(_)) => drop(response.mut_enable_capability()),
        _ => {}
    }
    response
}
