//! What the library cannot do: bytes of one's own choice on the channels, and closing parts of them.
//!
//! | step | does |
//! |---|---|
//! | `raw-main=HEX` | sends a datagram on the main socket, which the library may hold too |
//! | `raw-vcpus` | takes the pipes of vCPU 0 and closes those of the others |
//! | `raw-wait`, `raw-resume`, `raw-shutdown` | sends that request |
//! | `raw-half` | writes the first half of a request that sets the registers |
//! | `raw-write=HEX` | writes these bytes to the vCPU's requests |
//! | `raw-readable` | waits until a response can be read |
//! | `raw-read` | reads a response, which must be a wait response |
//! | `raw-boot` | lets the vCPU begin at the code |
//! | `raw-close-requests`, `raw-close-responses` | closes one pipe |
//! | `raw-await-end` | waits until no response will come |

#![allow(unsafe_code, reason = "the main socket is known by its number")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plugin_proto::limits::{MAX_RESPONSE, MAX_RESPONSE_FDS, SOCKET_VARIABLE};
use plugin_proto::messages::vcpu_request::{GetState, Message, SetState, StateSet};
use plugin_proto::messages::{MainRequest, VcpuRequest, VcpuResponse, vcpu_response};
use plugin_proto::{ResponseReader, encode_main_request, encode_vcpu_request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use test_utils::guest::ENTRY;

use crate::{Failure, hex};

/// vCPU 0's pipes.
#[derive(Default)]
pub(crate) struct Vcpu {
    requests: Option<OwnedFd>,
    responses: Option<OwnedFd>,
    reader: ResponseReader,
}

impl Vcpu {
    pub(crate) fn step(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "main" => send(&hex(value)?)?,
            "vcpus" => self.take_pipes()?,
            "wait" => self.send(Message::Wait(Default::default()))?,
            "resume" => self.send(Message::Resume(Default::default()))?,
            "shutdown" => self.send(Message::Shutdown(Default::default()))?,
            "half" => {
                let request = encoded(set(StateSet::REGS, vec![0; 144]))?;
                self.write(&request[..request.len() / 2])?;
            }
            "write" => self.write(&hex(value)?)?,
            "readable" => await_readable(self.responses()?)?,
            "read" => self.read_wait()?,
            "boot" => self.boot()?,
            "close-requests" => self.requests = None,
            "close-responses" => self.responses = None,
            "await-end" => self.await_end()?,
            _ => return Err("no such step".into()),
        }
        Ok(())
    }

    fn take_pipes(&mut self) -> Result<(), Failure> {
        let mut request = MainRequest::new();
        request.set_get_vcpus(Default::default());
        let mut datagram = Vec::new();
        encode_main_request(&request, &mut datagram)?;
        send(&datagram)?;
        let mut ends = receive_fds()?.into_iter();
        (self.requests, self.responses) = (ends.next(), ends.next());
        self.responses().map(drop)
    }

    fn responses(&self) -> Result<&OwnedFd, Failure> {
        self.responses.as_ref().ok_or_else(|| "no pipe for responses".into())
    }

    fn send(&self, message: Message) -> Result<(), Failure> {
        self.write(&encoded(message)?)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let pipe = self.requests.as_ref().ok_or("no pipe for requests")?;
        let written = rustix::io::write(pipe, bytes)?;
        if written == bytes.len() { Ok(()) } else { Err("the pipe is full".into()) }
    }

    /// The next response; `None` at the pipe's end.
    fn read(&mut self) -> Result<Option<VcpuResponse>, Failure> {
        loop {
            if let Some(response) = self.reader.next_response()? {
                return Ok(Some(response));
            }
            let mut buffer = [0; 4096];
            let pipe = self.responses()?;
            match retry_on_intr(|| rustix::io::read(pipe, &mut buffer))? {
                0 => return Ok(None),
                length => self.reader.feed(&buffer[..length]),
            }
        }
    }

    fn answer(&mut self) -> Result<vcpu_response::Message, Failure> {
        match self.read()? {
            Some(VcpuResponse { errno: 0, message: Some(message), .. }) => Ok(message),
            other => Err(format!("{other:?} in place of an answer").into()),
        }
    }

    fn read_wait(&mut self) -> Result<(), Failure> {
        match self.answer()? {
            vcpu_response::Message::Wait(_) => Ok(()),
            other => Err(format!("{other:?} in place of a wait response").into()),
        }
    }

    /// The structs are the kernel's: `kvm_sregs` begins with CS, its base first and its selector after the limit;
    /// `kvm_regs` has RIP and RFLAGS behind 16 registers.
    fn boot(&mut self) -> Result<(), Failure> {
        self.send(Message::GetState(GetState { set: StateSet::SREGS.into(), ..Default::default() }))?;
        let vcpu_response::Message::GetState(answer) = self.answer()? else { return Err("no registers".into()) };
        let mut sregs = answer.state;
        sregs[0..8].fill(0);
        sregs[12..14].fill(0);
        self.send(set(StateSet::SREGS, sregs))?;
        self.answer()?;
        let mut regs = vec![0; 144];
        regs[128..136].copy_from_slice(&ENTRY.to_le_bytes());
        regs[136] = 2;
        self.send(set(StateSet::REGS, regs))?;
        self.answer()?;
        Ok(())
    }

    fn await_end(&mut self) -> Result<(), Failure> {
        while self.read()?.is_some() {}
        Ok(())
    }
}

fn set(set: StateSet, state: Vec<u8>) -> Message {
    Message::SetState(SetState { set: set.into(), state, ..Default::default() })
}

fn encoded(message: Message) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    encode_vcpu_request(&VcpuRequest { message: Some(message), ..Default::default() }, &mut bytes)?;
    Ok(bytes)
}

/// The first connection's socket.
pub(crate) fn main_socket() -> Result<BorrowedFd<'static>, Failure> {
    let number = std::env::var(SOCKET_VARIABLE)?.parse()?;
    // SAFETY: the number is not -1, since it was parsed from what the VMM wrote. Used only by steps that come before
    // `close-main`, so the descriptor is open.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

fn send(datagram: &[u8]) -> Result<(), Failure> {
    let datagram = [IoSlice::new(datagram)];
    sendmsg(main_socket()?, &datagram, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_fds() -> Result<Vec<OwnedFd>, Failure> {
    let mut bytes = vec![0; MAX_RESPONSE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RESPONSE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(main_socket()?, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

/// Waits until there is something to read, or nothing will ever be.
pub(crate) fn await_readable(fd: impl AsFd) -> Result<(), Failure> {
    retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], None))?;
    Ok(())
}
