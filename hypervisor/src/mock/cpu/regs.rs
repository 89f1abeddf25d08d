//! The general registers, as the interpreter holds them.

use iced_x86::Register;
use kvm_bindings::kvm_regs;

use super::flags;

/// The sixteen general registers, in the order of their numbers in machine code, then RIP and RFLAGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Regs {
    pub(in crate::mock) gpr: [u64; 16],
    pub(in crate::mock) rip: u64,
    pub(in crate::mock) rflags: u64,
}

/// Numbers of registers.
pub(in crate::mock) const AX: usize = 0;
pub(super) const CX: usize = 1;
pub(super) const DX: usize = 2;
pub(super) const BX: usize = 3;
pub(super) const SP: usize = 4;
pub(super) const BP: usize = 5;
pub(super) const SI: usize = 6;
pub(super) const DI: usize = 7;
pub(super) const R11: usize = 11;

/// Which part of which general register a name means.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) number: usize,
    /// Bytes; 0 for names of other registers.
    pub(super) width: u32,
    /// Bits below it.
    pub(super) shift: u32,
}

/// By iced's numbers of registers, which are in the order of those in machine code.
static PARTS: [Part; 256] = {
    let mut parts = [Part { number: 0, width: 0, shift: 0 }; 256];
    let mut number = 0;
    while number < 4 {
        parts[Register::AL as usize + number] = Part { number, width: 1, shift: 0 };
        parts[Register::AH as usize + number] = Part { number, width: 1, shift: 8 };
        number += 1;
    }
    while number < 16 {
        parts[Register::SPL as usize + number - 4] = Part { number, width: 1, shift: 0 };
        number += 1;
    }
    number = 0;
    while number < 16 {
        parts[Register::AX as usize + number] = Part { number, width: 2, shift: 0 };
        parts[Register::EAX as usize + number] = Part { number, width: 4, shift: 0 };
        parts[Register::RAX as usize + number] = Part { number, width: 8, shift: 0 };
        number += 1;
    }
    parts
};

impl Part {
    #[inline]
    pub(super) fn named(register: Register) -> Self {
        // There are fewer registers than entries.
        PARTS.get(register as usize).copied().unwrap_or(Self { number: 0, width: 0, shift: 0 })
    }
}

impl From<&kvm_regs> for Regs {
    fn from(regs: &kvm_regs) -> Self {
        let kvm_regs { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, .. } = *regs;
        Self {
            gpr: [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15],
            rip: regs.rip,
            rflags: regs.rflags | flags::FIXED,
        }
    }
}

impl From<&Regs> for kvm_regs {
    fn from(regs: &Regs) -> Self {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = regs.gpr;
        let (rip, rflags) = (regs.rip, regs.rflags);
        Self { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
    }
}

/// The bits that a value of `width` bytes has, 1 to 8.
#[inline]
pub(super) const fn mask(width: u32) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// The highest bit of a value of `width` bytes.
#[inline]
pub(super) const fn sign_bit(width: u32) -> u64 {
    1 << (8 * width - 1)
}

/// A value of `width` bytes as a signed number.
#[inline]
pub(super) const fn signed(value: u64, width: u32) -> i64 {
    let unused = 64 - 8 * width;
    ((value << unused) as i64) >> unused
}

/// Bytes of a general register; 0 for any other register.
pub(super) fn register_width(register: Register) -> u32 {
    Part::named(register).width
}

impl Regs {
    /// All 64 bits of register `number`.
    #[inline]
    pub(super) fn full(&self, number: usize) -> u64 {
        self.gpr.get(number).copied().unwrap_or_default()
    }

    /// The low `width` bytes of register `number`.
    #[inline]
    pub(super) fn low(&self, number: usize, width: u32) -> u64 {
        self.full(number) & mask(width)
    }

    /// Sets the low `width` bytes of register `number`. Four clear what is above them.
    #[inline]
    pub(super) fn set_low(&mut self, number: usize, width: u32, value: u64) {
        if let Some(register) = self.gpr.get_mut(number) {
            let value = value & mask(width);
            *register = if width >= 4 { value } else { *register & !mask(width) | value };
        }
    }

    /// Sets the low `width` bytes of register `number` and keeps all above them: of the stack pointer of 16 and 32 bits.
    #[inline]
    pub(super) fn set_kept(&mut self, number: usize, width: u32, value: u64) {
        if let Some(register) = self.gpr.get_mut(number) {
            *register = *register & !mask(width) | value & mask(width);
        }
    }

    /// A register by its name; 0 for none.
    #[inline]
    pub(super) fn get(&self, register: Register) -> u64 {
        let Part { number, width, shift } = Part::named(register);
        // A part of no bytes has no bits.
        let mask = u64::MAX.checked_shr(64 - 8 * width).unwrap_or(0);
        self.full(number) >> shift & mask
    }

    /// Sets a register by its name.
    #[inline]
    pub(super) fn set(&mut self, register: Register, value: u64) {
        let Part { number, width, shift } = Part::named(register);
        if shift != 0 {
            let low = self.low(number, 1);
            self.set_low(number, 2, value << shift | low);
        } else if width != 0 {
            self.set_low(number, width, value);
        }
    }

    /// Whether any of these flags is set.
    #[inline]
    pub(super) fn has(&self, flags: u64) -> bool {
        self.rflags & flags != 0
    }

    /// Sets or clears flags.
    #[inline]
    pub(super) fn put(&mut self, flags: u64, on: bool) {
        if on { self.rflags |= flags } else { self.rflags &= !flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_go_in_and_come_out_by_name() {
        let kvm =
            kvm_regs { rax: 0x1122_3344_5566_7788, r15: 15, rsp: 4, rbp: 5, rip: 6, rflags: 2, ..Default::default() };
        let regs = Regs::from(&kvm);
        assert_eq!(kvm_regs::from(&regs), kvm);
        assert_eq!((regs.get(Register::AL), regs.get(Register::AH)), (0x88, 0x77));
        assert_eq!((regs.get(Register::SP), regs.get(Register::EBP), regs.get(Register::SPL)), (4, 5, 4));
        assert_eq!((regs.get(Register::R15), regs.get(Register::R15L), regs.get(Register::RAX)), (15, 15, kvm.rax));
        assert_eq!(regs.get(Register::XMM3), 0);
    }

    #[test]
    fn four_bytes_clear_the_upper_half_and_smaller_keep_the_rest() {
        let mut regs = Regs::from(&kvm_regs { rax: u64::MAX, ..Default::default() });
        regs.set(Register::AH, 0);
        regs.set(Register::AL, 1);
        assert_eq!(regs.gpr[AX], 0xffff_ffff_ffff_0001);
        regs.set(Register::AX, 2);
        assert_eq!(regs.gpr[AX], 0xffff_ffff_ffff_0002);
        regs.set(Register::EAX, 3);
        assert_eq!(regs.gpr[AX], 3);
        regs.set(Register::RAX, u64::MAX);
        assert_eq!(regs.gpr[AX], u64::MAX);
    }
}
