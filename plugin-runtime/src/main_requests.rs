//! What a plugin asks for on a main socket, and what it gets.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hypervisor::{Direction, Gsi, Hypervisor, Route, VcpuId, Vm};
use plugin_proto::limits::{MAX_RESPONSE_FDS, MAX_VCPUS};
use plugin_proto::messages::main_request::Message;
use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::messages::{MainResponse, main_request, main_response};
use plugin_proto::{decode_routes, encode_main_response, ring};
use vmm_core::{CallHint, Claim, Machine, OwnerId, Service};

use crate::Transport;
use crate::advice;
use crate::connection::{self, Connection, Content, Request};
use crate::errno::Errno;
use crate::main_messages::{empty_response, gsi_of, hint_detail, request_name, route, target};
use crate::memory_quota::MemoryQuota;
use crate::objects::Objects;
use crate::quota;
use crate::refusal::Refusal;
use crate::shutdown_event::ShutdownEvent;
use crate::tap::Tap;
use crate::transport::VcpuLinks;
use crate::vm_state;
use crate::wire::{cpuid_to_wire, space_from_wire};

/// The VM as a plugin sees it: what its requests act upon. It belongs to no connection.
pub(crate) struct PluginVm<'h> {
    hypervisor: &'h dyn Hypervisor,
    pub(crate) machine: Machine,
    pub(crate) owner: OwnerId,
    pub(crate) shutdown: ShutdownEvent,
    /// The vCPUs' channels, until the plugin is disconnected.
    pub(crate) links: Option<Arc<VcpuLinks>>,
    transport: Transport,
    /// Pipes were handed out, so there will be no rings.
    pipes_taken: bool,
    tap: Option<Tap>,
    cached: Cached,
    objects: Objects,
    reservations: usize,
    /// The GSIs that the plugin has routed, if it has.
    routed: Option<BTreeSet<u32>>,
    started: bool,
}

/// The answer to a request, and what is to be done beside it.
pub(crate) struct Reply {
    pub(crate) response: Outgoing,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) then: Then,
    /// What was refused, and why.
    pub(crate) refused: Option<String>,
    /// What the plugin has probably not meant, though it was done.
    pub(crate) warnings: Vec<String>,
}

/// A response on its way.
pub(crate) enum Outgoing {
    Message(MainResponse),
    /// One that is the same each time, encoded.
    Encoded(Arc<[u8]>),
}

/// Responses that are the same each time, encoded once: to make one takes many times what a plugin needs to ask for it.
#[derive(Default)]
struct Cached {
    supported_cpuid: Option<Arc<[u8]>>,
    emulated_cpuid: Option<Arc<[u8]>>,
    msr_indices: Option<Arc<[u8]>>,
}

impl Cached {
    /// Where the response to a request is kept, if it is.
    fn of(&mut self, request: &Message) -> Option<&mut Option<Arc<[u8]>>> {
        match request {
            Message::GetSupportedCpuid(_) => Some(&mut self.supported_cpuid),
            Message::GetEmulatedCpuid(_) => Some(&mut self.emulated_cpuid),
            Message::GetMsrIndexList(_) => Some(&mut self.msr_indices),
            _ => None,
        }
    }
}

/// What follows a request.
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// A new connection is to be served.
    Serve(Connection),
    /// The vCPUs are to be started, after the answer was sent.
    Start,
}

/// What a request that succeeded gives. A default one is the empty message of the request's name.
#[derive(Default)]
struct Given {
    message: Option<Response>,
    fds: Vec<OwnedFd>,
    then: Option<Then>,
    warnings: Vec<String>,
}

impl Given {
    fn nothing() -> Self {
        Self::default()
    }

    fn message(message: Response) -> Self {
        Self { message: Some(message), ..Self::default() }
    }

    fn warning(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    fn descriptors(fds: Vec<OwnedFd>) -> Self {
        Self { fds, ..Self::default() }
    }

    fn then(then: Then) -> Self {
        Self { then: Some(then), ..Self::default() }
    }
}

type Outcome = Result<Given, Refusal>;

impl<'h> PluginVm<'h> {
    pub(crate) fn new(
        hypervisor: &'h dyn Hypervisor,
        machine: Machine,
        owner: OwnerId,
        links: Arc<VcpuLinks>,
        transport: Transport,
        tap: Option<Tap>,
        memory: MemoryQuota,
    ) -> crate::Result<Self> {
        Ok(Self {
            hypervisor,
            machine,
            owner,
            shutdown: ShutdownEvent::new()?,
            links: Some(links),
            transport,
            pipes_taken: false,
            tap,
            cached: Cached::default(),
            objects: Objects::new(memory),
            reservations: 0,
            routed: None,
            started: false,
        })
    }

