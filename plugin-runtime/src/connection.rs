//! One main socket: datagrams in, datagrams out, descriptors with them.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plugin_proto::limits::{MAX_REQUEST, MAX_REQUEST_FDS, MAX_RESPONSE, MAX_RESPONSE_FDS};
use plugin_proto::messages::{MainRequest, MainResponse};
use plugin_proto::{Incoming, bare_main_request, decode_incoming, encode_main_response};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, socketpair, sockopt,
};
use thiserror::Error as ThisError;

use crate::errno::Errno as PluginErrno;
use crate::quota::UNREAD_FDS;
use crate::unread::peer_has_unread;

/// The VMM's end of a main socket.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// How many descriptors the last response that had some brought.
    sent_fds: usize,
}

/// Space for messages, shared by all connections.
pub(crate) struct Buffers {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { incoming: vec![0; MAX_REQUEST], outgoing: Vec::new() }
    }
}

/// A request, and the descriptors that came with it.
#[derive(Debug)]
pub(crate) struct Request {
    /// The request; without what it holds, where `content` says so.
    pub(crate) message: MainRequest,
    pub(crate) content: Content,
    pub(crate) fd: Option<OwnedFd>,
}

/// Where the content of a request is.
#[derive(Debug)]
pub(crate) enum Content {
    /// In the message.
    Decoded,
    /// Here: the encoded routes of a `set_irq_routing`. They are decoded as the request is served, so that the time is charged.
    Routes(Box<[u8]>),
    /// Nowhere: it has more fields than the protocol allows, and is refused with this errno.
    TooMany(PluginErrno),
}

impl Request {
    pub(crate) fn new(message: MainRequest, fd: Option<OwnedFd>) -> Self {
        Self { message, content: Content::Decoded, fd }
    }

    /// The request in a datagram.
    fn decode(datagram: &[u8], fd: Option<OwnedFd>) -> Result<Self, plugin_proto::Error> {
        match decode_incoming(datagram) {
            Ok(Incoming::Other(message)) => Ok(Self::new(message, fd)),
            Ok(Incoming::Routing(routes)) => {
                Ok(Self { message: bare_main_request(SET_IRQ_ROUTING), content: Content::Routes(routes.into()), fd })
            }
            Err(plugin_proto::Error::TooMany { outermost, .. }) => {
                // As the kernel has it.
                let errno = if outermost == SET_IRQ_ROUTING { PluginErrno::INVAL } else { PluginErrno::TOOBIG };
                Ok(Self { message: bare_main_request(outermost), content: Content::TooMany(errno), fd })
            }
            Err(error) => Err(error),
        }
    }
}

/// The number of the request in `MainRequest`.
const SET_IRQ_ROUTING: u32 = 12;

/// Why a connection ends.
#[derive(Debug, ThisError)]
pub(crate) enum Fault {
    /// The peer closed it, which is normal.
    #[error("disconnected")]
    Disconnected,
    /// What came is no request.
    #[error("{0}")]
    Decode(plugin_proto::Error),
    /// A datagram longer than any request.
    #[error("a datagram of more than {MAX_REQUEST} bytes")]
    TooLong,
    /// More descriptors than a request may bring.
    #[error("a request with more than {MAX_REQUEST_FDS} descriptor")]
    TooManyDescriptors,
    /// The response has no encoding.
    #[error("{0}")]
    Encode(plugin_proto::Error),
    /// The socket cannot be read.
    #[error("receiving: {0}")]
    Receive(Errno),
    /// Descriptors are due, and the peer has not read what it was sent before. Those under way count against all
    /// processes of the VMM's user (`ETOOMANYREFS`), so a peer may leave one answer's unread, not a queue's.
    #[error("it asked for descriptors before it had read its last answers")]
    Unread,
    /// Descriptors are due, and those that the plugin has not read on other connections are too many.
    #[error("the plugin asked for descriptors and has left {UNREAD_FDS} of them unread")]
    UnreadElsewhere,
    /// The socket takes no response: the peer does not read them.
    #[error("sending: {0}")]
    Send(Errno),
}

