//! What a vCPU and an owner of its exits say to each other.

use crossbeam_channel::{Receiver, Sender};
use hypervisor::{
    Access, Capability, SynicWrite, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

use crate::error::LinkError;
use crate::exchange::Exchange;

/// From a vCPU to the owner of what happened.
#[derive(Debug)]
pub enum Event {
    /// The vCPU exists and has executed nothing. It waits for a [resume](Command::Resume).
    Init,
    /// The guest accessed something of the owner's. The vCPU waits for a [resume](Command::Resume).
    Access {
        /// The access.
        access: Access,
        /// What is told with it. The box goes back with the resume.
        exchange: Box<Exchange>,
    },
    /// The guest called Hyper-V. The vCPU waits for a [resume](Command::Resume) whose data is the call's result, 8 bytes.
    HypervCall {
        /// The call's code and flags.
        input: u64,
        /// Its parameters.
        params: [u64; 2],
        /// In which the result comes back.
        exchange: Box<Exchange>,
    },
    /// The guest has set up Hyper-V's synthetic interrupt controller. The vCPU waits for a [resume](Command::Resume).
    HypervSynic(SynicWrite),
    /// The guest wrote to a range whose writes are posted, and has run on. It wants no command.
    Posted {
        /// The access.
        access: Access,
        /// What the guest wrote, where that is more than lies in the access: see [`written`](Self::written).
        long: Box<[u8]>,
    },
    /// The vCPU stands still as the owner asked. It waits for a [resume](Command::Resume).
    Paused {
        /// The number the owner gave with its wish.
        user: u64,
    },
    /// The answer to [`Command::Get`].
    State(hypervisor::Result<State>),
    /// The answer to every command that sets something.
    Done(hypervisor::Result<()>),
    /// The answer to [`Command::GetMsrs`]: the values, up to the first MSR that cannot be read.
    Msrs(hypervisor::Result<Vec<u64>>),
    /// The answer to [`Command::GetHypervCpuid`].
    Cpuid(hypervisor::Result<Vec<kvm_cpuid_entry2>>),
}

impl Event {
    /// Whether the vCPU waits for a command.
    pub fn wants_command(&self) -> bool {
        !matches!(self, Self::Posted { .. })
    }

    /// What the guest writes; empty where it writes nothing.
    pub fn written(&self) -> &[u8] {
        match self {
            Self::Access { access, exchange } => exchange.written(access),
            Self::Posted { access, long } => access.inline_data().unwrap_or(long),
            _ => &[],
        }
    }
}

/// From an owner to a vCPU that waits for it.
#[derive(Debug)]
pub enum Command {
    /// Tell me some state. Answered by [`Event::State`].
    Get(StateKind),
    /// Set some state. Answered by [`Event::Done`]. Within a read's exit registers take effect with the resume.
    Set(State),
    /// Tell me these MSRs. Answered by [`Event::Msrs`].
    GetMsrs(Vec<u32>),
    /// Set MSRs, up to the first that cannot be set. Answered by [`Event::Done`].
    SetMsrs(Vec<kvm_msr_entry>),
    /// Set what `cpuid` tells the guest. Answered by [`Event::Done`].
    SetCpuid(Vec<kvm_cpuid_entry2>),
    /// Tell me the CPUID leaves of the Hyper-V features there are. Answered by [`Event::Cpuid`].
    GetHypervCpuid,
    /// Turn a feature on. Answered by [`Event::Done`].
    EnableCapability(Capability),
    /// Run on.
    Resume(Box<Exchange>),
    /// End this vCPU.
    Stop,
    /// The way to the owner is broken.
    Fail(LinkError),
}

/// Which state of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// General registers.
    Regs,
    /// Segment and control registers.
    Sregs,
    /// x87 and SSE registers.
    Fpu,
    /// Debug registers.
    DebugRegs,
    /// The local APIC.
    Lapic,
    /// Whether it runs or waits.
    MpState,
    /// Extended control registers.
    Xcrs,
    /// Exceptions and interrupts under way.
    Events,
}

/// State of a vCPU.
#[derive(Clone, Debug)]
pub enum State {
    /// General registers.
    Regs(Box<kvm_regs>),
    /// Segment and control registers.
    Sregs(Box<kvm_sregs>),
    /// x87 and SSE registers.
    Fpu(Box<kvm_fpu>),
    /// Debug registers.
    DebugRegs(Box<kvm_debugregs>),
    /// The local APIC.
    Lapic(Box<kvm_lapic_state>),
    /// Whether it runs or waits.
    MpState(kvm_mp_state),
    /// Extended control registers.
    Xcrs(Box<kvm_xcrs>),
    /// Exceptions and interrupts under way.
    Events(Box<kvm_vcpu_events>),
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

// Each event and command is moved through a channel, so large parts are boxed.
const _: () = assert!(size_of::<Event>() <= 48 && size_of::<Command>() <= 48);

/// The vCPU's ends and the owner's.
pub(crate) fn pair() -> (Sender<Event>, Receiver<Command>, FarEnd) {
    let (event_sender, events) = crossbeam_channel::bounded(CAPACITY);
    let (commands, command_receiver) = crossbeam_channel::bounded(CAPACITY);
    (event_sender, command_receiver, FarEnd { events, commands })
}