    /// Whether the plugin has asked for its vCPUs.
    pub(crate) fn has_given_vcpus(&self) -> bool {
        self.pipes_taken || self.links.as_ref().is_some_and(|links| links.rings().is_some())
    }

    /// Whether the plugin has started the VM.
    pub(crate) fn is_started(&self) -> bool {
        self.started
    }

    /// Does what a request asks for. Whatever it is, there is an answer. `connections` are open now.
    pub(crate) fn handle(&mut self, request: Request, connections: usize) -> Reply {
        let mut response = MainResponse::new();
        let mut name = "a request";
        let outcome = match request.message.message {
            Some(message) => {
                let encoded = self.encoded(&message);
                if let Some(Ok(encoded)) = encoded {
                    let response = Outgoing::Encoded(encoded);
                    return Reply {
                        response,
                        fds: Vec::new(),
                        then: Then::Nothing,
                        refused: None,
                        warnings: Vec::new(),
                    };
                }
                response.message = empty_response(&message);
                name = request_name(&message);
                match (encoded, request.content) {
                    (Some(Err(refusal)), _) => Err(refusal),
                    (_, Content::Decoded) => self.serve(message, request.fd, connections),
                    (_, Content::Routes(routes)) => self.set_encoded_routes(&routes),
                    (_, Content::TooMany(errno)) => {
                        Err(Refusal::new(errno, "it has more fields than the protocol allows"))
                    }
                }
            }
            None => Err(unknown_request()),
        };
        match outcome {
            Ok(Given { message, fds, then, warnings }) => {
                response.message = message.or(response.message);
                let response = Outgoing::Message(response);
                Reply { response, fds, then: then.unwrap_or(Then::Nothing), refused: None, warnings }
            }
            Err(refusal) => {
                response.errno = refusal.errno.0;
                let refused = Some(format!("{name} refused: {refusal}"));
                let response = Outgoing::Message(response);
                Reply { response, fds: Vec::new(), then: Then::Nothing, refused, warnings: Vec::new() }
            }
        }
    }

    /// The response to a request that is the same each time; `None` where this is none of those.
    fn encoded(&mut self, request: &Message) -> Option<Result<Arc<[u8]>, Refusal>> {
        if let Some(encoded) = self.cached.of(request)? {
            return Some(Ok(Arc::clone(encoded)));
        }
        let encoded = self.encode(request);
        if let Ok(encoded) = &encoded {
            *self.cached.of(request)? = Some(Arc::clone(encoded));
        }
        Some(encoded)
    }

    fn encode(&self, request: &Message) -> Result<Arc<[u8]>, Refusal> {
        let refused = |error: hypervisor::Error| Refusal::from(&error);
        let message = match request {
            Message::GetSupportedCpuid(_) => {
                Response::GetSupportedCpuid(cpuid_answer(&self.hypervisor.supported_cpuid().map_err(refused)?))
            }
            Message::GetEmulatedCpuid(_) => {
                Response::GetEmulatedCpuid(cpuid_answer(&self.hypervisor.emulated_cpuid().map_err(refused)?))
            }
            _ => {
                let indices = self.hypervisor.msr_indices().map_err(refused)?;
                Response::GetMsrIndexList(main_response::MsrListResponse { indices, ..Default::default() })
            }
        };
        let response = MainResponse { message: Some(message), ..Default::default() };
        let mut bytes = Vec::new();
        encode_main_response(&response, &mut bytes).map_err(|error| Refusal::new(Errno::MSGSIZE, error.to_string()))?;
        Ok(bytes.into())
    }

    fn set_encoded_routes(&mut self, routes: &[u8]) -> Outcome {
        // Too many, or no routes at all: either is what the kernel calls invalid.
        let routes = decode_routes(routes).map_err(|error| Refusal::new(Errno::INVAL, error.to_string()))?;
        self.set_routes(routes.into_iter().map(|wanted| route(wanted.irq_id, wanted.target)))
    }

