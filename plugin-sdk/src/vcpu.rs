//! A vCPU: what it reports, and how it is let go.

use std::fmt;

use plugin_proto::messages::vcpu_response::wait::Io;
use plugin_proto::messages::{vcpu_request, vcpu_response};

use crate::event::{Event, HypervCallInput, Posted, SynicWrite};
use crate::pipe_link::PipeLink;
use crate::redelivery::{self, Redelivery};
use crate::registers::Registers;
use crate::ring_link::RingLink;
use crate::{Access, Error};

/// Sends the request `$variant` and takes the answer that bears its name.
macro_rules! ask {
    ($vcpu:expr, $name:expr, $variant:ident($request:expr)) => {{
        use plugin_proto::messages::{vcpu_request, vcpu_response};
        match $vcpu.exchange($name, vcpu_request::Message::$variant($request)) {
            Ok(vcpu_response::Message::$variant(answer)) => Ok(answer),
            Ok(other) => Err($crate::Error::unexpected(format!("{other:?} in answer to {}", $name))),
            Err(error) => Err(error),
        }
    }};
}
pub(crate) use ask;

/// A vCPU, as its plugin sees it: it reports events, and after most of them it stays stopped until it is resumed.
///
/// Each may live on a thread of its own. Its channel carries one request at a time, so it has one owner.
pub struct Vcpu {
    index: usize,
    link: Link,
    phase: Phase,
    pub(crate) stop: Stop,
    redelivery: Redelivery,
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("index", &self.index).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What carries its events and requests.
pub(crate) enum Link {
    Pipe(PipeLink),
    Ring(RingLink),
}

/// What the vCPU is doing, as far as the plugin has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `wait` has not been sent.
    Silent,
    /// The next wait response is on its way.
    Running,
    /// It is stopped, for the reason in [`Vcpu::stop`].
    Stopped,
}

/// Why a vCPU is stopped and what is known about it. Kept here, not in the event, so that an event which is dropped
/// can be handed out again.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) reason: Reason,
    /// Of an access: bytes of one item, at least 1.
    pub(crate) width: usize,
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
    pub(crate) fn new(index: usize, link: Link) -> Self {
        let stop = Stop::at(Reason::Init);
        Self { index, link, phase: Phase::Silent, stop, redelivery: Redelivery::default() }
    }

    /// Its number, from 0; the bit that stands for it in the mask of a pause.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Blocks until the vCPU has something to report.
    ///
    /// While the vCPU is stopped, that is the event it is stopped for: an event that was dropped without being resumed
    /// comes again, at once, with the registers that were set in it. One that comes again a thousand times is reported on standard
    /// error, once a vCPU: a plugin that drops it each time waits for ever.
    ///
    /// # Errors
    /// [`Error::Disconnected`] at the end of the VM, or the channel's failure.
    pub fn wait(&mut self) -> Result<Event<'_>, Error> {
        if self.phase == Phase::Silent {
            if let Link::Pipe(pipe) = &mut self.link {
                pipe.introduce()?;
            }
            self.phase = Phase::Running;
        }
        if self.phase == Phase::Stopped && self.redelivery.is_suspicious() {
            redelivery::warn(self.index, &self.stop.reason);
        }
        if self.phase == Phase::Running
            && let Some(posted) = self.next_stop()?
        {
            return Ok(Event::Posted(posted));
        }
        Ok(Event::of(self))
    }

    /// The event that the vCPU is stopped for, if it does; like [`wait`](Self::wait), but it never blocks, and nothing
    /// is asked of the VMM.
    ///
    /// A program whose own callers come and go while the vCPU is stopped, like a binding to another language, reaches the
    /// vCPU's state again by it.
    pub fn held(&mut self) -> Option<Event<'_>> {
        (self.phase == Phase::Stopped).then(|| Event::of(self))
    }

    /// Takes the next wait response: a posted write, or the stop, which is noted.
    fn next_stop(&mut self) -> Result<Option<Posted>, Error> {
        let posted = match &mut self.link {
            Link::Pipe(pipe) => pipe.next_stop(&mut self.stop)?,
            Link::Ring(ring) => ring.next_stop(&mut self.stop)?,
        };
        if posted.is_none() {
            self.phase = Phase::Stopped;
        }
        Ok(posted)
    }

    /// Lets the guest run on from a stop. `data` is what a read returns.
    pub(crate) fn resume(&mut self, data: &[u8]) -> Result<(), Error> {
        let registers = &self.stop.registers;
        match &mut self.link {
            Link::Pipe(pipe) => pipe.resume(data, registers)?,
            Link::Ring(ring) => ring.resume(data, registers)?,
        }
        self.phase = Phase::Running;
        self.redelivery.resumed();
        Ok(())
    }

    /// Sends a request that is answered at once, and waits for the answer. Only while the vCPU is stopped. Callers want
    /// [`ask!`], which sees that it is the right one.
    pub(crate) fn exchange(
        &mut self,
        name: &'static str,
        request: vcpu_request::Message,
    ) -> Result<vcpu_response::Message, Error> {
        let response = match &mut self.link {
            Link::Pipe(pipe) => pipe.exchange(request)?,
            Link::Ring(ring) => ring.exchange(request)?,
        };
        Error::check(name, response.errno)?;
        response.message.ok_or_else(|| Error::unexpected(format!("nothing in the answer to {name}")))
    }
}

impl Stop {
    pub(crate) fn at(reason: Reason) -> Self {
        Self { reason, width: 1, data: Vec::new(), registers: Registers::default() }
    }

    /// Begins anew, with the room it has for data.
    pub(crate) fn renew(&mut self, reason: Reason) {
        self.reason = reason;
        self.data.clear();
        self.registers.clear();
    }

    pub(crate) fn of(io: Io) -> Result<Self, Error> {
        let access = Access::of(&io)?;
        Ok(Self {
            reason: if io.is_write { Reason::Write(access) } else { Reason::Read(access) },
            width: access.item_width(io.width)?,
            registers: Registers::attached(&io)?,
            data: io.data,
        })
    }
}
