//! The registers and other state of a vCPU that stands still.

use kvm_bindings::{kvm_mp_state, kvm_regs, kvm_sregs};
use plugin_proto::messages::vcpu_request::{GetState, Message, SetState, StateSet};
use plugin_proto::messages::vcpu_response;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Error;
use crate::vcpu::{Vcpu, other_response};

/// The state of a vCPU that stands still. It is reached through the event that the vCPU stands still for.
///
/// General and special registers that are set stay in this process until the event is resumed, and are set before the
/// guest runs on; a `get` after the set returns them. Registers that came with the event, because of a hint, are
/// returned without asking the VMM. Everything else is a request to the VMM, answered at once.
#[derive(Debug)]
pub struct State<'v> {
    pub(crate) vcpu: &'v mut Vcpu,
}

impl State<'_> {
    /// The general registers.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn regs(&mut self) -> Result<kvm_regs, Error> {
        match self.vcpu.stop.registers.regs.known() {
            Some(regs) => Ok(regs),
            None => self.get(StateSet::REGS),
        }
    }

    /// Sets the general registers when the event is resumed.
    pub fn set_regs(&mut self, regs: &kvm_regs) {
        self.vcpu.stop.registers.regs = Known::Set(*regs);
    }

    /// The special registers: segments, control registers and the like.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn sregs(&mut self) -> Result<kvm_sregs, Error> {
        match self.vcpu.stop.registers.sregs.known() {
            Some(sregs) => Ok(sregs),
            None => self.get(StateSet::SREGS),
        }
    }

    /// Sets the special registers when the event is resumed.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) {
        self.vcpu.stop.registers.sregs = Known::Set(*sregs);
    }

    /// Whether the vCPU runs, halts or waits to be started: `KVM_MP_STATE_RUNNABLE` (0) and so on.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn mp_state(&mut self) -> Result<kvm_mp_state, Error> {
        self.get(StateSet::MP)
    }

    /// Sets, at once, whether the vCPU runs, halts or waits to be started.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` when the kernel knows no such state; or the channel's failure.
    pub fn set_mp_state(&mut self, mp_state: &kvm_mp_state) -> Result<(), Error> {
        self.set(StateSet::MP, mp_state)
    }

    fn get<T: FromBytes>(&mut self, set: StateSet) -> Result<T, Error> {
        let request = Message::GetState(GetState { set: set.into(), ..Default::default() });
        match self.vcpu.ask("get_state", request)? {
            vcpu_response::Message::GetState(answer) => parse(&answer.state),
            other => Err(other_response("get_state", &other)),
        }
    }

    fn set<T: IntoBytes + Immutable>(&mut self, set: StateSet, state: &T) -> Result<(), Error> {
        let request =
            Message::SetState(SetState { set: set.into(), state: state.as_bytes().to_vec(), ..Default::default() });
        match self.vcpu.ask("set_state", request)? {
            vcpu_response::Message::SetState(_) => Ok(()),
            other => Err(other_response("set_state", &other)),
        }
    }
}

/// The registers that are known without asking.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    regs: Known<kvm_regs>,
    sregs: Known<kvm_sregs>,
}

#[derive(Debug, Default)]
enum Known<T> {
    #[default]
    No,
    /// It came with the event.
    Attached(T),
    /// The plugin has set it in this event.
    Set(T),
}

impl Registers {
    /// From the bytes in an event; no bytes are no registers.
    pub(crate) fn attached(regs: &[u8], sregs: &[u8]) -> Result<Self, Error> {
        Ok(Self { regs: Known::attached(regs)?, sregs: Known::attached(sregs)? })
    }

    /// The bytes of general and special registers for a resume; none where nothing was set.
    pub(crate) fn changed(&self) -> (Vec<u8>, Vec<u8>) {
        (self.regs.changed(), self.sregs.changed())
    }
}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Known<T> {
    fn attached(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Ok(Self::No);
        }
        parse(bytes).map(Self::Attached)
    }

    fn known(&self) -> Option<T> {
        match self {
            Self::No => None,
            Self::Attached(value) | Self::Set(value) => Some(*value),
        }
    }

    fn changed(&self) -> Vec<u8> {
        match self {
            Self::No | Self::Attached(_) => Vec::new(),
            Self::Set(value) => value.as_bytes().to_vec(),
        }
    }
}

/// A kernel struct from its bytes.
fn parse<T: FromBytes>(bytes: &[u8]) -> Result<T, Error> {
    T::read_from_bytes(bytes)
        .map_err(|_| Error::unexpected(format!("{} bytes of state where {} are due", bytes.len(), size_of::<T>())))
}
