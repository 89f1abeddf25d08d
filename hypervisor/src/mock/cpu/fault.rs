//! What can keep an instruction from being completed.

/// The result of an instruction, or of a part of one.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Why an instruction was not completed. The registers are then put back to what they were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The guest gets an exception.
    Exception(Exception),
    /// A read needs an answer from outside, which the bus knows of. The instruction is begun anew with it.
    Unanswered,
    /// It reads and writes as one over two words of memory, so no other vCPU may be at work meanwhile.
    Split,
    /// Nobody has taught the interpreter what happens here.
    Unknown,
}

/// An exception of the processor (Intel SDM volume 3, table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) vector: u8,
    /// Pushed in protected mode only.
    pub(super) error: Option<u16>,
}

pub(super) const DEBUG: u8 = 1;
pub(super) const NMI: u8 = 2;
pub(super) const DOUBLE_FAULT: u8 = 8;
pub(super) const INVALID_TSS: u8 = 10;
pub(super) const NOT_PRESENT: u8 = 11;
pub(super) const STACK: u8 = 12;
pub(super) const PROTECTION: u8 = 13;

impl Exception {
    /// Whether its handler returns to the instruction that raised it.
    pub(super) fn is_fault(self) -> bool {
        const BREAKPOINT: u8 = 3;
        const OVERFLOW: u8 = 4;
        const MACHINE_CHECK: u8 = 18;
        !matches!(self.vector, DEBUG | NMI | BREAKPOINT | OVERFLOW | DOUBLE_FAULT | MACHINE_CHECK)
    }

    /// Vectors 0, 10, 11, 12 and 13: two of them, one in the delivery of the other, are a double fault (Intel SDM volume
    /// 3, table 7-5).
    pub(super) fn is_contributory(self) -> bool {
        matches!(self.vector, 0 | INVALID_TSS | NOT_PRESENT | STACK | PROTECTION)
    }
}

impl Fault {
    fn plain(vector: u8) -> Self {
        Self::Exception(Exception { vector, error: None })
    }

    fn coded(vector: u8, error: u16) -> Self {
        Self::Exception(Exception { vector, error: Some(error) })
    }

    /// #DE
    pub(super) fn divide() -> Self {
        Self::plain(0)
    }

    /// #BR
    pub(super) fn bound() -> Self {
        Self::plain(5)
    }

    /// #UD
    pub(super) fn invalid_opcode() -> Self {
        Self::plain(6)
    }

    /// #GP
    pub(super) fn protection(error: u16) -> Self {
        Self::coded(PROTECTION, error)
    }

    /// #SS
    pub(super) fn stack(error: u16) -> Self {
        Self::coded(STACK, error)
    }

    /// #NP
    pub(super) fn not_present(error: u16) -> Self {
        Self::coded(NOT_PRESENT, error)
    }
}
