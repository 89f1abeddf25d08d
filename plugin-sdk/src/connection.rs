//! A main socket, and the requests about the life of the VM.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plugin_proto::limits::{FDS_PER_VCPU, MAX_RESPONSE};
use plugin_proto::messages::main_request::{GetVcpuRings, Negotiate, PauseVcpus};
use plugin_proto::messages::{MainRequest, main_request, main_response};
use plugin_proto::{decode_main_response, encode_main_request, ring};
use rustix::io::Errno;

use crate::pipe_link::PipeLink;
use crate::ring_link::RingLink;
use crate::transport::Inheritance;
use crate::vcpu::Link;
use crate::{Error, Vcpu, env, transport};

/// What this library knows beyond version 0, as `negotiate` says it.
const OFFERED: u64 = ring::FEATURE_RINGS | ring::FEATURE_ITEM_WIDTHS;

/// A connection to the VMM.
///
/// A connection has one request under way at a time. A thread that wants to ask while another does needs its own:
/// [`new_connection`](Self::new_connection). Memory, events and reservations belong to the VM and stay when a connection
/// is dropped; any connection may undo what another has made.
pub struct Connection {
    socket: OwnedFd,
    inheritance: Inheritance,
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

/// Sends a request and takes the answer that bears its name: the answer and the descriptors that came with it.
macro_rules! ask {
    ($connection:expr, $name:expr, $variant:ident($request:expr)) => {
        $crate::connection::ask!($connection, $name, $variant($request), None)
    };
    ($connection:expr, $name:expr, $variant:ident($request:expr), $fd:expr) => {{
        use plugin_proto::messages::{main_request, main_response};
        match $connection.exchange($name, main_request::Message::$variant($request), $fd) {
            Ok((main_response::Message::$variant(answer), fds)) => Ok((answer, fds)),
            Ok((other, _)) => Err($crate::Error::unexpected(format!("{other:?} in answer to {}", $name))),
            Err(error) => Err(error),
        }
    }};
}
pub(crate) use ask;

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
        Self::of_vm(socket, Inheritance::CloseOnExec, Arc::default())
    }

    /// Lets the processes that this one starts inherit the descriptors it receives: those that come over this connection from
    /// now on, and over connections made from it. Without this they are close-on-exec.
    #[must_use]
    pub fn with_inheritable_descriptors(self) -> Self {
        Self { inheritance: Inheritance::Inheritable, ..self }
    }

    fn of_vm(socket: OwnedFd, inheritance: Inheritance, vm: Arc<Vm>) -> Self {
        Self { socket, inheritance, datagram: Vec::new(), response: vec![0; MAX_RESPONSE], vm }
    }

    /// Another connection to the same VM, for another thread.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EMFILE` when the VM has as many connections as a plugin may have; or the connection's failure.
    pub fn new_connection(&mut self) -> Result<Self, Error> {
        let (_, fds) = ask!(self, "new_connection", NewConnection(Default::default()))?;
        let [socket] = exactly(fds)?;
        Ok(Self::of_vm(socket, self.inheritance, Arc::clone(&self.vm)))
    }

    /// The eventfd that becomes readable when the plugin should exit; about a second later the VMM hangs up.
    ///
    /// The VMM never reads it, so a plugin may also write it to wake its own main thread.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection's failure.
    pub fn shutdown_eventfd(&mut self) -> Result<OwnedFd, Error> {
        let (_, fds) = ask!(self, "get_shutdown_eventfd", GetShutdownEventfd(Default::default()))?;
        exactly(fds).map(|[event]| event)
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
        match self.negotiate()? {
            Some(lifeline) => self.fetch_rings(Arc::new(lifeline)),
            None => self.fetch_pipes(),
        }
    }

    /// Offers what this library knows: the descriptor that tells of the VMM's end, where it has them. One of version 0 does not know the
    /// request.
    fn negotiate(&mut self) -> Result<Option<OwnedFd>, Error> {
        let offer = Negotiate { version: ring::VERSION, features: OFFERED, ..Default::default() };
        match ask!(self, "negotiate", Negotiate(offer)) {
            Ok((answer, fds)) if answer.features & ring::FEATURE_RINGS != 0 => {
                exactly(fds).map(|[lifeline]| Some(lifeline))
            }
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(Errno::NOTTY.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn fetch_rings(&mut self, lifeline: Arc<OwnedFd>) -> Result<Vec<Vcpu>, Error> {
        let mut vcpus = Vec::new();
        loop {
            // There are at most 254.
            let get = GetVcpuRings { first: vcpus.len() as u32, ..Default::default() };
            let (answer, memfds) = ask!(self, "get_vcpu_rings", GetVcpuRings(get))?;
            if memfds.is_empty() {
                return Err(Error::unexpected("no rings"));
            }
            for memfd in memfds {
                let link = RingLink::new(&memfd, Arc::clone(&lifeline))?;
                vcpus.push(Vcpu::new(vcpus.len(), Link::Ring(link)));
            }
            if vcpus.len() >= answer.vcpus as usize {
                return Ok(vcpus);
            }
        }
    }

    fn fetch_pipes(&mut self) -> Result<Vec<Vcpu>, Error> {
        let (_, fds) = ask!(self, "get_vcpus", GetVcpus(Default::default()))?;
        if fds.len() % FDS_PER_VCPU != 0 {
            return Err(Error::unexpected(format!("{} ends of pipes", fds.len())));
        }
        let mut ends = fds.into_iter();
        let pairs = std::iter::from_fn(|| Some((ends.next()?, ends.next()?)));
        let link = |(requests, responses)| Link::Pipe(PipeLink::new(requests, responses));
        Ok(pairs.map(link).enumerate().map(|(index, link)| Vcpu::new(index, link)).collect())
    }

    /// Starts the VM: every vCPU reports [`Event::Init`](crate::Event::Init), and runs when all have been resumed from it.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` the second time.
    pub fn start(&mut self) -> Result<(), Error> {
        ask!(self, "start", Start(Default::default())).map(drop)
    }

    /// Asks the vCPUs in `mask`, where bit n stands for vCPU n, to stop with [`Event::Paused`](crate::Event::Paused), which
    /// carries `user`. It does not wait for them.
    ///
    /// A pause that a vCPU has not reported yet is replaced by the next; bits past the last vCPU mean nothing.
    ///
    /// # Errors
    /// The connection's failure.
    pub fn pause_vcpus(&mut self, mask: u64, user: u64) -> Result<(), Error> {
        let request = PauseVcpus { cpu_mask: mask, user, ..Default::default() };
        ask!(self, "pause_vcpus", PauseVcpus(request)).map(drop)
    }

    /// Sends a request and waits for its answer. Callers want [`ask!`], which sees that it is the right one.
    pub(crate) fn exchange(
        &mut self,
        name: &'static str,
        message: main_request::Message,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(main_response::Message, Vec<OwnedFd>), Error> {
        let request = MainRequest { message: Some(message), ..Default::default() };
        encode_main_request(&request, &mut self.datagram)?;
        transport::send(self.socket.as_fd(), &self.datagram, fd)?;
        let (length, fds) = transport::receive(self.socket.as_fd(), &mut self.response, self.inheritance)?;
        let response = decode_main_response(&self.response[..length])?;
        Error::check(name, response.errno)?;
        match response.message {
            Some(message) => Ok((message, fds)),
            None => Err(Error::unexpected(format!("nothing in the answer to {name}"))),
        }
    }
}

/// The descriptors of an answer that has `N` of them.
pub(crate) fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], Error> {
    <[OwnedFd; N]>::try_from(fds)
        .map_err(|fds| Error::unexpected(format!("{} descriptors where {N} are due", fds.len())))
}
