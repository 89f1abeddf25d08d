//! RFLAGS, and what arithmetic leaves there (Intel SDM volume 1, section 3.4.3 and appendix A).

use super::regs::{Regs, mask, sign_bit};

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
pub(super) const ID: u64 = 1 << 21;

/// The six that arithmetic sets.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// Even parity of the low byte.
fn parity(value: u32) -> bool {
    let nibble = (value ^ value >> 4) & 0xf;
    0x6996 >> nibble & 1 == 0
}

/// SF, ZF and PF of a result.
pub(super) fn of_result(result: u32, width: u32) -> u64 {
    let sign = if result & sign_bit(width) != 0 { SF } else { 0 };
    let zero = if result & mask(width) == 0 { ZF } else { 0 };
    let parity = if parity(result) { PF } else { 0 };
    sign | zero | parity
}

impl Regs {
    /// Replaces those of the flags that are in `which`.
    pub(super) fn replace(&mut self, which: u64, flags: u64) {
        self.rflags = self.rflags & !which | flags & which;
    }

    /// `a + b + carry`, with all six flags.
    pub(super) fn add(&mut self, a: u32, b: u32, carry: bool, width: u32) -> u32 {
        let wide = u64::from(a) + u64::from(b) + u64::from(carry);
        let result = wide as u32 & mask(width);
        self.arithmetic(a, b, result, wide >> (8 * width) & 1 != 0, (a ^ result) & (b ^ result), width);
        result
    }

    /// `a - b - borrow`, with all six flags.
    pub(super) fn subtract(&mut self, a: u32, b: u32, borrow: bool, width: u32) -> u32 {
        let wide = u64::from(a).wrapping_sub(u64::from(b)).wrapping_sub(u64::from(borrow));
        let result = wide as u32 & mask(width);
        self.arithmetic(a, b, result, wide >> (8 * width) & 1 != 0, (a ^ b) & (a ^ result), width);
        result
    }

    fn arithmetic(&mut self, a: u32, b: u32, result: u32, carry: bool, overflow: u32, width: u32) {
        let carry = if carry { CF } else { 0 };
        let overflow = if overflow & sign_bit(width) != 0 { OF } else { 0 };
        // AF is bit 4, and so is the carry into it.
        let half = u64::from(a ^ b ^ result) & AF;
        self.replace(STATUS, of_result(result, width) | carry | overflow | half);
    }

    /// The flags of `and`, `or`, `xor`: CF and OF are 0. AF, which is undefined, is 0 as processors leave it.
    pub(super) fn logic(&mut self, result: u32, width: u32) -> u32 {
        self.replace(STATUS, of_result(result, width));
        result
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_regs;

    use super::*;

    fn after(operation: impl Fn(&mut Regs) -> u32) -> (u32, u64) {
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
        ] {
            assert_eq!(after(|regs| regs.subtract(a, b, borrow, width)), (result, flags), "{a:#x} - {b:#x}");
        }
    }

    #[test]
    fn parity_is_that_of_the_low_byte() {
        for value in 0..=0x1ff_u32 {
            assert_eq!(parity(value), (value as u8).count_ones().is_multiple_of(2), "{value:#x}");
        }
    }
}
