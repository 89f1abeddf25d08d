//! What a vCPU reports, and how it is let go.

use plugin_proto::messages::vcpu_response::wait::Io;

use crate::state::State;
use crate::vcpu::{Reason, Vcpu};
use crate::{Access, Error};

/// What [`Vcpu::wait`] reports.
///
/// All but [`Posted`](Self::Posted) hold the vCPU, which stays stopped until the event is resumed or answered. To drop one
/// instead leaves the vCPU where it is, and the next `wait` reports the same event again.
///
/// ```no_run
/// # fn serve(vcpu: &mut plugin_sdk::Vcpu) -> Result<(), plugin_sdk::Error> {
/// use plugin_sdk::Event;
///
/// match vcpu.wait()? {
///     Event::Read(mut read) => {
///         let rip = read.state().regs()?.rip;
///         println!("a read of {:?} at {rip:#x}", read.access());
///         let answer = vec![0xff; read.access().length];
///         read.answer(&answer)
///     }
///     Event::Posted(posted) => {
///         println!("{:?} was written", posted.data);
///         Ok(())
///     }
///     other => other.resume(),
/// }
/// # }
/// ```
///
/// To resume takes the event, and the state goes with it:
///
/// ```compile_fail,E0382
/// # fn serve(mut paused: plugin_sdk::Paused<'_>) -> Result<(), plugin_sdk::Error> {
/// paused.resume()?;
/// paused.state().regs()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "the vCPU stays stopped until the event is resumed"]
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
    /// The guest makes a Hyper-V hypercall and waits for its result.
    HypervCall(HypervCall<'v>),
    /// The guest has written a register of Hyper-V's synthetic interrupt controller and waits.
    HypervSynic(HypervSynic<'v>),
}

/// A vCPU that is stopped.
#[derive(Debug)]
pub struct Stopped<'v> {
    state: State<'v>,
}

/// A read that waits for its answer.
///
/// A string instruction such as `rep insb` reads several items from one port. Each is a read of its own for the device:
///
/// ```no_run
/// # struct Fifo;
/// # impl Fifo { fn pop(&mut self) -> u8 { 0 } }
/// # fn serve(read: plugin_sdk::Read<'_>, fifo: &mut Fifo) -> Result<(), plugin_sdk::Error> {
/// let mut data = vec![0; read.access().length];
/// for item in data.chunks_mut(read.width()) {
///     // A register of one byte: the rest of a wider item stays 0.
///     item[0] = fifo.pop();
/// }
/// read.answer(&data)
/// # }
/// ```
#[derive(Debug)]
pub struct Read<'v> {
    state: State<'v>,
    access: Access,
    width: usize,
}

/// A write that the guest waits for.
#[derive(Debug)]
pub struct Write<'v> {
    state: State<'v>,
    access: Access,
    width: usize,
}

/// A vCPU that was paused.
#[derive(Debug)]
pub struct Paused<'v> {
    state: State<'v>,
    user: u64,
}

/// A Hyper-V hypercall that waits for its result. Only guests of a vCPU with a
/// [`Capability::HypervSynic`](crate::Capability::HypervSynic) make one that comes here.
#[derive(Debug)]
pub struct HypervCall<'v> {
    state: State<'v>,
    call: HypervCallInput,
}

/// What a guest hands over with a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HypervCallInput {
    /// Which call, and how: the hypercall input value of Hyper-V's specification.
    pub input: u64,
    /// Two parameters: the values themselves for a fast call, else guest-physical addresses of input and output.
    pub params: [u64; 2],
}

/// A vCPU that is stopped after a write to its synthetic interrupt controller.
#[derive(Debug)]
pub struct HypervSynic<'v> {
    state: State<'v>,
    write: SynicWrite,
}

/// A write to a synthetic interrupt controller, and how that then stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynicWrite {
    /// The number of the MSR that was written.
    pub msr: u32,
    /// The controller's `SCONTROL`.
    pub control: u64,
    /// Its `SIEFP`: where in guest memory event flags go, and whether they do.
    pub event_page: u64,
    /// Its `SIMP`: where in guest memory messages go, and whether they do.
    pub message_page: u64,
}

/// A write that the guest did not wait for. There is no vCPU to look at or resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Where the guest wrote.
    pub access: Access,
    /// What it wrote.
    pub data: Vec<u8>,
    pub(crate) width: usize,
}

