//! The system calls that carry messages: `sendmsg` and `recvmsg` on a socket, `read` and `write` on a pipe.
//!
//! Plugins keep seccomp policies of their own, so the protocol promises that there are no others but `close` and memory
//! management. All block, and go on when a signal interrupts them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use plugin_proto::limits::{MAX_REQUEST_FDS, MAX_RESPONSE_FDS};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::Error;

/// What becomes of received descriptors in processes that this one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inheritance {
    CloseOnExec,
    Inheritable,
}

impl Inheritance {
    fn flags(self) -> RecvFlags {
        match self {
            Self::CloseOnExec => RecvFlags::CMSG_CLOEXEC,
            Self::Inheritable => RecvFlags::empty(),
        }
    }
}

/// Sends one datagram, with at most one descriptor.
pub(crate) fn send(socket: BorrowedFd<'_>, datagram: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REQUEST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let datagram = [IoSlice::new(datagram)];
    // A datagram is sent whole or not at all.
    retry_on_intr(|| rustix::net::sendmsg(socket, &datagram, &mut control, SendFlags::NOSIGNAL))
        .map(drop)
        .map_err(|errno| Error::system("sending a request", errno))
}

/// Receives one datagram into `buffer`: its length and its descriptors.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    inheritance: Inheritance,
) -> Result<(usize, Vec<OwnedFd>), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RESPONSE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [IoSliceMut::new(buffer)];
    let received = retry_on_intr(|| rustix::net::recvmsg(socket, &mut buffer, &mut control, inheritance.flags()))
        .map_err(|errno| Error::system("receiving a response", errno))?;

    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::unexpected("a response longer than the protocol allows"));
    }
    // The space is rounded up, so a few too many may fit.
    if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_RESPONSE_FDS {
        return Err(Error::unexpected("more descriptors than the protocol or this process may have"));
    }
    match received.bytes {
        0 => Err(Error::Disconnected),
        bytes => Ok((bytes, fds)),
    }
}

/// Reads what is in the pipe, at least a byte. 0 is the pipe's end.
pub(crate) fn read(pipe: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    retry_on_intr(|| rustix::io::read(pipe, &mut *buffer))
        .map_err(|errno| Error::system("reading a vCPU's response", errno))
}

/// Writes one request by one `write`, since that is what makes it one request.
pub(crate) fn write(pipe: BorrowedFd<'_>, request: &[u8]) -> Result<(), Error> {
    let written = retry_on_intr(|| rustix::io::write(pipe, request))
        .map_err(|errno| Error::system("writing a vCPU's request", errno))?;
    if written == request.len() {
        Ok(())
    } else {
        Err(Error::unexpected(format!("a pipe that took {written} of {} bytes", request.len())))
    }
}
