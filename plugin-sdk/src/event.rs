//! What a vCPU reports, and how it is let go.

use plugin_proto::messages::vcpu_response::wait::Io;

use crate::state::State;
use crate::vcpu::{Reason, Vcpu};
use crate::{Access, Error};

/// What [`Vcpu::wait`] reports.
///
/// All but [`Posted`](Self::Posted) hold the vCPU, which stands still until the event is resumed or answered. To drop one
/// instead leaves the vCPU where it is, and the next `wait` reports the same event again.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "the vCPU stands still until the event is resumed"]
pub enum Event<'v> {
    /// The vCPU is there and has not run. Its first state may be set.
    Init(Stopped<'v>),
    /// The guest reads from a reserved range and waits for the answer.
    Read(Read<'v>),
    /// The guest has written to a reserved range and waits.
    Write(Write<'v>),
    /// The guest has written to an async-write range and has run on.
    Posted(Posted),
    /// The vCPU was [paused](crate::Connection::pause_vcpus).
    Paused(Paused<'v>),
}

/// A vCPU that stands still.
#[derive(Debug)]
pub struct Stopped<'v> {
    state: State<'v>,
}

/// A read that waits for its answer.
#[derive(Debug)]
pub struct Read<'v> {
    state: State<'v>,
    access: Access,
}

/// A write that the guest waits for.
#[derive(Debug)]
pub struct Write<'v> {
    state: State<'v>,
    access: Access,
}

/// A vCPU that was paused.
#[derive(Debug)]
pub struct Paused<'v> {
    state: State<'v>,
    user: u64,
}

/// A write that the guest did not wait for. There is no vCPU to look at or resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Where the guest wrote.
    pub access: Access,
    /// What it wrote.
    pub data: Vec<u8>,
}

impl<'v> Event<'v> {
    /// Lets the vCPU run on, whatever happened: for events that a plugin does not care about. A read gets zeros, as from
    /// an address that nobody has reserved; after a posted write there is nothing to be done.
    ///
    /// # Errors
    /// [`Error::HungUp`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        match self {
            Self::Init(stopped) => stopped.resume(),
            Self::Read(read) => read.state.vcpu.resume(&vec![0; read.access.length]),
            Self::Write(write) => write.resume(),
            Self::Paused(paused) => paused.resume(),
            Self::Posted(_) => Ok(()),
        }
    }

    /// The event that `vcpu` stands still for.
    pub(crate) fn of(vcpu: &'v mut Vcpu) -> Self {
        let reason = vcpu.stop.reason;
        let state = State { vcpu };
        match reason {
            Reason::Init => Self::Init(Stopped { state }),
            Reason::Read(access) => Self::Read(Read { state, access }),
            Reason::Write(access) => Self::Write(Write { state, access }),
            Reason::Paused(user) => Self::Paused(Paused { state, user }),
        }
    }
}

impl<'v> Stopped<'v> {
    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Lets the vCPU run on.
    ///
    /// # Errors
    /// [`Error::HungUp`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        self.state.vcpu.resume(&[])
    }
}

impl<'v> Read<'v> {
    /// Where the guest reads, and how many bytes.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Gives the guest `data`, as many bytes as the access has, and lets it run on.
    ///
    /// # Errors
    /// [`Error::AnswerLength`], and the vCPU still stands at the read; [`Error::HungUp`], or the channel's failure.
    pub fn answer(self, data: &[u8]) -> Result<(), Error> {
        if data.len() != self.access.length {
            return Err(Error::AnswerLength { expected: self.access.length, given: data.len() });
        }
        self.state.vcpu.resume(data)
    }
}

impl<'v> Write<'v> {
    /// Where the guest wrote, and how many bytes.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// What it wrote.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.state.vcpu.stop.data
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Lets the vCPU run on.
    ///
    /// # Errors
    /// [`Error::HungUp`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        self.state.vcpu.resume(&[])
    }
}

impl<'v> Paused<'v> {
    /// The number given with the pause.
    #[must_use]
    pub fn user(&self) -> u64 {
        self.user
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Lets the vCPU run on.
    ///
    /// # Errors
    /// [`Error::HungUp`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        self.state.vcpu.resume(&[])
    }
}

impl Posted {
    pub(crate) fn of(io: Io) -> Result<Self, Error> {
        if !io.is_write {
            return Err(Error::unexpected("a read that cannot be answered"));
        }
        let access = Access::of(&io)?;
        Ok(Self { access, data: io.data })
    }
}
