//! The exits of a vCPU over its pipes, in the messages of protocol version 0.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use hypervisor::Access;
use plugin_proto::encode_vcpu_response;
use plugin_proto::limits::MAX_REQUEST;
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::messages::{VcpuRequest, VcpuResponse};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno as OsErrno, retry_on_intr};
use vmm_core::{Action, LinkError, PostedWrite, StopSignal, StoppedVcpu, VcpuExit};

use super::message::{
    Fault, access_response, attach, hyperv_call_response, hyperv_synic_response, init_response, paused_response,
    posted_response, refusal,
};
use super::pipes::VcpuPipes;
use super::serve::{Incoming, Served, decode, empty_request, serve_request};
use crate::errno::Errno;
use crate::refusal::Refusal;

/// The handler of one vCPU. A request of the plugin is read only while the vCPU is stopped.
pub(super) struct PipeHandler {
    pipes: Arc<VcpuPipes>,
    /// Whether accesses report the width of their items.
    item_widths: bool,
    stop: StopSignal,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

type Result<T> = std::result::Result<T, LinkError>;

impl PipeHandler {
    pub(super) fn new(pipes: Arc<VcpuPipes>, item_widths: bool, stop: StopSignal) -> Self {
        let (incoming, outgoing) = (vec![0; MAX_REQUEST], Vec::new());
        Self { pipes, item_widths, stop, incoming, outgoing }
    }

    /// Sends `exit` to the plugin, and serves its requests until it resumes the vCPU.
    pub(super) fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action> {
        let deadline = vcpu.deadline();
        let mut exchange = match exit {
            VcpuExit::Init => {
                self.introduce(deadline)?;
                Box::default()
            }
            VcpuExit::Access { access, exchange } => {
                let mut response = access_response(&access, exchange.write_data(&access));
                attach(&mut response, &exchange.attached);
                self.put_width(&mut response, &access);
                self.respond(&response, deadline)?;
                exchange
            }
            VcpuExit::HypervCall { input, params, exchange } => {
                self.respond(&hyperv_call_response(input, params), deadline)?;
                exchange
            }
            VcpuExit::HypervSynic(write) => {
                self.respond(&hyperv_synic_response(write), deadline)?;
                Box::default()
            }
            VcpuExit::Paused { user } => {
                self.respond(&paused_response(user), deadline)?;
                Box::default()
            }
        };
        loop {
            let request = self.request(deadline)?;
            match serve_request(request, vcpu, &mut exchange)? {
                Served::Response(response) => self.respond(&response, deadline)?,
                Served::Resume => return Ok(Action::Resume(exchange)),
                Served::Stop => return Ok(Action::Stop),
            }
        }
    }

    /// Sends a posted write.
    pub(super) fn post(&mut self, write: &PostedWrite, deadline: Option<Instant>) -> Result<()> {
        let mut response = posted_response(&write.access, write.data());
        self.put_width(&mut response, &write.access);
        self.respond(&response, deadline)
    }

    /// Reports the width of an access's items, if that was negotiated.
    fn put_width(&self, response: &mut VcpuResponse, access: &Access) {
        if self.item_widths {
            response.mut_wait().mut_io().width = access.width().into();
        }
    }

    /// Waits for the first `wait` of the plugin, and responds with `init`.
    fn introduce(&mut self, deadline: Option<Instant>) -> Result<()> {
        loop {
            let message = match self.request(deadline)? {
                Incoming::Request(VcpuRequest { message: Some(Message::Wait(_)), .. }) => {
                    return self.respond(&init_response(), deadline);
                }
                Incoming::Request(request) => request.message,
                Incoming::Entries(entries) => Some(empty_request(&entries)),
                Incoming::Refused(response) => {
                    self.respond(&response, deadline)?;
                    continue;
                }
            };
            let why = Refusal::new(Errno::PROTO, "before its first wait a vCPU answers nothing");
            self.respond(&refusal(message.as_ref(), &why), deadline)?;
        }
    }

    /// Receives the next request of the plugin: one `read` returns one.
    fn request(&mut self, deadline: Option<Instant>) -> Result<Incoming> {
        loop {
            wait_for(self.pipes.requests.as_fd(), PollFlags::IN, &self.stop, deadline)?;
            match retry_on_intr(|| rustix::io::read(&self.pipes.requests, &mut self.incoming)) {
                Ok(0) => return Err(LinkError::Disconnected),
                Ok(len) => {
                    let bytes = self.incoming.get(..len).unwrap_or_default();
                    return decode(bytes);
                }
                Err(OsErrno::AGAIN) => {}
                Err(errno) => return Err(Fault::Read(errno).into()),
            }
        }
    }

    /// Writes a response, by one `write` unless the pipe is nearly full.
    fn respond(&mut self, response: &VcpuResponse, deadline: Option<Instant>) -> Result<()> {
        encode_vcpu_response(response, &mut self.outgoing).map_err(Fault::Encode)?;
        let mut left = self.outgoing.as_slice();
        while !left.is_empty() {
            match retry_on_intr(|| rustix::io::write(&self.pipes.responses, left)) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(OsErrno::AGAIN) => {
                    wait_for(self.pipes.responses.as_fd(), PollFlags::OUT, &self.stop, deadline)?;
                }
                Err(OsErrno::PIPE) => return Err(LinkError::Disconnected),
                Err(errno) => return Err(Fault::Write(errno).into()),
            }
        }
        Ok(())
    }
}

/// Waits until `pipe` is ready, the machine stops, or the deadline has come.
fn wait_for(pipe: BorrowedFd<'_>, flags: PollFlags, stop: &StopSignal, deadline: Option<Instant>) -> Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(pipe, flags), PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    loop {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A timeout too long for the kernel is none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(LinkError::TimedOut),
            Ok(_) if stop.is_set() => return Err(LinkError::Stopped),
            Ok(_) => return Ok(()),
            Err(OsErrno::INTR) => {}
            Err(errno) => return Err(Fault::Poll(errno).into()),
        }
    }
}
