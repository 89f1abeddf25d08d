//! The general registers, as the interpreter holds them.

use iced_x86::Register;
use kvm_bindings::kvm_regs;

use super::flags;

/// The general registers that 32-bit code has, in the order their numbers have in machine code, then RIP and RFLAGS.
///
/// Such code leaves the upper halves alone, but for those that a write of 32 bits clears, as KVM does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Regs {
    pub(in crate::mock) gpr: [u64; 8],
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

/// Which part of which general register a name means.
#[derive(Clone, Copy)]
struct Part {
    number: usize,
    /// Bytes; 0 for names of other registers.
    width: u32,
    /// Bits below it.
    shift: u32,
}

/// By iced's numbers of registers, which are in the order of those in machine code.
static PARTS: [Part; 256] = {
    let mut parts = [Part { number: 0, width: 0, shift: 0 }; 256];
    let mut number = 0;
    while number < 8 {
        let high = if number < 4 { 0 } else { 4 };
        parts[Register::AL as usize + number] =
            Part { number: number - high, width: 1, shift: if number < 4 { 0 } else { 8 } };
        parts[Register::AX as usize + number] = Part { number, width: 2, shift: 0 };
        parts[Register::EAX as usize + number] = Part { number, width: 4, shift: 0 };
        number += 1;
    }
    parts
};

impl Part {
    #[inline]
    fn named(register: Register) -> Self {
        // There are fewer registers than entries.
        PARTS.get(register as usize).copied().unwrap_or(Self { number: 0, width: 0, shift: 0 })
    }
}

impl From<&kvm_regs> for Regs {
    fn from(regs: &kvm_regs) -> Self {
        Self {
            gpr: [regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi],
            rip: regs.rip,
            rflags: regs.rflags | flags::FIXED,
        }
    }
}

impl Regs {
    /// In the kernel's structure, whose other registers are taken from `others`.
    pub(in crate::mock) fn with(&self, others: &kvm_regs) -> kvm_regs {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi] = self.gpr;
        let (rip, rflags) = (self.rip, self.rflags);
        kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags, ..*others }
    }
}

/// The bits that a value of `width` bytes has, 1 to 4.
pub(super) fn mask(width: u32) -> u32 {
    u32::MAX >> (32 - 8 * width)
}

/// The highest bit of a value of `width` bytes.
pub(super) fn sign_bit(width: u32) -> u32 {
    1 << (8 * width - 1)
}

/// A value of `width` bytes as a signed number.
pub(super) fn signed(value: u32, width: u32) -> i32 {
    let unused = 32 - 8 * width;
    ((value << unused) as i32) >> unused
}

/// Bytes of a general register; 0 for any other register.
pub(super) fn register_width(register: Register) -> u32 {
    Part::named(register).width
}

impl Regs {
    /// The low `width` bytes of register `number`.
    #[inline]
    pub(super) fn low(&self, number: usize, width: u32) -> u32 {
        self.gpr.get(number).map_or(0, |&value| value as u32) & mask(width)
    }

    /// Sets the low `width` bytes of register `number`. Four clear what is above them.
    #[inline]
    pub(super) fn set_low(&mut self, number: usize, width: u32, value: u32) {
        if let Some(register) = self.gpr.get_mut(number) {
            let value = u64::from(value & mask(width));
            *register = if width == 4 { value } else { *register & !u64::from(mask(width)) | value };
        }
    }

    /// Sets the low `width` bytes of register `number` and keeps all above them: of counters, indices and the stack
    /// pointer.
    pub(super) fn set_kept(&mut self, number: usize, width: u32, value: u32) {
        if let Some(register) = self.gpr.get_mut(number) {
            let mask = u64::from(mask(width));
            *register = *register & !mask | u64::from(value) & mask;
        }
    }

    /// A register by its name; 0 for none.
    #[inline]
    pub(super) fn get(&self, register: Register) -> u32 {
        let Part { number, width, shift } = Part::named(register);
        // A part of no bytes has no bits.
        let mask = u32::MAX.checked_shr(32 - 8 * width).unwrap_or(0);
        self.gpr.get(number).map_or(0, |&value| (value >> shift) as u32) & mask
    }

    /// Sets a register by its name.
    #[inline]
    pub(super) fn set(&mut self, register: Register, value: u32) {
        let Part { number, width, shift } = Part::named(register);
        if shift != 0 {
            let low = self.low(number, 1);
            self.set_low(number, 2, value << shift | low);
        } else if width != 0 {
            self.set_low(number, width, value);
        }
    }

    /// Whether any of these flags is set.
    pub(super) fn has(&self, flags: u64) -> bool {
        self.rflags & flags != 0
    }

    /// Sets or clears flags.
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
        assert_eq!(regs.with(&kvm), kvm);
        assert_eq!((regs.get(Register::AL), regs.get(Register::AH)), (0x88, 0x77));
        assert_eq!((regs.get(Register::SP), regs.get(Register::EBP)), (4, 5));
    }

    #[test]
    fn a_write_of_four_bytes_clears_the_upper_half_and_smaller_ones_leave_the_rest() {
        let mut regs = Regs::from(&kvm_regs { rax: u64::MAX, ..Default::default() });
        regs.set(Register::AH, 0);
        regs.set(Register::AL, 1);
        assert_eq!(regs.gpr[AX], 0xffff_ffff_ffff_0001);
        regs.set(Register::AX, 2);
        assert_eq!(regs.gpr[AX], 0xffff_ffff_ffff_0002);
        regs.set(Register::EAX, 3);
        assert_eq!(regs.gpr[AX], 3);
    }
}
