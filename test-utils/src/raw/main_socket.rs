//! A main socket: datagrams with descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{Fields, LIMIT, Message, VcpuPipes, VcpuRing, readable_within, request};

/// Most bytes of a datagram, as a client reads them.
const MAX_DATAGRAM: usize = 0x40000;
/// Most descriptors that one `sendmsg` takes (`SCM_MAX_FD`), and so most that could come.
const MAX_FDS: usize = 253;

/// The plugin's end of a main socket.
#[derive(Debug)]
pub struct MainSocket(OwnedFd);

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    /// 0, or why not.
    pub errno: i64,
    /// Which of the answer's alternatives is there.
    pub field: Option<u32>,
    /// What is in it.
    pub body: Fields,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

impl MainSocket {
    /// Takes over a socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends a datagram with descriptors.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn send(&self, datagram: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send_as(datagram, fds, SendFlags::empty())
    }

    /// [`send`](Self::send), which fails where the socket has no room.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn send_at_once(&self, datagram: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send_as(datagram, fds, SendFlags::DONTWAIT)
    }

    fn send_as(&self, datagram: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
        }
        retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(datagram)], &mut control, flags | SendFlags::NOSIGNAL))
            .map(drop)
    }

    /// The next answer; `None` where the VMM has closed the connection.
    ///
    /// # Panics
    ///
    /// If nothing comes within [`LIMIT`], or what comes is no answer.
    pub fn receive(&self) -> Option<Answer> {
        assert!(readable_within(&self.0, LIMIT), "no answer within {LIMIT:?}");
        let mut bytes = vec![0; MAX_DATAGRAM + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags))
        {
            Ok(received) => received,
            Err(Errno::CONNRESET) => return None,
            Err(errno) => panic!("recvmsg: {errno}"),
        };
        assert!(!received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC), "cut: {:?}", received.flags);
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return None;
        }
        assert!(received.bytes <= MAX_DATAGRAM, "an answer of {} bytes", received.bytes);
        let fields = Fields::parse(&bytes[..received.bytes]);
        let alternatives: Vec<u32> = fields.numbers().into_iter().filter(|number| *number != 1).collect();
        assert!(alternatives.len() <= 1, "not one alternative: {fields:?}");
        let field = alternatives.first().copied();
        let body = Fields::parse(field.map(|field| fields.bytes(field)).unwrap_or_default());
        Some(Answer { errno: fields.sint(1), field, body, fds })
    }

    /// Asks and sees that the answer is one to this request.
    ///
    /// # Panics
    ///
    /// If there is none, or one to another request.
    pub fn ask(&self, request: &Message) -> Answer {
        self.ask_with(request, &[])
    }

    /// [`ask`](Self::ask), with descriptors.
    ///
    /// # Panics
    ///
    /// As `ask`.
    pub fn ask_with(&self, request: &Message, fds: &[BorrowedFd<'_>]) -> Answer {
        self.send(request.as_bytes(), fds).unwrap_or_else(|errno| panic!("{request:?}: {errno}"));
        let answer = self.receive().unwrap_or_else(|| panic!("disconnected {request:?}"));
        let asked = Fields::parse(request.as_bytes()).numbers()[0];
        // What the VMM does not know it cannot name.
        if answer.field.is_some() || answer.errno != Errno::NOTTY.raw_os_error().into() {
            assert_eq!(answer.field, Some(request::answer_field(asked)), "not the answer to {request:?}: {answer:?}");
        }
        assert!(answer.errno >= 0, "{answer:?}");
        assert!(answer.errno == 0 || answer.fds.is_empty(), "a refusal with descriptors: {answer:?}");
        answer
    }

    /// Asks for what must succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn done(&self, request: &Message) -> Answer {
        self.done_with(request, &[])
    }

    /// [`done`](Self::done), with descriptors.
    ///
    /// # Panics
    ///
    /// As `done`.
    pub fn done_with(&self, request: &Message, fds: &[BorrowedFd<'_>]) -> Answer {
        let answer = self.ask_with(request, fds);
        assert_eq!(answer.errno, 0, "{request:?}");
        answer
    }

    /// Asks for what must be refused with `errno`.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn refused(&self, request: &Message, errno: Errno) {
        self.refused_with(request, &[], errno);
    }

    /// [`refused`](Self::refused), with descriptors.
    ///
    /// # Panics
    ///
    /// As `refused`.
    pub fn refused_with(&self, request: &Message, fds: &[BorrowedFd<'_>], errno: Errno) {
        let answer = self.ask_with(request, fds);
        assert_eq!(answer.errno, i64::from(errno.raw_os_error()), "not {errno:?} for {request:?}");
    }

    /// Asks for what gives exactly one descriptor.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn descriptor(&self, request: &Message) -> OwnedFd {
        let [fd] = self.done(request).fds.try_into().expect("one descriptor");
        fd
    }

    /// A connection of its own.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn new_connection(&self) -> MainSocket {
        MainSocket(self.descriptor(&request::new_connection()))
    }

    /// The vCPUs' pipes.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn vcpus(&self) -> Vec<VcpuPipes> {
        let mut fds = self.done(&request::get_vcpus()).fds.into_iter();
        let mut vcpus = Vec::new();
        while let Some(requests) = fds.next() {
            vcpus.push(VcpuPipes::new(requests, fds.next().expect("two descriptors a vCPU")));
        }
        vcpus
    }

    /// All vCPUs' rings, as many with a response as it brings.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn rings(&self) -> Vec<VcpuRing> {
        let mut rings = Vec::new();
        loop {
            let answer = self.done(&request::get_vcpu_rings(rings.len() as u32));
            assert!(!answer.fds.is_empty(), "no rings");
            rings.extend(answer.fds.into_iter().map(VcpuRing::new));
            if rings.len() as u64 >= answer.body.uint(1) {
                return rings;
            }
        }
    }

    /// Sees that the VMM has closed the connection.
    ///
    /// # Panics
    ///
    /// If it has not.
    pub fn assert_disconnected(&self) {
        let answer = self.receive();
        assert!(answer.is_none(), "still open: {answer:?}");
    }
}

impl From<MainSocket> for OwnedFd {
    fn from(main: MainSocket) -> Self {
        main.0
    }
}

impl AsFd for MainSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
