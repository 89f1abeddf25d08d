//! Saying beforehand at which access the registers will be looked at.

use std::num::NonZeroU64;

use plugin_proto::messages;
use plugin_proto::messages::main_request::SetCallHint;
use plugin_proto::messages::main_request::set_call_hint::RegHint;

use crate::connection::ask;
use crate::{AddressSpace, Connection, Error};

/// Whether the guest reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

/// An access that is delivered with the general registers attached, so that looking at them is no request: a port through
/// which the guest calls its plugin, with arguments in registers.
///
/// ```
/// use std::num::NonZeroU64;
/// use plugin_sdk::{AddressSpace, CallHint, Direction, HintDetail};
///
/// // `out 0x80, al` is a call, and call 7 looks at the special registers too.
/// let hint = CallHint {
///     space: AddressSpace::Pio,
///     address: NonZeroU64::new(0x80).expect("not 0"),
///     direction: Direction::Write,
///     details: vec![HintDetail { rax: Some(7), sregs: true, ..HintDetail::default() }],
/// };
/// # let _ = hint;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHint {
    /// Port or memory.
    pub space: AddressSpace,
    /// The first byte of the access. Version 0 of the protocol has no hint for address 0.
    pub address: NonZeroU64,
    /// Reads or writes.
    pub direction: Direction,
    /// What more is attached, by the values of registers. The first that matches counts.
    pub details: Vec<HintDetail>,
}

/// Registers to attach when some general registers have certain values; `None` is any value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintDetail {
    /// The value RAX must have.
    pub rax: Option<u64>,
    /// The value RBX must have.
    pub rbx: Option<u64>,
    /// The value RCX must have.
    pub rcx: Option<u64>,
    /// The value RDX must have.
    pub rdx: Option<u64>,
    /// Attach the special registers.
    pub sregs: bool,
    /// Attach the debug registers.
    pub debugregs: bool,
}

impl Connection {
    /// Replaces the one hint of the VM.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection's failure.
    pub fn set_call_hint(&mut self, hint: &CallHint) -> Result<(), Error> {
        self.hint(SetCallHint {
            space: messages::AddressSpace::from(hint.space).into(),
            address: hint.address.get(),
            on_write: hint.direction == Direction::Write,
            hints: hint.details.iter().copied().map(HintDetail::to_wire).collect(),
            ..Default::default()
        })
    }

    /// Takes the hint away.
    ///
    /// # Errors
    /// [`Error::Refused`], or the connection's failure.
    pub fn remove_call_hint(&mut self) -> Result<(), Error> {
        // Address 0 says so.
        self.hint(SetCallHint::new())
    }

    fn hint(&mut self, hint: SetCallHint) -> Result<(), Error> {
        ask!(self, "set_call_hint", SetCallHint(hint)).map(drop)
    }
}

impl HintDetail {
    fn to_wire(self) -> RegHint {
        RegHint {
            match_rax: self.rax.is_some(),
            match_rbx: self.rbx.is_some(),
            match_rcx: self.rcx.is_some(),
            match_rdx: self.rdx.is_some(),
            rax: self.rax.unwrap_or_default(),
            rbx: self.rbx.unwrap_or_default(),
            rcx: self.rcx.unwrap_or_default(),
            rdx: self.rdx.unwrap_or_default(),
            send_sregs: self.sregs,
            send_debugregs: self.debugregs,
            ..Default::default()
        }
    }
}
