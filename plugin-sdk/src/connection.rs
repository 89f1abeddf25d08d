//! A main socket: requests about the VM as a whole.

use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use plugin_proto::limits::{FDS_PER_VCPU, MAX_RESPONSE};
use plugin_proto::messages::main_request::create::{Constructor, Memory};
use plugin_proto::messages::main_request::{Create, Destroy, PauseVcpus, ReserveRange};
use plugin_proto::messages::{MainRequest, main_request, main_response};
use plugin_proto::{decode_main_response, encode_main_request};

use crate::{AddressSpace, Error, GuestMemory, Vcpu, env, transport};

/// The id of the next object. Ids belong to the VM, not to a connection, so all connections of the process draw from here.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A connection to the VMM.
///
/// A connection has one request under way at a time. A thread that wants to ask while another does needs its own:
/// [`new_connection`](Self::new_connection). Memory and reservations belong to the VM and stay when a connection is
/// dropped.
pub struct Connection {
    socket: OwnedFd,
    datagram: Vec<u8>,
    response: Vec<u8>,
    vm: Arc<Vm>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What the connections to one VM share.
#[derive(Debug, Default)]
struct Vm {
    vcpus_taken: AtomicBool,
}

/// Memory of the guest, until it is given to [`Connection::unmap`]. Dropping it leaves the memory where it is.
#[derive(Debug)]
#[must_use = "without it the memory cannot be unmapped"]
pub struct MappedMemory {
    id: u32,
}

/// How the guest may use memory and what is remembered of it. By default it reads and writes, and nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFlags {
    /// The guest's writes do not reach the memory but are MMIO accesses.
    pub read_only: bool,
    /// Which pages the guest writes is tracked.
    pub dirty_log: bool,
}

impl Connection {
    /// Takes over the socket that the VMM left for this process, which `CROSVM_SOCKET` names. This works once.
    ///
    /// # Errors
    /// [`Error::NoSocket`], [`Error::BadSocket`], [`Error::SocketTaken`].
    pub fn from_env() -> Result<Self, Error> {
        env::take_socket().map(Self::from_fd)
    }