impl<'v> Event<'v> {
    /// Lets the vCPU run on, whatever happened: for events that a plugin does not care about. A read gets zeros, as from
    /// an address that nobody has reserved; a hypercall succeeds by its result 0; after a posted write there is nothing to be done.
    ///
    /// # Errors
    /// [`Error::Disconnected`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        match self {
            Self::Init(stopped) => stopped.resume(),
            Self::Read(read) => read.state.vcpu.resume(&vec![0; read.access.length]),
            Self::Write(write) => write.resume(),
            Self::Paused(paused) => paused.resume(),
            Self::HypervCall(call) => call.answer(0),
            Self::HypervSynic(synic) => synic.resume(),
            Self::Posted(_) => Ok(()),
        }
    }

    /// The state of the vCPU that is stopped for this event; `None` for a posted write, after which none does.
    pub fn state(&mut self) -> Option<&mut State<'v>> {
        match self {
            Self::Init(stopped) => Some(stopped.state()),
            Self::Read(read) => Some(read.state()),
            Self::Write(write) => Some(write.state()),
            Self::Paused(paused) => Some(paused.state()),
            Self::HypervCall(call) => Some(call.state()),
            Self::HypervSynic(synic) => Some(synic.state()),
            Self::Posted(_) => None,
        }
    }

    /// The event that `vcpu` is stopped for.
    pub(crate) fn of(vcpu: &'v mut Vcpu) -> Self {
        let (reason, width) = (vcpu.stop.reason, vcpu.stop.width);
        let state = State { vcpu };
        match reason {
            Reason::Init => Self::Init(Stopped { state }),
            Reason::Read(access) => Self::Read(Read { state, access, width }),
            Reason::Write(access) => Self::Write(Write { state, access, width }),
            Reason::Paused(user) => Self::Paused(Paused { state, user }),
            Reason::HypervCall(call) => Self::HypervCall(HypervCall { state, call }),
            Reason::HypervSynic(write) => Self::HypervSynic(HypervSynic { state, write }),
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
    /// [`Error::Disconnected`], or the channel's failure.
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

    /// Returns the bytes of one item, at least 1. `in ax, dx` reads one item of two bytes, `rep insb` with CX = 2 reads two items
    /// of one byte.
    ///
    /// A VMM that does not report it is taken at its length: up to 8 bytes are one item, more are items of one byte.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of items, [`width`](Self::width) bytes each: above 1 for string instructions only.
    #[must_use]
    pub fn count(&self) -> usize {
        self.access.length / self.width
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Gives the guest `data`, as many bytes as the access has, and lets it run on.
    ///
    /// # Errors
    /// [`Error::AnswerLength`], and the vCPU still stands at the read; [`Error::Disconnected`], or the channel's failure.
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

    /// Returns the bytes of one item, as [`Read::width`] does.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of items, as [`Read::count`] does.
    #[must_use]
    pub fn count(&self) -> usize {
        self.access.length / self.width
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
    /// [`Error::Disconnected`], or the channel's failure.
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
    /// [`Error::Disconnected`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        self.state.vcpu.resume(&[])
    }
}

impl<'v> HypervCall<'v> {
    /// Which call, with what.
    #[must_use]
    pub fn call(&self) -> HypervCallInput {
        self.call
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Gives the guest the call's result and lets it run on.
    ///
    /// # Errors
    /// [`Error::Disconnected`], or the channel's failure.
    pub fn answer(self, result: u64) -> Result<(), Error> {
        self.state.vcpu.resume(&result.to_ne_bytes())
    }
}

impl<'v> HypervSynic<'v> {
    /// What was written.
    #[must_use]
    pub fn write(&self) -> SynicWrite {
        self.write
    }

    /// The vCPU's state.
    pub fn state(&mut self) -> &mut State<'v> {
        &mut self.state
    }

    /// Lets the vCPU run on.
    ///
    /// # Errors
    /// [`Error::Disconnected`], or the channel's failure.
    pub fn resume(self) -> Result<(), Error> {
        self.state.vcpu.resume(&[])
    }
}

impl Posted {
    /// Returns the bytes of one item, as [`Read::width`] does.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of items, as [`Read::count`] does.
    #[must_use]
    pub fn count(&self) -> usize {
        self.access.length / self.width
    }

    pub(crate) fn of(io: Io) -> Result<Self, Error> {
        if !io.is_write {
            return Err(Error::unexpected("a read that cannot be answered"));
        }
        let access = Access::of(&io)?;
        Ok(Self { access, width: access.item_width(io.width)?, data: io.data })
    }
}
