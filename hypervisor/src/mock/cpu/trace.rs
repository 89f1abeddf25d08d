//! What was executed last.

use std::collections::VecDeque;
use std::fmt;

use iced_x86::{FastFormatter, Instruction};

use super::decode::Decoded;

/// An instruction that was executed, or tried. Shown as its address, its bytes, and assembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    address: u64,
    instruction: Instruction,
    bytes: [u8; 16],
}

impl Executed {
    /// Its linear address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes, 1 to 15.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.instruction.len()).unwrap_or_default()
    }
}

impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        FastFormatter::new().format(&self.instruction, &mut text);
        let bytes: Vec<_> = self.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        write!(f, "{:08x}  {:<24} {text}", self.address, bytes.join(" "))
    }
}

/// The last instructions, as many as were asked for.
#[derive(Default)]
pub(super) struct History {
    most: usize,
    executed: VecDeque<Executed>,
}

impl History {
    /// Begins anew, with room for `most`.
    pub(super) fn keep(&mut self, most: usize) {
        *self = Self { most, executed: VecDeque::with_capacity(most) };
    }

    /// Whether any are kept.
    pub(super) fn is_on(&self) -> bool {
        self.most != 0
    }

    pub(super) fn note(&mut self, address: u64, decoded: &Decoded) {
        if self.most == 0 {
            return;
        }
        if self.executed.len() == self.most {
            self.executed.pop_front();
        }
        self.executed.push_back(Executed { address, instruction: decoded.instruction, bytes: decoded.bytes() });
    }

    /// The oldest first.
    pub(super) fn executed(&self) -> Vec<Executed> {
        self.executed.iter().copied().collect()
    }
}