    /// A connection over `socket`, the plugin's end of a `SOCK_SEQPACKET` pair, for plugins that get it in another way.
    #[must_use]
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self::of_vm(socket, Arc::default())
    }

    fn of_vm(socket: OwnedFd, vm: Arc<Vm>) -> Self {
        Self { socket, datagram: Vec::new(), response: vec![0; MAX_RESPONSE], vm }
    }

    /// Another connection to the same VM, for another thread.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection's failure.
    pub fn new_connection(&mut self) -> Result<Self, Error> {
        let request = main_request::Message::NewConnection(Default::default());
        match self.ask("new_connection", request, None)? {
            (main_response::Message::NewConnection(_), fds) => Ok(Self::of_vm(one(fds)?, Arc::clone(&self.vm))),
            (other, _) => Err(other_answer("new_connection", &other)),
        }
    }

    /// The eventfd that becomes readable when the plugin should exit; about a second later the VMM hangs up.
    ///
    /// The VMM never reads it, so a plugin may also write it to wake its own main thread.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection's failure.
    pub fn shutdown_eventfd(&mut self) -> Result<OwnedFd, Error> {
        let request = main_request::Message::GetShutdownEventfd(Default::default());
        match self.ask("get_shutdown_eventfd", request, None)? {
            (main_response::Message::GetShutdownEventfd(_), fds) => one(fds),
            (other, _) => Err(other_answer("get_shutdown_eventfd", &other)),
        }
    }

    /// Reserves `length` addresses from `start` on: accesses there stop the vCPU and become events of this plugin.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EPERM` when part of the range is reserved already, `EINVAL` when it passes the last address.
    pub fn reserve_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, false)
    }

    /// Like [`reserve_range`](Self::reserve_range) for writes that the guest does not wait for: each comes as
    /// [`Event::Posted`](crate::Event::Posted). Reads of the range are not the plugin's.
    ///
    /// # Errors
    /// As for [`reserve_range`](Self::reserve_range).
    pub fn reserve_async_write_range(&mut self, space: AddressSpace, start: u64, length: u64) -> Result<(), Error> {
        self.reserve(space, start, length, true)
    }

    /// Ends the reservation that begins at `start`.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENOENT` when none begins there.
    pub fn release_range(&mut self, space: AddressSpace, start: u64) -> Result<(), Error> {
        self.reserve(space, start, 0, false)
    }

    fn reserve(&mut self, space: AddressSpace, start: u64, length: u64, async_write: bool) -> Result<(), Error> {
        let request = main_request::Message::ReserveRange(ReserveRange {
            space: plugin_proto::messages::AddressSpace::from(space).into(),
            start,
            length,
            async_write,
            ..Default::default()
        });
        match self.ask("reserve_range", request, None)? {
            (main_response::Message::ReserveRange(_), _) => Ok(()),
            (other, _) => Err(other_answer("reserve_range", &other)),
        }
    }

    /// Shows the bytes `part` of `memory` to the guest, from the guest-physical `address` on. Offsets, length and address are
    /// multiples of [`PAGE_SIZE`](crate::PAGE_SIZE). The VMM holds the memory by itself: dropping `memory` takes nothing
    /// from the guest.
    ///
    /// # Errors
    /// [`Error::NotPages`] or [`Error::OutOfBounds`] for a `part` that is no part of `memory`. [`Error::Refused`]:
    /// `EEXIST` when the guest has memory there already.
    pub fn map_memory(
        &mut self,
        memory: &GuestMemory,
        part: Range<u64>,
        address: u64,
        flags: MemoryFlags,
    ) -> Result<MappedMemory, Error> {
        let length = part.end.saturating_sub(part.start);
        memory.check_part(part.start, length)?;
        let constructor = Constructor::Memory(Memory {
            offset: part.start,
            start: address,
            length,
            read_only: flags.read_only,
            dirty_log: flags.dirty_log,
            ..Default::default()
        });
        let (id, _) = self.create(constructor, Some(memory.as_fd()))?;
        Ok(MappedMemory { id })
    }

    /// Takes memory away from the guest.
    ///
    /// # Errors
    /// [`Error::Refused`]; the memory is gone from the VMM's books all the same.
    pub fn unmap(&mut self, memory: MappedMemory) -> Result<(), Error> {
        self.destroy(memory.id)
    }

    /// All vCPUs of the VM, in order. They can be had once, since each stands for one channel.
    ///
    /// # Errors
    /// [`Error::VcpusTaken`]. [`Error::Refused`]: `E2BIG` when the VM has more vCPUs than version 0 can carry.
    pub fn vcpus(&mut self) -> Result<Vec<Vcpu>, Error> {
        let vm = Arc::clone(&self.vm);
        if vm.vcpus_taken.swap(true, Ordering::Relaxed) {
            return Err(Error::VcpusTaken);
        }
        let vcpus = self.fetch_vcpus();
        if vcpus.is_err() {
            vm.vcpus_taken.store(false, Ordering::Relaxed);
        }
        vcpus
    }

    fn fetch_vcpus(&mut self) -> Result<Vec<Vcpu>, Error> {
        let request = main_request::Message::GetVcpus(Default::default());
        let fds = match self.ask("get_vcpus", request, None)? {
            (main_response::Message::GetVcpus(_), fds) => fds,
            (other, _) => return Err(other_answer("get_vcpus", &other)),
        };
        if fds.len() % FDS_PER_VCPU != 0 {
            return Err(Error::unexpected(format!("{} ends of pipes", fds.len())));
        }
        let mut ends = fds.into_iter();
        let pairs = std::iter::from_fn(|| Some((ends.next()?, ends.next()?)));
        Ok(pairs.enumerate().map(|(index, (requests, responses))| Vcpu::new(index, requests, responses)).collect())
    }

    /// Starts the VM: every vCPU reports [`Event::Init`](crate::Event::Init), and runs when all have been resumed from it.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` the second time.
    pub fn start(&mut self) -> Result<(), Error> {
        let request = main_request::Message::Start(Default::default());
        match self.ask("start", request, None)? {
            (main_response::Message::Start(_), _) => Ok(()),
            (other, _) => Err(other_answer("start", &other)),
        }
    }

    /// Asks the vCPUs in `mask`, where bit n stands for vCPU n, to stop with [`Event::Paused`](crate::Event::Paused), which
    /// carries `user`. It does not wait for them.
    ///
    /// A pause that a vCPU has not reported yet is replaced by the next; bits past the last vCPU mean nothing.
    ///
    /// # Errors
    /// The connection's failure.
    pub fn pause_vcpus(&mut self, mask: u64, user: u64) -> Result<(), Error> {
        let request = main_request::Message::PauseVcpus(PauseVcpus { cpu_mask: mask, user, ..Default::default() });
        match self.ask("pause_vcpus", request, None)? {
            (main_response::Message::PauseVcpus(_), _) => Ok(()),
            (other, _) => Err(other_answer("pause_vcpus", &other)),
        }
    }

    /// Makes an object: its id and the descriptors that stand for it.
    fn create(&mut self, constructor: Constructor, fd: Option<BorrowedFd<'_>>) -> Result<(u32, Vec<OwnedFd>), Error> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let request =
            main_request::Message::Create(Create { id, constructor: Some(constructor), ..Default::default() });
        match self.ask("create", request, fd)? {
            (main_response::Message::Create(_), fds) => Ok((id, fds)),
            (other, _) => Err(other_answer("create", &other)),
        }
    }

    fn destroy(&mut self, id: u32) -> Result<(), Error> {
        let request = main_request::Message::Destroy(Destroy { id, ..Default::default() });
        match self.ask("destroy", request, None)? {
            (main_response::Message::Destroy(_), _) => Ok(()),
            (other, _) => Err(other_answer("destroy", &other)),
        }
    }

    /// Sends a request and waits for its answer.
    fn ask(
        &mut self,
        name: &'static str,
        message: main_request::Message,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(main_response::Message, Vec<OwnedFd>), Error> {
        let request = MainRequest { message: Some(message), ..Default::default() };
        encode_main_request(&request, &mut self.datagram)?;
        transport::send(self.socket.as_fd(), &self.datagram, fd)?;
        let (length, fds) = transport::receive(self.socket.as_fd(), &mut self.response)?;
        let response = decode_main_response(&self.response[..length])?;
        Error::check(name, response.errno)?;
        match response.message {
            Some(message) => Ok((message, fds)),
            None => Err(Error::unexpected(format!("nothing in the answer to {name}"))),
        }
    }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    <[OwnedFd; 1]>::try_from(fds)
        .map(|[fd]| fd)
        .map_err(|fds| Error::unexpected(format!("{} descriptors in place of one", fds.len())))
}

fn other_answer(request: &str, answer: &main_response::Message) -> Error {
    Error::unexpected(format!("{answer:?} in answer to {request}"))
}
