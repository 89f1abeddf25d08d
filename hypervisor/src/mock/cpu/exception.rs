//! What can keep an instruction from being completed.

/// The result of an instruction, or of a part of one.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Why an instruction was not completed. The registers are then put back to what they were before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The guest gets an exception.
    Exception(Exception),
    /// A read needs data from outside, which the bus knows of. The instruction is replayed with it.
    Unanswered,
    /// It reads and writes as one over two words of memory, so no other vCPU may execute meanwhile.
    Split,
    /// The interpreter has no model of what happens here.
    Unknown,
}

/// An exception of the processor (Intel SDM volume 3, table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) vector: u8,
    /// Pushed in protected mode only.
    pub(super) error: Option<u16>,
    /// What a register gets when it is delivered: CR2 the address of a page fault, DR6 the causes of a debug exception. None
    /// where it has that already.
    pub(super) payload: Option<u64>,
}

pub(super) const DEBUG: u8 = 1;
pub(super) const NMI: u8 = 2;
pub(super) const BREAKPOINT: u8 = 3;
pub(super) const OVERFLOW: u8 = 4;
const NO_FPU: u8 = 7;
pub(super) const DOUBLE_FAULT: u8 = 8;
pub(super) const INVALID_TSS: u8 = 10;
pub(super) const NOT_PRESENT: u8 = 11;
pub(super) const STACK: u8 = 12;
pub(super) const PROTECTION: u8 = 13;
pub(super) const PAGE: u8 = 14;
pub(super) const ALIGNMENT: u8 = 17;

impl Exception {
    pub(super) fn new(vector: u8, error: Option<u16>) -> Self {
        Self { vector, error, payload: None }
    }

    /// #DB with its causes, as bits of DR6.
    pub(super) fn debug(causes: u64) -> Self {
        Self { vector: DEBUG, error: None, payload: Some(causes) }
    }

    /// Whether its handler returns to the instruction that raised it.
    pub(super) fn is_fault(self) -> bool {
        const MACHINE_CHECK: u8 = 18;
        !matches!(self.vector, DEBUG | NMI | BREAKPOINT | OVERFLOW | DOUBLE_FAULT | MACHINE_CHECK)
    }

    /// Vectors 0, 10, 11, 12 and 13: two of them, one in the delivery of the other, are a double fault (Intel SDM volume
    /// 3, table 7-5).
    fn is_contributory(self) -> bool {
        matches!(self.vector, 0 | INVALID_TSS | NOT_PRESENT | STACK | PROTECTION)
    }

    /// Whether `second`, raised while this one is delivered, makes a double fault (Intel SDM volume 3, table 7-5).
    pub(super) fn doubles(self, second: Self) -> bool {
        self.is_contributory() && second.is_contributory()
            || self.vector == PAGE && (second.is_contributory() || second.vector == PAGE)
    }
}

impl Fault {
    fn plain(vector: u8) -> Self {
        Self::Exception(Exception::new(vector, None))
    }

    fn coded(vector: u8, error: u16) -> Self {
        Self::Exception(Exception::new(vector, Some(error)))
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

    /// #NM
    pub(super) fn no_fpu() -> Self {
        Self::plain(NO_FPU)
    }

    /// #TS
    pub(super) fn invalid_tss(error: u16) -> Self {
        Self::coded(INVALID_TSS, error)
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

    /// #PF
    pub(super) fn page(linear: u64, error: u16) -> Self {
        Self::Exception(Exception { vector: PAGE, error: Some(error), payload: Some(linear) })
    }

    /// #AC
    pub(super) fn alignment() -> Self {
        Self::coded(ALIGNMENT, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_faults_are_those_of_the_manuals_table() {
        let new = |vector| Exception::new(vector, None);
        for (first, second, doubles) in [
            (PROTECTION, PROTECTION, true),
            (PROTECTION, PAGE, false),
            (PAGE, PAGE, true),
            (PAGE, STACK, true),
            (6, PROTECTION, false),
            (0, NOT_PRESENT, true),
            (PROTECTION, 6, false),
        ] {
            assert_eq!(new(first).doubles(new(second)), doubles, "{first} then {second}");
        }
    }
}
