//! What a plugin asks for on a main socket, and what it gets.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hypervisor::{GuestAddress, GuestMemoryRegion, SlotId, VcpuId};
use plugin_proto::limits::MAX_VCPUS;
use plugin_proto::messages::main_request::Message;
use plugin_proto::messages::main_request::create::Constructor;
use plugin_proto::messages::{MainResponse, main_request, main_response};
use vmm_core::{Claim, Machine, OwnerId, Service};

use crate::connection::{self, Connection, Request};
use crate::errno::Errno;
use crate::quota;
use crate::shutdown_event::ShutdownEvent;
use crate::tap::Tap;
use crate::vcpu_pipes::VcpuPipes;
use crate::wire::space_from_wire;

/// The VM as a plugin sees it: what its requests act upon. It belongs to no connection.
pub(crate) struct PluginVm {
    pub(crate) machine: Machine,
    pub(crate) owner: OwnerId,
    pub(crate) shutdown: ShutdownEvent,
    pub(crate) pipes: Vec<Arc<VcpuPipes>>,
    tap: Option<Tap>,
    objects: BTreeMap<u32, SlotId>,
    reservations: usize,
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
    pub(crate) fn new(
        machine: Machine,
        owner: OwnerId,
        shutdown: ShutdownEvent,
        pipes: Vec<Arc<VcpuPipes>>,
        tap: Option<Tap>,
    ) -> Self {
        Self { machine, owner, shutdown, pipes, tap, objects: BTreeMap::new(), reservations: 0, started: false }
    }

    /// Does what a request asks for. Whatever it is, there is an answer. `connections` are open now.
    pub(crate) fn handle(&mut self, request: Request, connections: usize) -> Reply {
        let (empty, outcome) = match request.message.message {
            Some(Message::Create(create)) => {
                (main_response::Message::Create(Default::default()), self.create(create, request.fd))
            }
            Some(Message::Destroy(destroy)) => {
                (main_response::Message::Destroy(Default::default()), self.destroy(destroy.id))
            }
            Some(Message::NewConnection(_)) => {
                (main_response::Message::NewConnection(Default::default()), new_connection(connections))
            }
            Some(Message::GetShutdownEventfd(_)) => {
                (main_response::Message::GetShutdownEventfd(Default::default()), self.shutdown_eventfd())
            }
            Some(Message::ReserveRange(range)) => {
                (main_response::Message::ReserveRange(Default::default()), self.reserve_range(&range))
            }
            Some(Message::GetNetConfig(_)) => match self.net_config() {
                Ok((config, tap)) => (main_response::Message::GetNetConfig(config), Ok(Given::descriptors(vec![tap]))),
                Err(errno) => (main_response::Message::GetNetConfig(Default::default()), Err(errno)),
            },
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
        if self.objects.len() >= quota::OBJECTS {
            return Err(Errno::NOSPC);
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

    fn reserve_range(&mut self, range: &main_request::ReserveRange) -> Outcome {
        let space = space_from_wire(range.space)?;
        let map = self.machine.map();
        if range.length == 0 {
            map.release(space, range.start, self.owner).map_err(|error| Errno::from(&error))?;
            self.reservations = self.reservations.saturating_sub(1);
            return Ok(Given::nothing());
        }
        if self.reservations >= quota::RESERVATIONS {
            return Err(Errno::NOSPC);
        }
        let service = if range.async_write { Service::PostedWrites } else { Service::Synchronous };
        let claim = Claim { owner: self.owner, service };
        map.reserve(space, range.start, range.length, claim).map_err(|error| Errno::from(&error))?;
        self.reservations = self.reservations.saturating_add(1);
        Ok(Given::nothing())
    }

    fn net_config(&self) -> Result<(main_response::GetNetConfig, OwnedFd), Errno> {
        let tap = self.tap.as_ref().ok_or(Errno::NODATA)?;
        let device = tap.as_fd().try_clone_to_owned().map_err(|error| Errno::from(&error))?;
        let config = main_response::GetNetConfig {
            host_mac_address: tap.mac().to_vec(),
            // The four bytes in network order, read as a little-endian number.
            host_ipv4_address: u32::from_le_bytes(tap.address().octets()),
            netmask: u32::from_le_bytes(tap.netmask().octets()),
            ..Default::default()
        };
        Ok((config, device))
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

fn new_connection(open: usize) -> Outcome {
    if open >= quota::CONNECTIONS {
        return Err(Errno::MFILE);
    }
    let (ours, theirs) = connection::pair().map_err(Errno::from)?;
    Ok(Given { fds: vec![theirs], then: Some(Then::Serve(ours)) })
}

/// An answer to what this VMM does not know.
fn refusal(errno: Errno) -> MainResponse {
    let mut response = MainResponse::new();
    response.errno = errno.0;
    response
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use hypervisor::Hypervisor;
    use hypervisor::mock::{Mock, Script};
    use plugin_proto::messages::MainRequest;
    use test_utils::memory::sealed_memfd;

    use super::*;

    fn vm(vcpus: u32) -> PluginVm {
        let config = vmm_core::Config { vcpus: NonZeroU32::new(vcpus).unwrap(), exit_timeout: None };
        let (mut machine, _) = Machine::new(Mock::new(Script::nothing()).create_vm().unwrap(), &config).unwrap();
        let (owner, _) = machine.attach_far_ends("test").unwrap();
        let pipes = (0..vcpus).map(|_| Arc::new(VcpuPipes::new().unwrap())).collect();
        PluginVm::new(machine, owner, ShutdownEvent::new().unwrap(), pipes, None)
    }

    fn ask(vm: &mut PluginVm, message: Message, fd: Option<OwnedFd>) -> i32 {
        let message = MainRequest { message: Some(message), ..Default::default() };
        vm.handle(Request { message, fd }, 1).response.errno
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
            let request = Request { message: MainRequest { message, ..Default::default() }, fd: None };
            assert_eq!(vm.handle(request, open).response.errno, errno);
        }
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