/// A connected pair that carries the longest messages: the VMM's end, then the plugin's.
pub(crate) fn pair() -> rustix::io::Result<(Connection, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for (end, largest) in [(&ours, MAX_RESPONSE), (&theirs, MAX_REQUEST)] {
        // The kernel doubles it for its own use; a lower limit of the system's only makes the longest messages fail.
        if let Err(errno) = sockopt::set_socket_send_buffer_size(end, largest) {
            tracing::debug!(%errno, "a main socket keeps its default buffer");
        }
    }
    Ok((Connection { socket: ours, sent_fds: 0 }, theirs))
}

impl Connection {
    /// The next request, or `None` where none is waiting.
    pub(crate) fn receive(&self, buffers: &mut Buffers) -> Result<Option<Request>, Fault> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REQUEST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = retry_on_intr(|| {
            let mut incoming = [IoSliceMut::new(&mut buffers.incoming)];
            rustix::net::recvmsg(&self.socket, &mut incoming, &mut control, flags)
        });
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(Fault::Disconnected),
            Err(errno) => return Err(Fault::Receive(errno)),
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(Fault::Disconnected);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(Fault::TooLong);
        }
        // All that came is lost where this process may open nothing more.
        if received.flags.contains(ReturnFlags::CTRUNC) && fds.is_empty() {
            return Err(Fault::Receive(Errno::MFILE));
        }
        // The space is rounded up, so a few too many fit.
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_REQUEST_FDS {
            return Err(Fault::TooManyDescriptors);
        }
        let datagram = buffers.incoming.get(..received.bytes).unwrap_or_default();
        Request::decode(datagram, fds.pop()).map(Some).map_err(Fault::Decode)
    }

    /// Sends a response with its descriptors. It never waits for a peer that does not read.
    pub(crate) fn send(
        &mut self,
        response: &MainResponse,
        fds: &[OwnedFd],
        buffers: &mut Buffers,
    ) -> Result<(), Fault> {
        encode_main_response(response, &mut buffers.outgoing).map_err(Fault::Encode)?;
        self.send_encoded(&buffers.outgoing, fds)
    }

    /// [`send`](Self::send) of a response that is encoded already.
    pub(crate) fn send_encoded(&mut self, response: &[u8], fds: &[OwnedFd]) -> Result<(), Fault> {
        // Once they were read, responses that are not do not make them unread.
        self.sent_fds = self.unread_fds();
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RESPONSE_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            if peer_has_unread(&self.socket).map_err(Fault::Send)? {
                return Err(Fault::Unread);
            }
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let outgoing = [IoSlice::new(response)];
        match retry_on_intr(|| rustix::net::sendmsg(&self.socket, &outgoing, &mut control, flags)) {
            Ok(_) if fds.is_empty() => Ok(()),
            Ok(_) => {
                self.sent_fds = fds.len();
                Ok(())
            }
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Fault::Disconnected),
            Err(errno) => Err(Fault::Send(errno)),
        }
    }
}

impl Connection {
    /// How many descriptors the peer has been sent and has not read, which the kernel counts for the VMM's user.
    pub(crate) fn unread_fds(&self) -> usize {
        let is_read = self.sent_fds == 0 || peer_has_unread(&self.socket) == Ok(false);
        if is_read { 0 } else { self.sent_fds }
    }

