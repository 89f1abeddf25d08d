//! The registers of a vCPU that is stopped, as far as they are known or waiting here.

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

/// What is known of one set without asking. The registers themselves are in a box that is kept: most events look at none, and find
/// what they look at in one cache line.
#[derive(Debug)]
pub(crate) struct Known<T> {
    what: What,
    registers: Option<Box<T>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Nothing,
    /// They came with the event.
    Attached,
    /// The plugin has set them in this event, and the VMM has not been told.
    Set,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { what: What::Nothing, registers: None }
    }
}

impl Registers {
    pub(crate) fn attached(io: &Io) -> Result<Self, Error> {
        let mut registers = Self::default();
        registers.regs.attach(&io.regs)?;
        registers.sregs.attach(&io.sregs)?;
        registers.debugregs.attach(&io.debugregs)?;
        Ok(registers)
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.regs.forget();
        self.sregs.forget();
        self.debugregs.forget();
        self.seen = 0;
    }

    /// Takes what came with an event.
    pub(crate) fn attach(&mut self, body: &Body<'_>) -> Result<(), Error> {
        if let Some(bytes) = body.regs {
            self.regs.attach(bytes)?;
        }
        if let Some(bytes) = body.sregs {
            self.sregs.attach(bytes)?;
        }
        if let Some(bytes) = body.debug_regs {
            self.debugregs.attach(bytes)?;
        }
        Ok(())
    }

    /// Whether special or debug registers wait to be set.
    pub(crate) fn has_special_to_set(&self) -> bool {
        self.sregs.what == What::Set || self.debugregs.what == What::Set
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

impl<T> Known<T> {
    fn put(&mut self, what: What, registers: T) {
        self.what = what;
        match &mut self.registers {
            Some(place) => **place = registers,
            None => self.registers = Some(Box::new(registers)),
        }
    }

    /// The plugin sets them.
    pub(crate) fn set(&mut self, registers: T) {
        self.put(What::Set, registers);
    }

    pub(crate) fn forget(&mut self) {
        self.what = What::Nothing;
    }

    /// What came with the event.
    pub(crate) fn attached(&self) -> Option<&T> {
        self.registers.as_deref().filter(|_| self.what == What::Attached)
    }

    /// What waits to be set.
    pub(crate) fn waiting(&self) -> Option<&T> {
        self.registers.as_deref().filter(|_| self.what == What::Set)
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Known<T> {
    /// Takes what came with an event: no bytes are no registers.
    fn attach(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if !bytes.is_empty() {
            self.put(What::Attached, parse(bytes)?);
        }
        Ok(())
    }

    /// The bytes for a resume: none where nothing waits to be set.
    pub(crate) fn to_set(&self) -> &[u8] {
        self.waiting().map_or(&[], IntoBytes::as_bytes)
    }
}
