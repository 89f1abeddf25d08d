//! The flags that an instruction leaves without a meaning.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

const CF: u32 = 1 << 0;
const PF: u32 = 1 << 2;
const AF: u32 = 1 << 4;
const ZF: u32 = 1 << 6;
const SF: u32 = 1 << 7;
const OF: u32 = 1 << 11;

/// The flags in EFLAGS that are undefined after `instruction`, by the sections "Flags Affected" of Intel SDM volume 2.
pub(super) fn flags(instruction: &Instruction) -> u32 {
    match instruction.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => AF,
        Mnemonic::Mul | Mnemonic::Imul => SF | ZF | AF | PF,
        Mnemonic::Div | Mnemonic::Idiv => CF | OF | SF | ZF | AF | PF,
        Mnemonic::Aam | Mnemonic::Aad => OF | AF | CF,
        Mnemonic::Das => OF,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => OF | SF | AF | PF,
        Mnemonic::Bsf | Mnemonic::Bsr => CF | OF | SF | AF | PF,
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => match count(instruction) {
            Some(0) => 0,
            Some(1) => AF,
            // CF has no meaning where all bits were shifted out; SAR repeats the sign.
            Some(n) if n < size(instruction) || instruction.mnemonic() == Mnemonic::Sar => OF | AF,
            _ if instruction.mnemonic() == Mnemonic::Sar => OF | AF,
            _ => OF | AF | CF,
        },
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => match count(instruction) {
            Some(0 | 1) => 0,
            _ => OF,
        },
        Mnemonic::Shld | Mnemonic::Shrd => match count(instruction) {
            Some(0) => 0,
            Some(1) => AF,
            _ => OF | AF,
        },
        Mnemonic::Mov if is_control(instruction) => CF | OF | SF | ZF | AF | PF,
        _ => 0,
    }
}

/// A move to or from a control or debug register.
fn is_control(instruction: &Instruction) -> bool {
    let registers = [instruction.op0_register(), instruction.op1_register()];
    registers.iter().any(|register| register.is_cr() || register.is_dr())
}

/// `iced-x86`'s bits for the flags, in the places that they have in EFLAGS. Others than these six are left out.
pub(super) fn in_eflags(bits: u32) -> u32 {
    let places = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ];
    places.iter().filter(|(theirs, _)| bits & theirs != 0).map(|(_, ours)| ours).sum()
}

/// The count of a shift where the instruction itself tells it, as the processor masks it.
fn count(instruction: &Instruction) -> Option<u32> {
    let last = instruction.op_count() - 1;
    match instruction.op_kind(last) {
        OpKind::Immediate8 => Some(u32::from(instruction.immediate8()) & if size(instruction) == 64 { 63 } else { 31 }),
        _ => None,
    }
}

/// Bits of the first operand.
fn size(instruction: &Instruction) -> u32 {
    let bytes = match instruction.op0_kind() {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op0_register().size(),
    };
    bytes as u32 * 8
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Register};

    use super::*;

    #[test]
    fn what_the_library_knows_of_undefined_flags_is_among_them() {
        for (code, count) in [(Code::Shl_rm32_imm8, 5), (Code::Rol_rm32_imm8, 5), (Code::Shld_rm32_r32_imm8, 5)] {
            let mut shift = Instruction::default();
            shift.set_code(code);
            shift.set_op0_register(Register::EAX);
            if shift.op_count() == 3 {
                shift.set_op1_register(Register::EAX);
            }
            shift.set_op_kind(shift.op_count() - 1, OpKind::Immediate8);
            shift.set_immediate8(count);
            assert_eq!(flags(&shift), in_eflags(shift.rflags_undefined()), "{code:?}");
        }
    }
}
