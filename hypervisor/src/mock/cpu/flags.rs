//! RFLAGS, and what arithmetic leaves there (Intel SDM volume 1, section 3.4.3 and appendix A).

use super::regs::{Regs, mask};

pub(super) const CF: u64 = 1;
/// Bit 1, which is always set.
pub(in crate::mock) const FIXED: u64 = 1 << 1;
pub(super) const PF: u64 = 1 << 2;
pub(super) const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
pub(super) const SF: u64 = 1 << 7;
pub(super) const TF: u64 = 1 << 8;
pub(super) const IF: u64 = 1 << 9;
pub(super) const DF: u64 = 1 << 10;
pub(super) const OF: u64 = 1 << 11;
pub(super) const IOPL: u64 = 3 << 12;
pub(super) const NT: u64 = 1 << 14;
pub(super) const RF: u64 = 1 << 16;
pub(super) const VM: u64 = 1 << 17;
pub(super) const AC: u64 = 1 << 18;
pub(super) const VIF: u64 = 1 << 19;
pub(super) const VIP: u64 = 1 << 20;
pub(super) const ID: u64 = 1 << 21;

/// The six that arithmetic sets.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// PF by the low byte of a result.
static PARITY: [u8; 256] = {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        table[value] = if (value as u8).count_ones().is_multiple_of(2) { PF as u8 } else { 0 };
        value += 1;
    }
    table
};

/// SF, ZF and PF of a result, whose bits above `width` are not looked at.
#[inline]
pub(super) fn of_result(result: u64, width: u32) -> u64 {
    let sign = result >> (8 * width - 1) & 1;
    let zero = u64::from(result & mask(width) == 0);
    // A byte is always within the table.
    let parity = PARITY.get(result as u8 as usize).copied().unwrap_or_default();
    sign << 7 | zero << 6 | u64::from(parity)
}

/// The six flags of `a + b` with a carry in, which gave `result`.
#[inline]
pub(super) fn of_sum(a: u64, b: u64, result: u64, width: u32) -> u64 {
    let carries = a & b | (a | b) & !result;
    of_carries(carries, (a ^ result) & (b ^ result), a ^ b ^ result, result, width)
}

/// The six flags of `a - b` with a borrow in, which gave `result`.
#[inline]
pub(super) fn of_difference(a: u64, b: u64, result: u64, width: u32) -> u64 {
    let borrows = !a & b | (!a | b) & result;
    of_carries(borrows, (a ^ b) & (a ^ result), a ^ b ^ result, result, width)
}

#[inline]
fn of_carries(carries: u64, overflow: u64, half: u64, result: u64, width: u32) -> u64 {
    let top = 8 * width - 1;
    // AF is bit 4, and so is the carry into it.
    carries >> top & 1 | (overflow >> top & 1) << 11 | half & AF | of_result(result, width)
}

impl Regs {
    /// Replaces those of the flags that are in `which`.
    #[inline]
    pub(super) fn replace(&mut self, which: u64, flags: u64) {
        self.rflags = self.rflags & !which | flags & which;
    }

    /// `a + b + carry`, with all six flags.
    #[inline]
    pub(super) fn add(&mut self, a: u64, b: u64, carry: bool, width: u32) -> u64 {
        let result = a.wrapping_add(b).wrapping_add(carry.into()) & mask(width);
        self.replace(STATUS, of_sum(a, b, result, width));
        result
    }

    /// `a - b - borrow`, with all six flags.
    #[inline]
    pub(super) fn subtract(&mut self, a: u64, b: u64, borrow: bool, width: u32) -> u64 {
        let result = a.wrapping_sub(b).wrapping_sub(borrow.into()) & mask(width);
        self.replace(STATUS, of_difference(a, b, result, width));
        result
    }

    /// The flags of `and`, `or`, `xor`: CF and OF are 0. AF, which is undefined, is 0 as processors leave it.
    #[inline]
    pub(super) fn logic(&mut self, result: u64, width: u32) -> u64 {
        self.replace(STATUS, of_result(result, width));
        result
    }
}

/// Whether a condition of `jcc`, `setcc` or `cmovcc` holds; its number is that in the opcode (Intel SDM volume 2,
/// appendix B.1.4.7).
#[inline]
pub(super) fn condition(rflags: u64, number: u32) -> bool {
    let has = |flags| rflags & flags != 0;
    let holds = match number >> 1 {
        0 => has(OF),
        1 => has(CF),
        2 => has(ZF),
        3 => has(CF | ZF),
        4 => has(SF),
        5 => has(PF),
        6 => has(SF) != has(OF),
        _ => has(ZF) || has(SF) != has(OF),
    };
    holds != (number & 1 != 0)
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_regs;

    use super::*;

    fn after(operation: impl Fn(&mut Regs) -> u64) -> (u64, u64) {
        let mut regs = Regs::from(&kvm_regs::default());
        let result = operation(&mut regs);
        (result, regs.rflags & STATUS)
    }

    #[test]
    fn additions_set_all_six_flags() {
        for (a, b, carry, width, result, flags) in [
            (0xff, 1, false, 1, 0, CF | ZF | AF | PF),
            (0x7f, 1, false, 1, 0x80, SF | OF | AF),
            (0x80, 0x80, false, 1, 0, CF | ZF | OF | PF),
            (0xffff, 0, true, 2, 0, CF | ZF | AF | PF),
            (0x7fff_ffff, 1, false, 4, 0x8000_0000, SF | OF | AF | PF),
            (1, 2, false, 4, 3, PF),
            (u64::MAX, 1, false, 8, 0, CF | ZF | AF | PF),
            (u64::MAX, u64::MAX, true, 8, u64::MAX, CF | SF | AF | PF),
        ] {
            assert_eq!(after(|regs| regs.add(a, b, carry, width)), (result, flags), "{a:#x} + {b:#x}");
        }
    }

    #[test]
    fn subtractions_set_all_six_flags() {
        for (a, b, borrow, width, result, flags) in [
            (0, 1, false, 1, 0xff, CF | SF | AF | PF),
            (0x80, 1, false, 1, 0x7f, OF | AF),
            (0, 0xff, true, 1, 0, CF | ZF | AF | PF),
            (5, 5, false, 4, 0, ZF | PF),
            (0x8000_0000, 1, false, 4, 0x7fff_ffff, OF | AF | PF),
            (0, 0x8000, false, 2, 0x8000, CF | SF | OF | PF),
            (0, u64::MAX, true, 8, 0, CF | ZF | AF | PF),
        ] {
            assert_eq!(after(|regs| regs.subtract(a, b, borrow, width)), (result, flags), "{a:#x} - {b:#x}");
        }
    }

    #[test]
    fn parity_is_that_of_the_low_byte() {
        for value in 0..=0x1ff_u64 {
            assert_eq!(of_result(value, 4) & PF != 0, (value as u8).count_ones().is_multiple_of(2), "{value:#x}");
        }
    }
}
