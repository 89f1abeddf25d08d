//! A vCPU's channel: a pipe for requests and a pipe for responses.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use plugin_proto::messages::vcpu_request::{self, Resume};
use plugin_proto::messages::vcpu_response::wait::{Exit, Io};
use plugin_proto::messages::{VcpuRequest, VcpuResponse, vcpu_response};
use plugin_proto::{ResponseReader, encode_vcpu_request};

use crate::event::{Event, HypervCallInput, Posted, SynicWrite};
use crate::registers::Registers;
use crate::{Access, Error, transport};

/// Sends the request `$variant` and takes the answer that bears its name.
macro_rules! ask {
    ($vcpu:expr, $name:literal, $variant:ident($request:expr)) => {{
        use plugin_proto::messages::{vcpu_request, vcpu_response};
        match $vcpu.exchange($name, vcpu_request::Message::$variant($request)) {
            Ok(vcpu_response::Message::$variant(answer)) => Ok(answer),
            Ok(other) => Err($crate::Error::unexpected(format!("{other:?} in answer to {}", $name))),
            Err(error) => Err(error),
        }
    }};
}
pub(crate) use ask;

/// Bytes asked for by one read: an access with registers attached fits several times.
const READ_SIZE: usize = 8192;

/// A vCPU, as its plugin sees it: it reports events, and after most of them it stands still until it is resumed.
///
/// Each may live on a thread of its own. Its channel carries one request at a time, so it has one owner.
pub struct Vcpu {
    index: usize,
    requests: OwnedFd,
    responses: OwnedFd,
    reader: ResponseReader,
    read_buffer: Box<[u8]>,
    write_buffer: Vec<u8>,
    phase: Phase,
    pub(crate) stop: Stop,
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("index", &self.index).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What the vCPU is doing, as far as the plugin has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `wait` has not been sent.
    Silent,
    /// The next wait response is on its way.
    Running,
    /// It stands still, for the reason in [`Vcpu::stop`].
    Stopped,
}

/// Why a vCPU stands still and what is known about it. Kept here, not in the event, so that an event which is dropped
/// can be handed out again.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) reason: Reason,
    /// What the guest wrote.
    pub(crate) data: Vec<u8>,
    pub(crate) registers: Registers,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Reason {
    Init,
    Read(Access),
    Write(Access),
    Paused(u64),
    HypervCall(HypervCallInput),
    HypervSynic(SynicWrite),
}

impl Vcpu {
    pub(crate) fn new(index: usize, requests: OwnedFd, responses: OwnedFd) -> Self {
        Self {
            index,
            requests,
            responses,
            reader: ResponseReader::new(),
            read_buffer: vec![0; READ_SIZE].into(),
            write_buffer: Vec::new(),
            phase: Phase::Silent,
            stop: Stop { reason: Reason::Init, data: Vec::new(), registers: Registers::default() },
        }
    }

    /// Its number, from 0; the bit that stands for it in the mask of a pause.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Blocks until the vCPU has something to report.
    ///
    /// While the vCPU stands still, that is the event it stands still for: an event that was dropped without being resumed
    /// comes again, at once, with the registers that were set in it.
    ///
    /// # Errors
    /// [`Error::HungUp`] at the end of the VM, or the channel's failure.
    pub fn wait(&mut self) -> Result<Event<'_>, Error> {
        if self.phase == Phase::Silent {
            self.send(vcpu_request::Message::Wait(Default::default()))?;
            self.phase = Phase::Running;
        }
        if self.phase == Phase::Running
            && let Some(posted) = self.next_stop()?
        {
            return Ok(Event::Posted(posted));
        }
        Ok(Event::of(self))
    }

    /// The event that the vCPU stands still for, if it does; like [`wait`](Self::wait), but it never blocks, and nothing
    /// is asked of the VMM.
    ///
    /// A program whose own callers come and go while the vCPU stands still, like a binding to another language, reaches the
    /// vCPU's state again by it.
    pub fn held(&mut self) -> Option<Event<'_>> {
        (self.phase == Phase::Stopped).then(|| Event::of(self))
    }

    /// Takes the next wait response: a posted write, or the stop, which is noted.
    fn next_stop(&mut self) -> Result<Option<Posted>, Error> {
        let exit = match self.receive("wait")? {
            vcpu_response::Message::Wait(wait) => wait.exit,
            other => return Err(Error::unexpected(format!("{other:?} in place of a wait response"))),
        };
        self.stop = match exit {
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
        self.phase = Phase::Stopped;
        Ok(None)
    }

    /// Lets the guest run on from a stop. `data` is what a read returns.
    pub(crate) fn resume(&mut self, data: &[u8]) -> Result<(), Error> {
        let registers = &self.stop.registers;
        self.send(vcpu_request::Message::Resume(Resume {
            data: data.to_vec(),
            regs: registers.regs.to_set(),
            sregs: registers.sregs.to_set(),
            debugregs: registers.debugregs.to_set(),
            ..Default::default()
        }))?;
        self.phase = Phase::Running;
        Ok(())
    }

    /// Sends a request that is answered at once, and waits for the answer. Only while the vCPU stands still. Callers want
    /// [`ask!`], which sees that it is the right one.
    pub(crate) fn exchange(
        &mut self,
        name: &'static str,
        request: vcpu_request::Message,
    ) -> Result<vcpu_response::Message, Error> {
        self.send(request)?;
        self.receive(name)
    }

    fn send(&mut self, message: vcpu_request::Message) -> Result<(), Error> {
        let request = VcpuRequest { message: Some(message), ..Default::default() };
        encode_vcpu_request(&request, &mut self.write_buffer)?;
        transport::write(self.requests.as_fd(), &self.write_buffer)
    }

    fn receive(&mut self, request: &'static str) -> Result<vcpu_response::Message, Error> {
        let response = self.next_response()?;
        Error::check(request, response.errno)?;
        response.message.ok_or_else(|| Error::unexpected(format!("nothing in the answer to {request}")))
    }

    fn next_response(&mut self) -> Result<VcpuResponse, Error> {
        loop {
            if let Some(response) = self.reader.next_response()? {
                return Ok(response);
            }
            match transport::read(self.responses.as_fd(), &mut self.read_buffer)? {
                0 => {
                    self.reader.finish()?;
                    return Err(Error::HungUp);
                }
                length => self.reader.feed(&self.read_buffer[..length]),
            }
        }
    }
}

impl Stop {
    fn at(reason: Reason) -> Self {
        Self { reason, data: Vec::new(), registers: Registers::default() }
    }

    fn of(io: Io) -> Result<Self, Error> {
        let access = Access::of(&io)?;
        Ok(Self {
            reason: if io.is_write { Reason::Write(access) } else { Reason::Read(access) },
            registers: Registers::attached(&io)?,
            data: io.data,
        })
    }
}
