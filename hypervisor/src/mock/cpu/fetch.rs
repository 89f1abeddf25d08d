//! Fetching and decoding one instruction, wherever it lies.

use super::Exec;
use super::decode::{Decoded, MAX_BYTES, NotWhole};
use super::exception::Fault;
use super::segments::is_canonical;
use crate::PAGE_SIZE;

/// Code that was read, up to the end of a page or of the segment.
#[derive(Clone, Copy)]
pub(super) struct Fetched {
    /// The bytes, lowest first.
    code: u128,
    /// How many there are, and how many the segment allows.
    len: u32,
    allowed: u32,
}

/// Why there is nothing to execute.
pub(super) struct NotCode {
    pub(super) fault: Fault,
    pub(super) bytes: [u8; 16],
    pub(super) len: u32,
}

impl From<Fault> for NotCode {
    fn from(fault: Fault) -> Self {
        Self { fault, bytes: [0; 16], len: 0 }
    }
}

impl Exec<'_> {
    /// The linear address of the next instruction.
    #[inline]
    pub(super) fn code_address(&self) -> u64 {
        if self.is_64_bit() {
            return self.state.regs.rip;
        }
        self.state.sregs.cs.base.wrapping_add(self.state.regs.rip) & u64::from(u32::MAX)
    }

    /// Reads code at CS:RIP.
    pub(super) fn fetch(&mut self) -> Result<Fetched, NotCode> {
        let rip = self.state.regs.rip;
        let allowed = if self.is_64_bit() {
            if !is_canonical(rip) {
                return Err(Fault::protection(0).into());
            }
            MAX_BYTES
        } else {
            match u64::from(self.state.sregs.cs.limit).checked_sub(rip) {
                Some(room) => (room + 1).min(MAX_BYTES.into()) as u32,
                None => return Err(Fault::protection(0).into()),
            }
        };
        let physical = self.translate(self.code_address(), self.state.mode.fetch)?;
        let (code, len) = self.bus.code(physical);
        if len == 0 {
            return Err(Fault::Unknown.into());
        }
        Ok(Fetched { code, len: len.min(allowed), allowed })
    }

    /// Decodes what was fetched; where that is not all of an instruction, with what the next page has.
    pub(super) fn decode(&mut self, fetched: Fetched) -> Result<Decoded, NotCode> {
        let first = self.decode_bytes(fetched.code, fetched.len);
        if first.as_ref().err() != Some(&NotWhole::More) {
            return first.map_err(|_| Fault::invalid_opcode().into());
        }
        let bytes = fetched.code.to_le_bytes();
        if fetched.len >= fetched.allowed {
            // The segment's end or the sixteenth byte.
            return Err(Fault::protection(0).into());
        }
        let next = (self.code_address() & !(PAGE_SIZE - 1)).wrapping_add(PAGE_SIZE) & self.state.mode.linear_mask();
        let physical = self.translate(next, self.state.mode.fetch)?;
        let (more, more_len) = self.bus.code(physical);
        let code = fetched.code | more.checked_shl(8 * fetched.len).unwrap_or(0);
        let len = (fetched.len + more_len).min(fetched.allowed);
        self.decode_bytes(code, len).map_err(|not_whole| match not_whole {
            NotWhole::More if more_len == 0 => NotCode { fault: Fault::Unknown, bytes, len: fetched.len },
            NotWhole::More => Fault::protection(0).into(),
            NotWhole::Invalid => Fault::invalid_opcode().into(),
        })
    }

    fn decode_bytes(&self, code: u128, len: u32) -> Result<Decoded, NotWhole> {
        let bytes = code.to_le_bytes();
        let bytes = bytes.get(..len as usize).unwrap_or_default();
        Decoded::of(bytes, self.state.regs.rip, self.state.mode.bits, self.state.features)
    }
}
