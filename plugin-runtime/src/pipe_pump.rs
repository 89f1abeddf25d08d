//! A vCPU's exits over its pipes, in the words of protocol version 0.
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

use plugin_proto::encode_vcpu_response;
use plugin_proto::limits::MAX_REQUEST;
use plugin_proto::messages::vcpu_request::Message;
use plugin_proto::messages::{VcpuRequest, VcpuResponse};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno as OsErrno, retry_on_intr};
use vmm_core::{Command, Event, Exchange, LinkError, Pump, StopSignal};

use crate::errno::Errno;
use crate::vcpu_pipes::VcpuPipes;
use crate::vcpu_words::{
    Asked, Fault, Incoming, Setting, access_response, attach, command, cpuid_response, decode, done_response,
    hyperv_call_response, hyperv_synic_response, init_response, msrs_response, paused_response, posted_response,
    refusal, refused_response, state_response,
};

/// One vCPU's pump. A request of the plugin's is read only while the vCPU waits for it.
pub(crate) struct PipePump {
    pipes: Arc<VcpuPipes>,
    stop: StopSignal,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// What the request that the vCPU was last given is about to set: its answer is named for it.
    setting: Option<Setting>,
    /// What the access came in that the plugin is to answer.
    exchange: Option<Box<Exchange>>,
}

type Result<T> = std::result::Result<T, LinkError>;

impl Pump for PipePump {
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>> {
        match event {
            Event::Init => self.introduce(deadline)?,
            Event::Access { access, exchange } => {
                let mut response = access_response(&access, exchange.written(&access));
                attach(&mut response, &exchange.attached);
                self.exchange = Some(exchange);
                self.respond(&response, deadline)?;
            }
            Event::HypervCall { input, params, exchange } => {
                self.exchange = Some(exchange);
                self.respond(&hyperv_call_response(input, params), deadline)?;
            }
            Event::HypervSynic(write) => self.respond(&hyperv_synic_response(write), deadline)?,
            Event::Posted { ref access, .. } => {
                self.respond(&posted_response(access, event.written()), deadline)?;
                return Ok(None);
            }
            Event::Paused { user } => self.respond(&paused_response(user), deadline)?,
            Event::State(state) => self.respond(&state_response(state), deadline)?,
            Event::Done(done) => {
                let response = done_response(self.setting.take(), done);
                self.respond(&response, deadline)?;
            }
            Event::Msrs(values) => self.respond(&msrs_response(values), deadline)?,
            Event::Cpuid(entries) => self.respond(&cpuid_response(entries), deadline)?,
        }
        loop {
            let request = self.request(deadline)?;
            let setting = request.setting();
            match command(request, &mut self.exchange)? {
                Asked::Vcpu(command) => {
                    self.setting = setting;
                    return Ok(Some(command));
                }
                Asked::Nothing { answer } => {
                    // Who only asks for what is refused says no more than one who is silent.
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(LinkError::TimedOut);
                    }
                    self.respond(&answer, deadline)?;
                }
            }
        }
    }
}

impl PipePump {
    pub(crate) fn new(pipes: Arc<VcpuPipes>, stop: StopSignal) -> Self {
        Self { pipes, stop, incoming: vec![0; MAX_REQUEST], outgoing: Vec::new(), setting: None, exchange: None }
    }

    /// Waits for the plugin's one `wait`, and answers it with `init`.
    fn introduce(&mut self, deadline: Option<Instant>) -> Result<()> {
        loop {
            match self.request(deadline)? {
                Incoming::Request(VcpuRequest { message: Some(Message::Wait(_)), .. }) => {
                    return self.respond(&init_response(), deadline);
                }
                Incoming::Request(request) => {
                    self.respond(&refusal(request.message.as_ref(), Errno::PROTO), deadline)?;
                }
                Incoming::Entries(entries) => {
                    let setting = Incoming::Entries(entries).setting();
                    self.respond(&refused_response(setting, Errno::PROTO), deadline)?;
                }
                Incoming::Refused(answer) => self.respond(&answer, deadline)?,
            }
        }
    }

    /// The plugin's next request: one read is one.
    fn request(&mut self, deadline: Option<Instant>) -> Result<Incoming> {
        loop {
            wait_for(self.pipes.requests.as_fd(), PollFlags::IN, &self.stop, deadline)?;
            match retry_on_intr(|| rustix::io::read(&self.pipes.requests, &mut self.incoming)) {
                Ok(0) => return Err(LinkError::HungUp),
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
                Err(OsErrno::PIPE) => return Err(LinkError::HungUp),
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
        // A time too long for the kernel is as good as none.
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
