//! A generated program: plain data, from which the instructions follow.

use std::fmt;

use iced_x86::Code as Opcode;

use super::assemble::{self, Code};

/// The mode a program runs in from its first instruction to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// 16-bit real mode.
    Real,
    /// 32-bit protected mode; all segments from 0 to 4 GiB.
    Flat,
    /// 32-bit protected mode; each segment 64 KiB, based elsewhere.
    Segmented,
}

impl Mode {
    /// Bits of an operand and of an address without a prefix.
    pub fn bits(self) -> u32 {
        if self == Self::Real { 16 } else { 32 }
    }
}

/// What a program starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The mode.
    pub mode: Mode,
    /// EAX, ECX, EDX, EBX, none, EBP, ESI, EDI.
    pub registers: [u32; 8],
    /// EFLAGS.
    pub flags: u32,
    /// The seed of data memory, and of the answers to reads.
    pub memory: u64,
}

/// An instruction in the making. Each pick decides one thing; 0 is the simplest of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it is.
    pub code: Opcode,
    /// What its operands are.
    pub picks: Picks,
}

/// What decides the operands of an [`Op`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Picks {
    /// The registers, four bits each.
    pub registers: u32,
    /// Register or memory, and how memory is addressed.
    pub form: u32,
    /// Where memory is touched.
    pub place: u32,
    /// The immediate, or what is loaded into a register beforehand.
    pub value: u32,
    /// Prefixes, counts, jump distances, ports.
    pub extra: u32,
}

/// A start and what follows.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// The start.
    pub start: Start,
    /// The instructions, each of which may need a few more before it.
    pub ops: Vec<Op>,
}

impl Program {
    /// The machine code.
    pub fn code(&self) -> Code {
        assemble::assemble(self)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:x?}", self.start)?;
        let code = self.code().bytes;
        let hex: Vec<String> = code.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(f, "{}", hex.join(" "))?;
        f.write_str(&super::listing(self.start.mode, &code))
    }
}
