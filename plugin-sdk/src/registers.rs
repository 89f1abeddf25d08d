//! The registers of a vCPU that stands still, as far as they are known or waiting here.

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs};
use plugin_proto::messages::vcpu_request::StateSet;
use plugin_proto::messages::vcpu_response::wait::Io;
use plugin_proto::ring::{Body, Flags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Error;
use crate::state::parse;

/// The registers that may come with an event and travel with its resume.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    pub(crate) regs: Known<kvm_regs>,
    pub(crate) sregs: Known<kvm_sregs>,
    pub(crate) debugregs: Known<kvm_debugregs>,
    /// Which of them came with the event and were looked at, as [`Flags`] of a resume.
    pub(crate) seen: u16,
}

/// What is known of one set without asking.
#[derive(Debug, Default)]
pub(crate) enum Known<T> {
    #[default]
    Nothing,
    /// It came with the event.
    Attached(T),
    /// The plugin has set it in this event, and the VMM has not been told.
    Set(T),
}

impl Registers {
    pub(crate) fn attached(io: &Io) -> Result<Self, Error> {
        Ok(Self {
            regs: Known::attached(&io.regs)?,
            sregs: Known::attached(&io.sregs)?,
            debugregs: Known::attached(&io.debugregs)?,
            seen: 0,
        })
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.regs = Known::Nothing;
        self.sregs = Known::Nothing;
        self.debugregs = Known::Nothing;
        self.seen = 0;
    }

    /// Takes what came with an event.
    pub(crate) fn attach(&mut self, body: &Body<'_>) -> Result<(), Error> {
        if let Some(bytes) = body.regs {
            self.regs = Known::attached(bytes)?;
        }
        if let Some(bytes) = body.sregs {
            self.sregs = Known::attached(bytes)?;
        }
        if let Some(bytes) = body.debug_regs {
            self.debugregs = Known::attached(bytes)?;
        }
        Ok(())
    }

    /// Whether special or debug registers wait to be set.
    pub(crate) fn has_special_to_set(&self) -> bool {
        matches!(self.sregs, Known::Set(_)) || matches!(self.debugregs, Known::Set(_))
    }

    /// State of this kind, which came with the event, was looked at.
    pub(crate) fn note(&mut self, set: StateSet) {
        self.seen |= match set {
            StateSet::REGS => Flags::SAW_REGS,
            StateSet::SREGS => Flags::SAW_SREGS,
            StateSet::DEBUGREGS => Flags::SAW_DEBUG_REGS,
            _ => 0,
        };
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Known<T> {
    /// No bytes are no registers.
    fn attached(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.is_empty() { Ok(Self::Nothing) } else { parse(bytes).map(Self::Attached) }
    }

    /// The bytes for a resume: none where nothing waits to be set.
    pub(crate) fn to_set(&self) -> &[u8] {
        match self {
            Self::Nothing | Self::Attached(_) => &[],
            Self::Set(value) => value.as_bytes(),
        }
    }
}
