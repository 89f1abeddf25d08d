//! A generated user-mode program: plain data, from which the instructions follow.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::assemble;
use super::layout::CODE;
use crate::differential::{Code, Op};

/// What most instructions of a program are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// General registers, memory, branches, strings.
    Integer,
    /// x87.
    X87,
    /// MMX.
    Mmx,
    /// SSE and SSE2.
    Sse,
}

/// What a program starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What most instructions are about.
    pub flavour: Flavour,
    /// RAX, RCX, RDX, RBX, none, RBP, RSI, RDI, R8 to R15.
    pub registers: [u64; 16],
    /// RFLAGS.
    pub flags: u32,
    /// The x87 control word.
    pub fcw: u16,
    /// MXCSR.
    pub mxcsr: u32,
    /// The seed of data memory, of the x87 and SSE registers, and of the data that reads outside of RAM get.
    pub memory: u64,
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
        f.write_str(&listing(&code))
    }
}

/// `code` as a person reads it.
pub fn listing(code: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    for instruction in &mut Decoder::with_ip(64, code, CODE.start, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        text.push_str(&format!("{:6x}  {line}\n", instruction.ip()));
    }
    text
}
