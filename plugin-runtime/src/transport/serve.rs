//! Serves the requests of a plugin on a stopped vCPU, for pipes and rings alike.

use hypervisor::{Capability, kvm_msr_entry};
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::messages::{VcpuRequest, VcpuResponse, vcpu_request};
use plugin_proto::{Entries, bare_vcpu_request, decode_entries, decode_vcpu_request};
use vmm_core::{Bytes, Exchange, LinkError, StoppedVcpu};

use super::message::{Fault, empty_response, refusal, request_name};
use crate::errno::Errno;
use crate::refusal::{self, Refusal};
use crate::wire::{
    cpuid_entry, cpuid_from_wire, cpuid_to_wire, from_bytes, state_from_bytes, state_kind, state_to_bytes,
};

/// A request of the plugin.
pub(crate) enum Incoming {
    Request(VcpuRequest),
    /// One that sets many MSRs or CPUID entries, decoded without an allocation for each.
    Entries(Entries),
    /// It has more fields than the protocol allows, and was not decoded. The plugin gets this response.
    Refused(VcpuResponse),
}

/// Decodes a request.
pub(crate) fn decode(bytes: &[u8]) -> Result<Incoming, LinkError> {
    let decoded = match decode_entries(bytes) {
        Some(entries) => entries.map(Incoming::Entries),
        None => decode_vcpu_request(bytes).map(Incoming::Request),
    };
    match decoded {
        Ok(incoming) => Ok(incoming),
        Err(plugin_proto::Error::TooMany { outermost, .. }) => {
            let why = Refusal::new(Errno::TOOBIG, "it has more fields than the protocol allows");
            Ok(Incoming::Refused(refusal(bare_vcpu_request(outermost).message.as_ref(), &why)))
        }
        Err(error) => Err(Fault::Decode(error).into()),
    }
}

/// What follows from a request.
pub(crate) enum Served {
    /// The plugin gets this response, and the vCPU stays stopped.
    Response(VcpuResponse),
    /// The vCPU resumes with the exchange.
    Resume,
    /// The vCPU ends.
    Stop,
}

/// Serves one request. The registers and the read data of a resume are put into `exchange`.
pub(crate) fn serve_request(
    incoming: Incoming,
    vcpu: &mut StoppedVcpu<'_>,
    exchange: &mut Exchange,
) -> Result<Served, LinkError> {
    let request = match incoming {
        Incoming::Request(request) => request,
        Incoming::Entries(entries) => return serve_entries(entries, vcpu),
        Incoming::Refused(response) => {
            vcpu.check_wait()?;
            return Ok(Served::Response(response));
        }
    };
    let Some(message) = request.message else {
        vcpu.check_wait()?;
        let why = Refusal::new(Errno::NOTTY, "the protocol has no such request");
        return Ok(Served::Response(refusal(None, &why)));
    };
    match message {
        Message::Resume(resume) => {
            put_resume(&resume, exchange)?;
            Ok(Served::Resume)
        }
        Message::Shutdown(_) => Ok(Served::Stop),
        message => {
            // A plugin that requests without end must not extend its time.
            vcpu.check_wait()?;
            let (mut response, request) = (empty_response(&message), request_name(Some(&message)));
            if let Err(why) = serve_state(message, vcpu, &mut response)? {
                refusal::log(format_args!("{request} refused: {why}"));
                response.errno = why.errno.0;
            }
            Ok(Served::Response(response))
        }
    }
}

/// Sets many MSRs or CPUID entries.
fn serve_entries(entries: Entries, vcpu: &mut StoppedVcpu<'_>) -> Result<Served, LinkError> {
    let request = empty_request(&entries);
    let set = match entries {
        // However many were set, that is no error.
        Entries::Msrs(entries) => vcpu.set_msrs(entries.into_iter().map(msr_entry).collect())?.map(drop),
        Entries::Cpuid(entries) => vcpu.set_cpuid(entries.into_iter().map(cpuid_entry).collect())?,
    };
    Ok(Served::Response(match set {
        Ok(()) => empty_response(&request),
        Err(error) => refusal(Some(&request), &Refusal::from(&error)),
    }))
}

/// The request that entries came with, without them: it names its response.
pub(super) fn empty_request(entries: &Entries) -> Message {
    match entries {
        Entries::Msrs(_) => Message::SetMsrs(Default::default()),
        Entries::Cpuid(_) => Message::SetCpuid(Default::default()),
    }
}

/// As protobuf has it, the low bits of a number that is too long count.
fn msr_entry([index, data]: [u64; 2]) -> kvm_msr_entry {
    kvm_msr_entry { index: index as u32, data, ..Default::default() }
}

/// Serves a request for state of the vCPU. The inner error is for the plugin.
fn serve_state(
    message: Message,
    vcpu: &mut StoppedVcpu<'_>,
    response: &mut VcpuResponse,
) -> Result<Result<(), Refusal>, LinkError> {
    let served = match message {
        Message::GetState(get) => match state_kind(get.set) {
            Ok(kind) => vcpu.get(kind)?.map(|state| response.mut_get_state().state = state_to_bytes(&state)),
            Err(why) => return Ok(Err(why)),
        },
        Message::SetState(set) => match state_kind(set.set).and_then(|kind| state_from_bytes(kind, &set.state)) {
            Ok(state) => vcpu.set(state)?,
            Err(why) => return Ok(Err(why)),
        },
        Message::GetMsrs(get) => {
            vcpu.msrs(get.entry_indices)?.map(|values| response.mut_get_msrs().entry_data = values)
        }
        // However many were set, that is no error.
        Message::SetMsrs(set) => {
            let entries = set.entries.iter().map(|entry| msr_entry([entry.index.into(), entry.data]));
            vcpu.set_msrs(entries.collect())?.map(drop)
        }
        Message::SetCpuid(set) => vcpu.set_cpuid(cpuid_from_wire(&set.entries))?,
        Message::GetHypervCpuid(_) => {
            let entries = vcpu.hyperv_cpuid()?;
            entries.map(|entries| response.mut_get_hyperv_cpuid().entries = cpuid_to_wire(&entries))
        }
        Message::EnableCapability(enable) => match Capability::from_number(enable.capability) {
            Some(capability) => vcpu.enable_capability(capability)?,
            None => {
                let why = format!("capability {} cannot be enabled by a plugin", enable.capability);
                return Ok(Err(Refusal::new(Errno::INVAL, why)));
            }
        },
        Message::Wait(_) => {
            return Ok(Err(Refusal::new(Errno::PROTO, "a vCPU is waited for once, and then resumed")));
        }
        _ => return Ok(Err(Refusal::new(Errno::NOTTY, "the protocol has no such request"))),
    };
    Ok(served.map_err(|error| Refusal::from(&error)))
}

/// Puts a resume into the exchange.
pub(crate) fn put_resume(resume: &vcpu_request::Resume, exchange: &mut Exchange) -> Result<(), LinkError> {
    let wrong = |what| move |_: Refusal| LinkError::from(Fault::ResumeSize(what));
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
