//! The general registers, as the interpreter holds them.

use iced_x86::Register;
use kvm_bindings::kvm_regs;

use super::flags;

/// General registers in the order their numbers have in machine code, then RIP and RFLAGS.
///
/// 32-bit code leaves the upper halves alone, but for those that a write of 32 bits clears, as KVM does it.
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

/// Numbers of iced's registers, which lie in the order of their numbers in machine code.
const AL: usize = Register::AL as usize;
const BL: usize = Register::BL as usize;
const AH: usize = Register::AH as usize;
const BH: usize = Register::BH as usize;
const WORD_AX: usize = Register::AX as usize;
const WORD_DI: usize = Register::DI as usize;
const EAX: usize = Register::EAX as usize;
const EDI: usize = Register::EDI as usize;

impl From<&kvm_regs> for Regs {
    fn from(regs: &kvm_regs) -> Self {
        Self {
            gpr: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
                regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
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
    match register as usize {
        AL..=BH => 1,
        WORD_AX..=WORD_DI => 2,
        EAX..=EDI => 4,
        _ => 0,
    }
}

impl Regs {
    /// The low `width` bytes of register `number`.
    pub(super) fn low(&self, number: usize, width: u32) -> u32 {
        self.gpr.get(number).map_or(0, |&value| value as u32) & mask(width)
    }

    /// Sets the low `width` bytes of register `number`. Four clear what is above them.
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
    pub(super) fn get(&self, register: Register) -> u32 {
        let number = register as usize;
        match register as usize {
            AL..=BL => self.low(number - AL, 1),
            AH..=BH => self.low(number - AH, 2) >> 8,
            WORD_AX..=WORD_DI => self.low(number - WORD_AX, 2),
            EAX..=EDI => self.low(number - EAX, 4),
            _ => 0,
        }
    }

    /// Sets a register by its name.
    pub(super) fn set(&mut self, register: Register, value: u32) {
        let number = register as usize;
        match register as usize {
            AL..=BL => self.set_low(number - AL, 1, value),
            AH..=BH => {
                let number = number - AH;
                let low = self.low(number, 1);
                self.set_low(number, 2, value << 8 | low);
            }
            WORD_AX..=WORD_DI => self.set_low(number - WORD_AX, 2, value),
            EAX..=EDI => self.set_low(number - EAX, 4, value),
            _ => {}
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
        assert_eq!(kvm_regs::from(&regs), kvm);
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