    fn set_routes(&mut self, routes: impl Iterator<Item = Result<Route, Refusal>>) -> Outcome {
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        self.vm().set_routing(&routes).map_err(|error| advice::routing_refused(&routes, &error))?;
        self.routed = Some(routes.iter().map(gsi_of).collect());
        Ok(Given::nothing())
    }

    fn serve(&mut self, message: Message, fd: Option<OwnedFd>, connections: usize) -> Outcome {
        match message {
            Message::Create(create) => self.create(create, fd),
            Message::Destroy(destroy) => self.destroy(destroy.id),
            Message::NewConnection(_) => new_connection(connections),
            Message::GetShutdownEventfd(_) => self.shutdown_eventfd(),
            Message::CheckExtension(check) => {
                let has_extension = self.vm().check_extension(check.extension) > 0;
                let answer = main_response::CheckExtension { has_extension, ..Default::default() };
                Ok(Given::message(Response::CheckExtension(answer)))
            }
            Message::GetNetConfig(_) => self.net_config(),
            Message::ReserveRange(range) => self.reserve_range(&range),
            Message::SetIrq(irq) => {
                done(self.vm().set_irq(Gsi(irq.irq_id), irq.active))?;
                Ok(Given::nothing().warning(advice::set_irq(&irq, self.is_routed(irq.irq_id))))
            }
            Message::SetIrqRouting(routing) => {
                self.set_routes(routing.routes.into_iter().map(|wanted| route(wanted.irq_id, target(wanted.route))))
            }
            Message::GetState(get) => {
                let state = vm_state::get(self.vm(), get.set)?;
                let answer = main_response::GetState { state, ..Default::default() };
                Ok(Given::message(Response::GetState(answer)))
            }
            Message::SetState(set) => vm_state::set(self.vm(), set.set, &set.state).map(|()| Given::nothing()),
            Message::SetIdentityMapAddr(set) => done(self.vm().set_identity_map_address(set.address.into())),
            Message::PauseVcpus(pause) => self.pause(&pause),
            Message::GetVcpus(_) => self.vcpus(),
            Message::Start(_) => self.start(),
            Message::SetCallHint(hint) => self.set_call_hint(&hint),
            Message::DirtyLog(log) => {
                let bitmap = self.objects.dirty_log(self.vm(), log.id)?;
                let answer = main_response::MemoryDirtyLog { bitmap, ..Default::default() };
                Ok(Given::message(Response::DirtyLog(answer)))
            }
            Message::Negotiate(offer) => self.negotiate(&offer),
            Message::GetVcpuRings(get) => self.vcpu_rings(get.first),
            _ => Err(unknown_request()),
        }
    }

    /// Whether an interrupt of `gsi` goes anywhere. Without routes of the plugin's, those are there that the kernel makes.
    fn is_routed(&self, gsi: u32) -> bool {
        self.routed.as_ref().map_or(gsi < advice::DEFAULT_ROUTES, |routed| routed.contains(&gsi))
    }

    fn vm(&self) -> &dyn Vm {
        &**self.machine.vm()
    }

    fn create(&mut self, create: main_request::Create, fd: Option<OwnedFd>) -> Outcome {
        let warnings = advice::create(create.constructor.as_ref(), &self.objects, self.machine.map());
        let fds = self.objects.create(&**self.machine.vm(), create.id, create.constructor, fd)?;
        Ok(Given::descriptors(fds).warning(warnings))
    }

    fn destroy(&mut self, id: u32) -> Outcome {
        self.objects.destroy(&**self.machine.vm(), id)?;
        Ok(Given::nothing())
    }

    fn shutdown_eventfd(&self) -> Outcome {
        let event = self.shutdown.descriptor().map_err(|error| Refusal::from(&error))?;
        Ok(Given::descriptors(vec![event]))
    }

