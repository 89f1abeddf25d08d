//! A vCPU's channel of version 0: a pipe for requests and a pipe for responses.

use std::os::fd::{AsFd, OwnedFd};

use plugin_proto::messages::vcpu_request::{self, Resume};
use plugin_proto::messages::vcpu_response::wait::Exit;
use plugin_proto::messages::{VcpuRequest, VcpuResponse, vcpu_response};
use plugin_proto::{ResponseReader, encode_vcpu_request};

use crate::event::{HypervCallInput, Posted, SynicWrite};
use crate::registers::Registers;
use crate::vcpu::{Reason, Stop};
use crate::{Error, transport};

/// Bytes asked for by one read: an access with registers attached fits several times.
const READ_SIZE: usize = 8192;

pub(crate) struct PipeLink {
    requests: OwnedFd,
    responses: OwnedFd,
    reader: ResponseReader,
    read_buffer: Box<[u8]>,
    write_buffer: Vec<u8>,
}

impl PipeLink {
    pub(crate) fn new(requests: OwnedFd, responses: OwnedFd) -> Self {
        Self {
            requests,
            responses,
            reader: ResponseReader::new(),
            read_buffer: vec![0; READ_SIZE].into(),
            write_buffer: Vec::new(),
        }
    }

    /// Sends the one `wait`.
    pub(crate) fn introduce(&mut self) -> Result<(), Error> {
        self.send(vcpu_request::Message::Wait(Default::default()))
    }

    /// Takes the next wait response: a posted write, or what is put into `stop`.
    pub(crate) fn next_stop(&mut self, stop: &mut Stop) -> Result<Option<Posted>, Error> {
        let response = self.next_response()?;
        Error::check("wait", response.errno)?;
        let exit = match response.message {
            Some(vcpu_response::Message::Wait(wait)) => wait.exit,
            Some(other) => return Err(Error::unexpected(format!("{other:?} in place of a wait response"))),
            None => return Err(Error::unexpected("nothing in the answer to wait")),
        };
        *stop = match exit {
            Some(Exit::Init(_)) => Stop::at(Reason::Init),
            Some(Exit::User(user)) => Stop::at(Reason::Paused(user.user)),
            Some(Exit::Io(io)) if io.no_resume => return Posted::of(io).map(Some),
            Some(Exit::Io(io)) => Stop::of(io)?,
            Some(Exit::HypervCall(call)) => Stop::at(Reason::HypervCall(HypervCallInput {
                input: call.input,
                params: [call.params0, call.params1],
            })),
            Some(Exit::HypervSynic(synic)) => Stop::at(Reason::HypervSynic(SynicWrite {
                msr: synic.msr,
                control: synic.control,
                event_page: synic.evt_page,
                message_page: synic.msg_page,
            })),
            other => return Err(Error::unexpected(format!("the exit {other:?}"))),
        };
        Ok(None)
    }

    pub(crate) fn resume(&mut self, data: &[u8], registers: &Registers) -> Result<(), Error> {
        self.send(vcpu_request::Message::Resume(Resume {
            data: data.to_vec(),
            regs: registers.regs.to_set().to_vec(),
            sregs: registers.sregs.to_set().to_vec(),
            debugregs: registers.debugregs.to_set().to_vec(),
            ..Default::default()
        }))
    }

    /// Sends a request that is answered at once, and takes the answer.
    pub(crate) fn exchange(&mut self, request: vcpu_request::Message) -> Result<VcpuResponse, Error> {
        self.send(request)?;
        self.next_response()
    }

    fn send(&mut self, message: vcpu_request::Message) -> Result<(), Error> {
        let request = VcpuRequest { message: Some(message), ..Default::default() };
        encode_vcpu_request(&request, &mut self.write_buffer)?;
        transport::write(self.requests.as_fd(), &self.write_buffer)
    }

    fn next_response(&mut self) -> Result<VcpuResponse, Error> {
        loop {
            if let Some(response) = self.reader.next_response()? {
                return Ok(response);
            }
            match transport::read(self.responses.as_fd(), &mut self.read_buffer)? {
                0 => {
                    self.reader.finish()?;
                    return Err(Error::Disconnected);
                }
                length => self.reader.feed(&self.read_buffer[..length]),
            }
        }
    }
}