    /// Ends it for the peer, which can still read what it was sent.
    pub(crate) fn shut_down(&self) {
        // It is connected, so this cannot fail.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use plugin_proto::messages::{main_request, main_response};
    use rustix::net::send;

    use super::*;

    fn start() -> Vec<u8> {
        let mut request = MainRequest::new();
        request.set_start(main_request::Start::new());
        let mut bytes = Vec::new();
        plugin_proto::encode_main_request(&request, &mut bytes).unwrap();
        bytes
    }

    fn send_with_fds(socket: &OwnedFd, bytes: &[u8], count: usize) {
        let fds: Vec<OwnedFd> = (0..count).map(|_| rustix::pipe::pipe().unwrap().0).collect();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_request_is_received_with_its_descriptor() {
        let (ours, theirs) = pair().unwrap();
        let mut buffers = Buffers::new();
        assert!(ours.receive(&mut buffers).unwrap().is_none());
        send_with_fds(&theirs, &start(), 1);
        let request = ours.receive(&mut buffers).unwrap().unwrap();
        assert!(request.message.has_start() && request.fd.is_some());
        send(&theirs, &start(), SendFlags::empty()).unwrap();
        assert!(ours.receive(&mut buffers).unwrap().unwrap().fd.is_none());
    }

    #[test]
    fn more_descriptors_than_one_are_refused_and_closed() {
        for count in 2..=8 {
            let (ours, theirs) = pair().unwrap();
            send_with_fds(&theirs, &start(), count);
            let fault = ours.receive(&mut Buffers::new()).unwrap_err();
            assert!(matches!(fault, Fault::TooManyDescriptors), "{count}: {fault}");
        }
    }

    #[test]
    fn the_longest_request_is_taken_and_a_longer_one_is_not() {
        let (ours, theirs) = pair().unwrap();
        sockopt::set_socket_send_buffer_size(&theirs, 4 * MAX_REQUEST).unwrap();
        let mut buffers = Buffers::new();
        // An unknown field of bytes fills the rest of the datagram: its tag and length take five bytes.
        let mut longest = start();
        let filler = MAX_REQUEST - longest.len() - 5;
        longest.extend([0xfa, 0x3f, (filler & 0x7f) as u8 | 0x80, (filler >> 7) as u8 | 0x80, (filler >> 14) as u8]);
        longest.resize(MAX_REQUEST, 0);
        send(&theirs, &longest, SendFlags::empty()).unwrap();
        assert!(ours.receive(&mut buffers).unwrap().unwrap().message.has_start());
        longest.push(0);
        send(&theirs, &longest, SendFlags::empty()).unwrap();
        assert!(matches!(ours.receive(&mut buffers), Err(Fault::TooLong)));
    }

    #[test]
    fn garbage_an_empty_datagram_and_a_closed_peer_end_the_connection() {
        let (ours, theirs) = pair().unwrap();
        let mut buffers = Buffers::new();
        send(&theirs, &[0xff; 20], SendFlags::empty()).unwrap();
        assert!(matches!(ours.receive(&mut buffers), Err(Fault::Decode(_))));
        send(&theirs, &[], SendFlags::empty()).unwrap();
        assert!(matches!(ours.receive(&mut buffers), Err(Fault::Disconnected)));
        drop(theirs);
        assert!(matches!(ours.receive(&mut buffers), Err(Fault::Disconnected)));
    }

    #[test]
    fn descriptors_go_only_to_a_peer_that_has_read_its_answers() {
        let (mut ours, theirs) = pair().unwrap();
        let mut buffers = Buffers::new();
        let mut response = MainResponse::new();
        response.set_get_vcpus(main_response::GetVcpus::new());
        let fds = [rustix::pipe::pipe().unwrap().0];
        for _ in 0..2 {
            ours.send(&response, &fds, &mut buffers).unwrap();
            ours.send(&response, &[], &mut buffers).unwrap();
            assert!(matches!(ours.send(&response, &fds, &mut buffers), Err(Fault::Unread)));
            for _ in 0..2 {
                rustix::net::recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
            }
        }
    }

    #[test]
    fn descriptors_count_until_they_are_read_or_the_peer_is_closed() {
        let (mut ours, theirs) = pair().unwrap();
        let mut buffers = Buffers::new();
        let mut response = MainResponse::new();
        response.set_get_vcpus(main_response::GetVcpus::new());
        let fds = [rustix::pipe::pipe().unwrap().0];
        ours.send(&response, &[], &mut buffers).unwrap();
        assert_eq!(ours.unread_fds(), 0);
        rustix::net::recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
        ours.send(&response, &fds, &mut buffers).unwrap();
        rustix::net::recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
        ours.send(&response, &[], &mut buffers).unwrap();
        assert_eq!(ours.unread_fds(), 0);
        rustix::net::recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
        ours.send(&response, &fds, &mut buffers).unwrap();
        ours.shut_down();
        assert_eq!(ours.unread_fds(), 1);
        rustix::net::recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
        assert_eq!(ours.unread_fds(), 0);
        let (mut ours, theirs) = pair().unwrap();
        ours.send(&response, &fds, &mut buffers).unwrap();
        assert_eq!(ours.unread_fds(), 1);
        drop(theirs);
        assert_eq!(ours.unread_fds(), 0);
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_waited_for() {
        let (mut ours, _theirs) = pair().unwrap();
        let mut buffers = Buffers::new();
        let mut response = MainResponse::new();
        response.set_start(main_response::Start::new());
        let fault = (0..100_000).find_map(|_| ours.send(&response, &[], &mut buffers).err());
        assert!(matches!(fault, Some(Fault::Send(Errno::AGAIN))), "{fault:?}");
    }
}