    fn reserve_range(&mut self, range: &main_request::ReserveRange) -> Outcome {
        let space = space_from_wire(range.space)?;
        let warnings = advice::reserve(space, range, &self.objects);
        if range.length == 0 {
            self.machine.release(space, range.start, self.owner).map_err(|error| Refusal::from(&error))?;
            self.reservations = self.reservations.saturating_sub(1);
            return Ok(Given::nothing().warning(warnings));
        }
        if self.reservations >= quota::RESERVATIONS {
            let why = format!("a plugin has at most {} reservations", quota::RESERVATIONS);
            return Err(Refusal::new(Errno::NOSPC, why));
        }
        let service = if range.async_write { Service::PostedWrites } else { Service::Synchronous };
        let reserved = match (service, range.coalesce) {
            (Service::PostedWrites, true) => {
                self.machine.reserve_coalesced(space, range.start, range.length, self.owner)
            }
            // The guest waits for each of the others.
            (Service::Synchronous, true) => {
                return Err(Refusal::new(
                    Errno::INVAL,
                    "writes are coalesced only where they are posted (async_write)",
                ));
            }
            (service, false) => {
                self.machine.map().reserve(space, range.start, range.length, Claim { owner: self.owner, service })
            }
        };
        reserved.map_err(|error| Refusal::from(&error))?;
        self.reservations = self.reservations.saturating_add(1);
        Ok(Given::nothing().warning(warnings))
    }

    fn net_config(&self) -> Outcome {
        let tap = self.tap.as_ref().ok_or_else(|| Refusal::new(Errno::NODATA, "the VM has no tap"))?;
        let device = tap.as_fd().try_clone_to_owned().map_err(|error| Refusal::from(&error))?;
        let config = main_response::GetNetConfig {
            host_mac_address: tap.mac().to_vec(),
            // The four bytes in network order, read as a little-endian number.
            host_ipv4_address: u32::from_le_bytes(tap.address().octets()),
            netmask: u32::from_le_bytes(tap.netmask().octets()),
            ..Default::default()
        };
        Ok(Given { message: Some(Response::GetNetConfig(config)), fds: vec![device], ..Given::nothing() })
    }

    fn set_call_hint(&self, wanted: &main_request::SetCallHint) -> Outcome {
        let hint = CallHint {
            space: space_from_wire(wanted.space)?,
            address: wanted.address,
            direction: if wanted.on_write { Direction::Write } else { Direction::Read },
            details: wanted.hints.iter().map(hint_detail).collect(),
        };
        // Address 0 takes the hint away.
        self.machine.set_call_hint(Some(hint).filter(|hint| hint.address != 0));
        Ok(Given::nothing())
    }

    fn pause(&self, pause: &main_request::PauseVcpus) -> Outcome {
        let mask = pause.cpu_mask;
        let is_meant = |vcpu: VcpuId| mask.checked_shr(vcpu.0).unwrap_or(0) & 1 != 0;
        self.machine.pause(self.owner, is_meant, pause.user);
        Ok(Given::nothing())
    }

    fn vcpus(&mut self) -> Outcome {
        let links = self.links.as_ref().ok_or_else(disconnected)?;
        if links.rings().is_some() {
            return Err(Refusal::new(Errno::BUSY, "the vCPUs have rings already, which were taken before"));
        }
        if self.transport == Transport::Ring {
            return Err(Refusal::new(Errno::BUSY, "this VM carries exits over rings alone (--transport ring)"));
        }
        if links.pipes.len() > MAX_VCPUS {
            tracing::warn!(
                vcpus = links.pipes.len(),
                "a plugin of protocol version 0 gets at most {MAX_VCPUS} vCPUs: run it with --cpus {MAX_VCPUS} or less"
            );
            let why = format!("protocol version 0 carries {MAX_VCPUS} vCPUs, the VM has {}", links.pipes.len());
            return Err(Refusal::new(Errno::TOOBIG, why));
        }
        let mut fds = Vec::new();
        for pipes in &links.pipes {
            fds.extend(pipes.plugin_ends().map_err(|error| Refusal::from(&error))?);
        }
        self.pipes_taken = true;
        Ok(Given::descriptors(fds))
    }

    /// Agrees on what both sides can, beyond version 0.
    fn negotiate(&self, offer: &main_request::Negotiate) -> Outcome {
        let links = self.links.as_ref().ok_or_else(disconnected)?;
        let offered = if offer.version >= ring::VERSION { offer.features } else { 0 };
        if !self.started {
            links.report_item_widths(offered & ring::FEATURE_ITEM_WIDTHS != 0);
        }
        let rings = if self.transport == Transport::Pipe { 0 } else { ring::FEATURE_RINGS };
        let item_widths = if links.reports_item_widths() { ring::FEATURE_ITEM_WIDTHS } else { 0 };
        let features = offered & (rings | item_widths);
        let answer = main_response::Negotiate { version: ring::VERSION, features, ..Default::default() };
        let fds = match features & ring::FEATURE_RINGS {
            0 => Vec::new(),
            _ => vec![links.lifeline().map_err(|error| Refusal::from(&error))?],
        };
        Ok(Given { message: Some(Response::Negotiate(answer)), fds, ..Given::nothing() })
    }

