//! What a plugin asks for on a main socket, and what it gets.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hypervisor::{GuestAddress, GuestMemoryRegion, SlotId, VcpuId};
use plugin_proto::limits::MAX_VCPUS;
use plugin_proto::messages::main_request::Message;
use plugin_proto::messages::main_request::create::Constructor;
use plugin_proto::messages::{MainResponse, main_request, main_response};
use vmm_core::{Claim, Machine, OwnerId, Service};

use crate::connection::{self, Connection, Request};
use crate::errno::Errno;
use crate::shutdown_event::ShutdownEvent;
use crate::vcpu_pipes::VcpuPipes;
use crate::wire::space_from_wire;

/// The VM as a plugin sees it: what its requests act upon. It belongs to no connection.
pub(crate) struct PluginVm {
    pub(crate) machine: Machine,
    pub(crate) owner: OwnerId,
    pub(crate) shutdown: ShutdownEvent,
    pub(crate) pipes: Vec<Arc<VcpuPipes>>,
    objects: BTreeMap<u32, SlotId>,
    started: bool,
}

/// The answer to a request, and what is to be done beside it.
pub(crate) struct Reply {
    pub(crate) response: MainResponse,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) then: Then,
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

/// What a request that succeeded gives.
#[derive(Default)]
struct Given {
    fds: Vec<OwnedFd>,
    then: Option<Then>,
}

impl Given {
    fn nothing() -> Self {
        Self::default()
    }

    fn descriptors(fds: Vec<OwnedFd>) -> Self {
        Self { fds, then: None }
    }
}

type Outcome = Result<Given, Errno>;

impl PluginVm {
    pub(crate) fn new(machine: Machine, owner: OwnerId, shutdown: ShutdownEvent, pipes: Vec<Arc<VcpuPipes>>) -> Self {
        Self { machine, owner, shutdown, pipes, objects: BTreeMap::new(), started: false }
    }

    /// Does what a request asks for. Whatever it is, there is an answer.
    pub(crate) fn handle(&mut self, request: Request) -> Reply {
        let (empty, outcome) = match request.message.message {
            Some(Message::Create(create)) => {
                (main_response::Message::Create(Default::default()), self.create(create, request.fd))
            }
            Some(Message::Destroy(destroy)) => {
                (main_response::Message::Destroy(Default::default()), self.destroy(destroy.id))
            }
            Some(Message::NewConnection(_)) => {
                (main_response::Message::NewConnection(Default::default()), new_connection())
            }
            Some(Message::GetShutdownEventfd(_)) => {
                (main_response::Message::GetShutdownEventfd(Default::default()), self.shutdown_eventfd())
            }
            Some(Message::ReserveRange(range)) => {
                (main_response::Message::ReserveRange(Default::default()), self.reserve_range(&range))
            }
            Some(Message::PauseVcpus(pause)) => {
                (main_response::Message::PauseVcpus(Default::default()), self.pause(&pause))
            }
            Some(Message::GetVcpus(_)) => (main_response::Message::GetVcpus(Default::default()), self.vcpus()),
            Some(Message::Start(_)) => (main_response::Message::Start(Default::default()), self.start()),
            _ => return Reply { response: refusal(Errno::NOTTY), fds: Vec::new(), then: Then::Nothing },
        };
        let (errno, given) = match outcome {
            Ok(given) => (0, given),
            Err(errno) => (errno.0, Given::nothing()),
        };
        let mut response = MainResponse::new();
        response.errno = errno;
        response.message = Some(empty);
        Reply { response, fds: given.fds, then: given.then.unwrap_or(Then::Nothing) }
    }

    fn create(&mut self, create: main_request::Create, fd: Option<OwnedFd>) -> Outcome {
        if self.objects.contains_key(&create.id) {
            return Err(Errno::EXIST);
        }
        match create.constructor {
            Some(Constructor::Memory(memory)) => {
                let slot = self.map_memory(&memory, fd.ok_or(Errno::BADF)?)?;
                self.objects.insert(create.id, slot);
                Ok(Given::nothing())
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn map_memory(&self, memory: &main_request::create::Memory, memfd: OwnedFd) -> Result<SlotId, Errno> {
        let region = GuestMemoryRegion::new(GuestAddress(memory.start), memfd, memory.offset, memory.length)
            .map_err(|error| Errno::from(&error))?
            .read_only(memory.read_only)
            .log_dirty(memory.dirty_log);
        self.machine.vm().map_memory(region).map_err(|error| Errno::from(&error))
    }

    fn destroy(&mut self, id: u32) -> Outcome {
        let slot = self.objects.remove(&id).ok_or(Errno::NOENT)?;
        self.machine.vm().unmap_memory(slot).map_err(|error| Errno::from(&error))?;
        Ok(Given::nothing())
    }

    fn shutdown_eventfd(&self) -> Outcome {
        let event = self.shutdown.descriptor().map_err(|error| Errno::from(&error))?;
        Ok(Given::descriptors(vec![event]))
    }

    fn reserve_range(&self, range: &main_request::ReserveRange) -> Outcome {
        let space = space_from_wire(range.space)?;
        let map = self.machine.map();
        let result = if range.length == 0 {
            map.release(space, range.start, self.owner)
        } else {
            let service = if range.async_write { Service::PostedWrites } else { Service::Synchronous };
            map.reserve(space, range.start, range.length, Claim { owner: self.owner, service })
        };
        result.map(|()| Given::nothing()).map_err(|error| Errno::from(&error))
    }

    fn pause(&self, pause: &main_request::PauseVcpus) -> Outcome {
        let mask = pause.cpu_mask;
        let is_meant = |vcpu: VcpuId| mask.checked_shr(vcpu.0).unwrap_or(0) & 1 != 0;
        self.machine.pause(self.owner, is_meant, pause.user);
        Ok(Given::nothing())
    }

    fn vcpus(&self) -> Outcome {
        if self.pipes.len() > MAX_VCPUS {
            tracing::warn!(
                vcpus = self.pipes.len(),
                "a plugin of protocol version 0 gets at most {MAX_VCPUS} vCPUs: run it with --cpus {MAX_VCPUS} or less"
            );
            return Err(Errno::TOOBIG);
        }
        let mut fds = Vec::new();
        for pipes in &self.pipes {
            fds.extend(pipes.plugin_ends().map_err(|error| Errno::from(&error))?);
        }
        Ok(Given::descriptors(fds))
    }

    fn start(&mut self) -> Outcome {
        if std::mem::replace(&mut self.started, true) {
            return Err(Errno::INVAL);
        }
        Ok(Given { fds: Vec::new(), then: Some(Then::Start) })
    }
}

fn new_connection() -> Outcome {
    let (ours, theirs) = connection::pair().map_err(Errno::from)?;
    Ok(Given { fds: vec![theirs], then: Some(Then::Serve(ours)) })
}

/// An answer to what this VMM does not know.
fn refusal(errno: Errno) -> MainResponse {
    let mut response = MainResponse::new();
    response.errno = errno.0;
    response
}
