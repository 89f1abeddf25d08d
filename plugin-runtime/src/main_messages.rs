//! The messages of main requests: their names, their empty responses, and what they hold in the words of the backend.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{Gsi, Route};
use plugin_proto::RouteTarget;
use plugin_proto::messages::main_request;
use plugin_proto::messages::main_request::Message;
use plugin_proto::messages::main_request::create::Constructor;
use plugin_proto::messages::main_request::set_irq_routing::route::Route as WireRoute;
use plugin_proto::messages::main_response::Message as Response;
use vmm_core::HintDetail;

use crate::errno::Errno;
use crate::refusal::Refusal;

/// What was asked: the request's name in the protocol, made clearer where one request does several things.
pub(crate) fn request_name(request: &Message) -> &'static str {
    match request {
        Message::Create(create) => match &create.constructor {
            Some(Constructor::Memory(_)) => "create_memory",
            Some(Constructor::IoEvent(_)) => "create_io_event",
            Some(Constructor::IrqEvent(_)) => "create_irq_event",
            _ => "create",
        },
        Message::Destroy(_) => "destroy",
        Message::NewConnection(_) => "new_connection",
        Message::GetShutdownEventfd(_) => "get_shutdown_eventfd",
        Message::CheckExtension(_) => "check_extension",
        Message::GetSupportedCpuid(_) => "get_supported_cpuid",
        Message::GetEmulatedCpuid(_) => "get_emulated_cpuid",
        Message::GetMsrIndexList(_) => "get_msr_index_list",
        Message::GetNetConfig(_) => "get_net_config",
        Message::ReserveRange(range) if range.length == 0 => "release_range",
        Message::ReserveRange(_) => "reserve_range",
        Message::SetIrq(_) => "set_irq",
        Message::SetIrqRouting(_) => "set_irq_routing",
        Message::GetState(_) => "get_state",
        Message::SetState(_) => "set_state",
        Message::SetIdentityMapAddr(_) => "set_identity_map_addr",
        Message::PauseVcpus(_) => "pause_vcpus",
        Message::GetVcpus(_) => "get_vcpus",
        Message::Start(_) => "start",
        Message::SetCallHint(_) => "set_call_hint",
        Message::DirtyLog(_) => "dirty_log",
        Message::Negotiate(_) => "negotiate",
        Message::GetVcpuRings(_) => "get_vcpu_rings",
        _ => "an unknown request",
    }
}

/// The message that an answer to `request` has at least; `None` for a request this VMM does not know.
pub(crate) fn empty_response(request: &Message) -> Option<Response> {
    Some(match request {
        Message::Create(_) => Response::Create(Default::default()),
        Message::Destroy(_) => Response::Destroy(Default::default()),
        Message::NewConnection(_) => Response::NewConnection(Default::default()),
        Message::GetShutdownEventfd(_) => Response::GetShutdownEventfd(Default::default()),
        Message::CheckExtension(_) => Response::CheckExtension(Default::default()),
        Message::GetSupportedCpuid(_) => Response::GetSupportedCpuid(Default::default()),
        Message::GetEmulatedCpuid(_) => Response::GetEmulatedCpuid(Default::default()),
        Message::GetMsrIndexList(_) => Response::GetMsrIndexList(Default::default()),
        Message::GetNetConfig(_) => Response::GetNetConfig(Default::default()),
        Message::ReserveRange(_) => Response::ReserveRange(Default::default()),
        Message::SetIrq(_) => Response::SetIrq(Default::default()),
        Message::SetIrqRouting(_) => Response::SetIrqRouting(Default::default()),
        Message::GetState(_) => Response::GetState(Default::default()),
        Message::SetState(_) => Response::SetState(Default::default()),
        Message::SetIdentityMapAddr(_) => Response::SetIdentityMapAddr(Default::default()),
        Message::PauseVcpus(_) => Response::PauseVcpus(Default::default()),
        Message::GetVcpus(_) => Response::GetVcpus(Default::default()),
        Message::Start(_) => Response::Start(Default::default()),
        Message::SetCallHint(_) => Response::SetCallHint(Default::default()),
        Message::DirtyLog(_) => Response::DirtyLog(Default::default()),
        Message::Negotiate(_) => Response::Negotiate(Default::default()),
        Message::GetVcpuRings(_) => Response::GetVcpuRings(Default::default()),
        _ => return None,
    })
}

/// The route of a GSI; `EINVAL` for one without a target.
pub(crate) fn route(irq_id: u32, target: Option<RouteTarget>) -> Result<Route, Refusal> {
    let gsi = Gsi(irq_id);
    match target {
        Some(RouteTarget::Irqchip { irqchip, pin }) => Ok(Route::Irqchip { gsi, chip: irqchip, pin }),
        Some(RouteTarget::Msi { address, data }) => Ok(Route::Msi { gsi, address, data }),
        None => Err(Refusal::new(Errno::INVAL, format!("the route of GSI {irq_id} has no target"))),
    }
}

/// The target of a route in a request that has other fields beside its routes.
pub(crate) fn target(wanted: Option<WireRoute>) -> Option<RouteTarget> {
    match wanted? {
        WireRoute::Irqchip(to) => Some(RouteTarget::Irqchip { irqchip: to.irqchip, pin: to.pin }),
        WireRoute::Msi(to) => Some(RouteTarget::Msi { address: to.address, data: to.data }),
        _ => None,
    }
}

pub(crate) fn gsi_of(route: &Route) -> u32 {
    match route {
        Route::Irqchip { gsi, .. } | Route::Msi { gsi, .. } => gsi.0,
    }
}

pub(crate) fn hint_detail(wanted: &main_request::set_call_hint::RegHint) -> HintDetail {
    HintDetail {
        rax: wanted.match_rax.then_some(wanted.rax),
        rbx: wanted.match_rbx.then_some(wanted.rbx),
        rcx: wanted.match_rcx.then_some(wanted.rcx),
        rdx: wanted.match_rdx.then_some(wanted.rdx),
        sregs: wanted.send_sregs,
        debug_regs: wanted.send_debugregs,
    }
}
