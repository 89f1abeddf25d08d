//! What a vCPU and an owner of its exits say to each other.

use crossbeam_channel::{Receiver, Sender};
use hypervisor::{Access, kvm_mp_state, kvm_regs, kvm_sregs};
use smallvec::SmallVec;

use crate::error::LinkError;

/// An access's data: up to 16 bytes without an allocation, longer ones only for string instructions.
pub type Bytes = SmallVec<[u8; 16]>;

/// From a vCPU to the owner of what happened.
#[derive(Debug)]
pub enum Event {
    /// The vCPU exists and has executed nothing. It waits for a [`Resume`].
    Init,
    /// The guest accessed something of the owner's. The vCPU waits for a [`Resume`].
    Access {
        /// The access.
        access: Access,
        /// What the guest writes; empty for a read.
        data: Bytes,
    },
    /// The guest wrote to a range whose writes are posted, and has run on. It wants no command.
    Posted {
        /// The access.
        access: Access,
        /// What the guest wrote.
        data: Bytes,
    },
    /// The vCPU stands still as the owner asked. It waits for a [`Resume`].
    Paused {
        /// The number the owner gave with its wish.
        user: u64,
    },
    /// The answer to [`Command::Get`].
    State(hypervisor::Result<State>),
    /// The answer to [`Command::Set`].
    Done(hypervisor::Result<()>),
}

impl Event {
    /// Whether the vCPU waits for a command.
    pub fn wants_command(&self) -> bool {
        !matches!(self, Self::Posted { .. })
    }
}

/// From an owner to a vCPU that waits for it.
#[derive(Debug)]
pub enum Command {
    /// Tell me some state. Answered by [`Event::State`].
    Get(StateKind),
    /// Set some state. Answered by [`Event::Done`]. Within a read's exit registers take effect with the resume.
    Set(State),
    /// Run on.
    Resume(Resume),
    /// End this vCPU.
    Stop,
    /// The way to the owner is broken.
    Fail(LinkError),
}

/// How a vCPU is to run on.
#[derive(Debug, Default)]
pub struct Resume {
    /// What a read returns: missing bytes are zero, surplus ones are cut.
    pub data: Bytes,
    /// General registers to set.
    pub regs: Option<kvm_regs>,
    /// Segment and control registers to set, after `regs`.
    pub sregs: Option<Box<kvm_sregs>>,
}

/// Which state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// General registers.
    Regs,
    /// Segment and control registers.
    Sregs,
    /// Whether it runs or waits.
    MpState,
}

/// State of a vCPU.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// General registers.
    Regs(kvm_regs),
    /// Segment and control registers.
    Sregs(Box<kvm_sregs>),
    /// Whether it runs or waits.
    MpState(kvm_mp_state),
}

/// The owner's ends of the channels to one vCPU.
///
/// After [`Event::Init`], [`Event::Access`] or [`Event::Paused`] the vCPU takes commands until one is a resume.
#[derive(Debug)]
pub struct FarEnd {
    /// What the vCPU says.
    pub events: Receiver<Event>,
    /// What it is told.
    pub commands: Sender<Command>,
}

/// More than two parties that talk in turn ever have under way.
const CAPACITY: usize = 16;

/// The vCPU's ends and the owner's.
pub(crate) fn pair() -> (Sender<Event>, Receiver<Command>, FarEnd) {
    let (event_sender, events) = crossbeam_channel::bounded(CAPACITY);
    let (commands, command_receiver) = crossbeam_channel::bounded(CAPACITY);
    (event_sender, command_receiver, FarEnd { events, commands })
}