    /// The rings of the vCPUs from `first` on, as many as a response carries.
    fn vcpu_rings(&self, first: u32) -> Outcome {
        let links = self.links.as_ref().ok_or_else(disconnected)?;
        if self.transport == Transport::Pipe {
            return Err(Refusal::new(Errno::NOTTY, "this VM carries exits over pipes alone (--transport pipe)"));
        }
        if links.rings().is_none() && self.started {
            return Err(Refusal::new(Errno::BUSY, "rings are made before the start"));
        }
        if links.rings().is_none() && self.pipes_taken {
            return Err(Refusal::new(Errno::BUSY, "the vCPUs' pipes were taken before"));
        }
        let rings = links.make_rings().map_err(|error| Refusal::from(&error))?;
        let wanted = usize::try_from(first).ok().and_then(|first| rings.get(first..));
        let wanted = wanted.ok_or_else(|| Refusal::new(Errno::INVAL, format!("there is no vCPU {first}")))?;
        let fds = wanted.iter().take(MAX_RESPONSE_FDS).map(|ring| ring.descriptor());
        let fds = fds.collect::<std::io::Result<Vec<_>>>().map_err(|error| Refusal::from(&error))?;
        // 254 at most.
        let vcpus = u32::try_from(rings.len()).unwrap_or(u32::MAX);
        let answer = main_response::GetVcpuRings { vcpus, ..Default::default() };
        Ok(Given { message: Some(Response::GetVcpuRings(answer)), fds, ..Given::nothing() })
    }

    fn start(&mut self) -> Outcome {
        if std::mem::replace(&mut self.started, true) {
            return Err(Refusal::new(Errno::INVAL, "the VM was started before"));
        }
        Ok(Given::then(Then::Start))
    }
}

fn new_connection(open: usize) -> Outcome {
    if open >= quota::CONNECTIONS {
        return Err(Refusal::new(Errno::MFILE, format!("a plugin has at most {} connections", quota::CONNECTIONS)));
    }
    let (ours, theirs) = connection::pair().map_err(Refusal::from)?;
    Ok(Given { fds: vec![theirs], ..Given::then(Then::Serve(ours)) })
}

fn done(result: hypervisor::Result<()>) -> Outcome {
    result.map(|()| Given::nothing()).map_err(|error| Refusal::from(&error))
}

fn cpuid_answer(entries: &[hypervisor::kvm_cpuid_entry2]) -> main_response::CpuidResponse {
    main_response::CpuidResponse { entries: cpuid_to_wire(entries), ..Default::default() }
}

#[cold]
fn disconnected() -> Refusal {
    Refusal::new(Errno::PIPE, "the vCPUs were stopped, and the plugin is disconnected from them")
}

fn unknown_request() -> Refusal {
    Refusal::new(Errno::NOTTY, "this VMM does not know it")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use hypervisor::Hypervisor;
    use hypervisor::mock::{Mock, Script};
    use plugin_proto::messages::MainRequest;
    use plugin_proto::messages::main_request::create::Constructor;
    use test_utils::memory::sealed_memfd;

    use super::*;

    /// Whatever is asked of it, it is always there.
    fn mock() -> &'static Mock {
        static MOCK: std::sync::LazyLock<Mock> = std::sync::LazyLock::new(|| Mock::new(Script::nothing()));
        &MOCK
    }

