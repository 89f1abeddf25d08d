//! A VMM's ends of the channels, in the test's hands.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plugin_proto::messages::{
    MainRequest, MainResponse, VcpuRequest, VcpuResponse, main_request, main_response, vcpu_request, vcpu_response,
};
use plugin_proto::{decode_main_request, decode_vcpu_request, encode_main_response, encode_vcpu_response};
use plugin_sdk::{Connection, Vcpu};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::pipe;

/// The VMM's end of a main socket, for tests of a plugin without a VMM.
///
/// Sockets and pipes hold what is sent until it is read, so a test may lay the answer down first, make the call, and look at
/// the request afterwards, all on one thread:
///
/// ```
/// use plugin_proto::messages::{main_request, main_response};
/// use plugin_sdk::AddressSpace;
/// use test_utils::fake::Vmm;
///
/// let (vmm, mut connection) = Vmm::new();
/// vmm.answer(main_response::Message::ReserveRange(Default::default()), &[]);
/// vmm.refuse(1);
///
/// connection.reserve_range(AddressSpace::Pio, 0x300, 4).unwrap();
/// assert_eq!(connection.reserve_range(AddressSpace::Pio, 0x302, 4).unwrap_err().errno(), Some(1));
///
/// let main_request::Message::ReserveRange(range) = vmm.request().0 else { panic!("another request") };
/// assert_eq!((range.start, range.length), (0x300, 4));
/// ```
///
/// All its methods panic where the plugin has disconnected, or has sent what is no request.
#[derive(Debug)]
pub struct Vmm {
    socket: OwnedFd,
}

/// The VMM's ends of a vCPU's pipes. Its methods panic as those of [`Vmm`].
#[derive(Debug)]
pub struct VcpuEnds {
    /// What the plugin asks comes out of here.
    pub requests: OwnedFd,
    /// What it is told goes in here.
    pub responses: OwnedFd,
}

/// A connected pair of sockets, as the VMM makes them: both ends block.
pub fn sockets() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

impl Vmm {
    /// A VMM and the connection of its plugin.
    pub fn new() -> (Self, Connection) {
        let (socket, theirs) = sockets();
        (Self { socket }, Connection::from_fd(theirs))
    }

    /// A VMM at the other end of a socket that was handed out.
    pub fn over(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Ends what it has to say, but still listens.
    pub fn hang_up(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).unwrap();
    }

    /// Sends an answer.
    pub fn answer(&self, message: main_response::Message, fds: &[BorrowedFd<'_>]) {
        let response = MainResponse { message: Some(message), ..Default::default() };
        self.send(&response, fds);
    }

    /// Refuses the next request.
    pub fn refuse(&self, errno: i32) {
        let response = MainResponse { errno, ..Default::default() };
        self.send(&response, &[]);
    }

    /// Sends a response, with descriptors.
    pub fn send(&self, response: &MainResponse, fds: &[BorrowedFd<'_>]) {
        let mut datagram = Vec::new();
        encode_main_response(response, &mut datagram).unwrap();
        self.send_bytes(&datagram, fds);
    }

    /// Sends any datagram.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// The next request, and the descriptors that came with it.
    pub fn request(&self) -> (main_request::Message, Vec<OwnedFd>) {
        let mut bytes = vec![0; 0x40000];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&self.socket, &mut iov, &mut control, RecvFlags::empty()).unwrap();
        let fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let request: MainRequest = decode_main_request(&bytes[..received.bytes]).unwrap();
        (request.message.unwrap(), fds)
    }

    /// Refuses to negotiate, as one of version 0 does.
    pub fn knows_no_rings(&self) {
        self.refuse(rustix::io::Errno::NOTTY.raw_os_error());
    }

    /// Hands `count` vCPUs over `connection`.
    pub fn vcpus(&self, connection: &mut Connection, count: usize) -> Vec<(VcpuEnds, Vcpu)> {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..count).map(|_| VcpuEnds::pipes()).unzip();
        let ends: Vec<_> = theirs.iter().flatten().map(OwnedFd::as_fd).collect();
        self.knows_no_rings();
        self.answer(main_response::Message::GetVcpus(Default::default()), &ends);
        let vcpus = connection.vcpus().unwrap();
        assert!(matches!(self.request().0, main_request::Message::Negotiate(_)));
        assert!(matches!(self.request().0, main_request::Message::GetVcpus(_)));
        ours.into_iter().zip(vcpus).collect()
    }
}

impl VcpuEnds {
    /// One vCPU and the VMM's ends of its pipes.
    pub fn new() -> (Self, Vcpu) {
        let (vmm, mut connection) = Vmm::new();
        vmm.vcpus(&mut connection, 1).pop().unwrap()
    }

    /// The VMM's ends, and the plugin's: the one it writes, then the one it reads.
    pub fn pipes() -> (Self, [OwnedFd; 2]) {
        let (requests, plugin_writes) = pipe().unwrap();
        let (plugin_reads, responses) = pipe().unwrap();
        let ours = Self { requests, responses };
        (ours, [plugin_writes, plugin_reads])
    }

    /// Sends an answer.
    pub fn answer(&self, message: vcpu_response::Message) {
        self.send(&VcpuResponse { message: Some(message), ..Default::default() });
    }

    /// Reports an exit.
    pub fn exit(&self, exit: vcpu_response::wait::Exit) {
        self.answer(vcpu_response::Message::Wait(vcpu_response::Wait { exit: Some(exit), ..Default::default() }));
    }

    /// Reports that the vCPU is to be initialised.
    pub fn init(&self) {
        self.exit(vcpu_response::wait::Exit::Init(Default::default()));
    }

    /// Refuses the next request.
    pub fn refuse(&self, errno: i32) {
        self.send(&VcpuResponse { errno, ..Default::default() });
    }

    /// Sends a response.
    pub fn send(&self, response: &VcpuResponse) {
        let mut bytes = Vec::new();
        encode_vcpu_response(response, &mut bytes).unwrap();
        self.send_bytes(&bytes);
    }

    /// Sends any bytes.
    pub fn send_bytes(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.responses, bytes), Ok(bytes.len()));
    }

    /// The next request.
    pub fn request(&self) -> vcpu_request::Message {
        let mut bytes = vec![0; 0x40000];
        let length = rustix::io::read(&self.requests, &mut bytes).unwrap();
        let request: VcpuRequest = decode_vcpu_request(&bytes[..length]).unwrap();
        request.message.unwrap()
    }

    /// The next request, which must be a resume.
    pub fn resume(&self) -> vcpu_request::Resume {
        match self.request() {
            vcpu_request::Message::Resume(resume) => resume,
            other => panic!("{other:?} in place of a resume"),
        }
    }

    /// Whether the plugin has sent nothing that was not read.
    pub fn is_quiet(&self) -> bool {
        rustix::io::ioctl_fionread(&self.requests) == Ok(0)
    }
}