    fn vm(vcpus: u32) -> PluginVm<'static> {
        crate::descriptor_limit::raise();
        let config = vmm_core::Config {
            vcpus: NonZeroU32::new(vcpus).unwrap(),
            exit_timeout: None,
            cgroup: None,
            unclaimed: vmm_core::Unclaimed::default(),
        };
        let (mut machine, _) = Machine::new(mock().create_vm().unwrap(), &config).unwrap();
        let (owner, _) = machine.attach_ends("test").unwrap();
        let links = Arc::new(VcpuLinks::new(vcpus, None).unwrap());
        PluginVm::new(mock(), machine, owner, links, Transport::Auto, None, MemoryQuota::new(None)).unwrap()
    }

    fn errno_of(reply: &Reply) -> i32 {
        match &reply.response {
            Outgoing::Message(response) => response.errno,
            Outgoing::Encoded(_) => 0,
        }
    }

    fn ask(vm: &mut PluginVm, message: Message, fd: Option<OwnedFd>) -> i32 {
        let message = MainRequest { message: Some(message), ..Default::default() };
        errno_of(&vm.handle(Request::new(message, fd), 1))
    }

    fn memory(id: u32, start: u64) -> Message {
        let memory = main_request::create::Memory { start, length: 0x1000, ..Default::default() };
        Message::Create(main_request::Create {
            id,
            constructor: Some(Constructor::Memory(memory)),
            ..Default::default()
        })
    }

    fn reserve(start: u64, length: u64) -> Message {
        Message::ReserveRange(main_request::ReserveRange { start, length, ..Default::default() })
    }

    #[test]
    fn a_plugin_has_64_connections() {
        let mut vm = vm(1);
        for (open, errno) in [(63, 0), (64, libc::EMFILE)] {
            let message = Some(Message::NewConnection(Default::default()));
            let request = Request::new(MainRequest { message, ..Default::default() }, None);
            assert_eq!(errno_of(&vm.handle(request, open)), errno);
        }
    }

    #[test]
    fn responses_that_are_always_the_same_are_encoded_once() {
        let mut vm = vm(1);
        for message in [
            Message::GetSupportedCpuid(Default::default()),
            Message::GetEmulatedCpuid(Default::default()),
            Message::GetMsrIndexList(Default::default()),
        ] {
            let mut encoded = || vm.encoded(&message).unwrap().unwrap();
            let (first, second) = (encoded(), encoded());
            assert!(Arc::ptr_eq(&first, &second));
            let response = plugin_proto::decode_main_response(&first).unwrap();
            assert!(response.errno == 0 && response.message.is_some());
        }
        assert!(vm.encoded(&Message::GetVcpus(Default::default())).is_none());
    }

    #[test]
    fn a_plugin_has_4096_objects_and_a_destroyed_one_makes_room() {
        let mut vm = vm(1);
        let memfd = sealed_memfd(0x1000);
        let fd = || Some(memfd.try_clone().unwrap());
        for id in 0..4096 {
            assert_eq!(ask(&mut vm, memory(id, u64::from(id) << 12), fd()), 0);
        }
        assert_eq!(ask(&mut vm, memory(4096, 4096 << 12), fd()), libc::ENOSPC);
        assert_eq!(ask(&mut vm, memory(7, 4096 << 12), fd()), libc::EEXIST, "the id is looked at first");
        assert_eq!(ask(&mut vm, Message::Destroy(main_request::Destroy { id: 7, ..Default::default() }), None), 0);
        assert_eq!(ask(&mut vm, memory(4096, 4096 << 12), fd()), 0);
    }

    #[test]
    fn a_plugin_has_1024_io_events_and_a_destroyed_one_makes_room() {
        let mut vm = vm(1);
        let event = |id: u32| {
            let event = main_request::create::IoEvent { address: id.into(), length: 1, ..Default::default() };
            let constructor = Some(Constructor::IoEvent(event));
            Message::Create(main_request::Create { id, constructor, ..Default::default() })
        };
        for id in 0..1024 {
            assert_eq!(ask(&mut vm, event(id), None), 0);
        }
        assert_eq!(ask(&mut vm, event(1024), None), libc::ENOSPC);
        assert_eq!(ask(&mut vm, Message::Destroy(main_request::Destroy { id: 7, ..Default::default() }), None), 0);
        assert_eq!(ask(&mut vm, event(1024), None), 0);
    }

    #[test]
    fn a_plugin_has_131072_reservations_and_an_ended_one_makes_room() {
        let mut vm = vm(1);
        for n in 0..131_072 {
            assert_eq!(ask(&mut vm, reserve(n * 2, 1), None), 0);
        }
        assert_eq!(ask(&mut vm, reserve(131_072 * 2, 1), None), libc::ENOSPC);
        assert_eq!(ask(&mut vm, reserve(1, 0), None), libc::ENOENT);
        assert_eq!(ask(&mut vm, reserve(0, 0), None), 0);
        assert_eq!(ask(&mut vm, reserve(131_072 * 2, 1), None), 0);
    }
}
