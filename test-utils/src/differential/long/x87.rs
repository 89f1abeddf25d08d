//! x87: a stack that is neither empty nor full, control words, and images of the whole state.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, Register};

use super::assemble::Assembler;
use super::memory_operand::Reach;
use super::operands::{self, Decided};
use super::preparation::{control_word, stored};
use crate::differential::Op;

/// Whether `code` is an x87 instruction.
pub(super) fn is_x87(code: Code) -> bool {
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    code.cpuid_features().iter().any(|feature| x87.contains(feature))
}

/// Mostly sees to it that the instruction finds operands and room for its result.
pub(super) fn settle(a: &mut Assembler, op: &Op) {
    let mut probe = Instruction::default();
    probe.set_code(op.code);
    let tidy = op.picks.extra >> 29 != 0;
    // What is pushed is a decrement of the stack's pointer.
    let pushed = -probe.fpu_stack_increment_info().increment();
    if tidy && pushed > 0 && a.depth + pushed > 8 {
        a.emit(Instruction::with1(Code::Fstp_sti, Register::ST0).expect("fstp st0"));
        a.depth -= 1;
    }
    while tidy && needs_operand(op.code) && a.depth < 2 {
        let load = if op.picks.extra & 1 == 0 { Code::Fldpi } else { Code::Fld1 };
        a.emit(Instruction::with(load));
        a.depth += 1;
    }
    a.depth = (a.depth + pushed).clamp(0, 8);
    match op.code.mnemonic() {
        Mnemonic::Fninit | Mnemonic::Fnsave => a.depth = 0,
        Mnemonic::Ffree => a.depth = (a.depth - 1).max(0),
        _ => {}
    }
}

fn needs_operand(code: Code) -> bool {
    !matches!(
        code.mnemonic(),
        Mnemonic::Fld
            | Mnemonic::Fild
            | Mnemonic::Fbld
            | Mnemonic::Fld1
            | Mnemonic::Fldz
            | Mnemonic::Fldpi
            | Mnemonic::Fldl2e
            | Mnemonic::Fldl2t
            | Mnemonic::Fldlg2
            | Mnemonic::Fldln2
            | Mnemonic::Fldcw
            | Mnemonic::Fnstcw
            | Mnemonic::Fnstsw
            | Mnemonic::Fninit
            | Mnemonic::Fnclex
            | Mnemonic::Fnstenv
            | Mnemonic::Fldenv
            | Mnemonic::Fnsave
            | Mnemonic::Frstor
            | Mnemonic::Wait
            | Mnemonic::Fnop
    )
}

/// Whether `code` loads a control word, or stores or loads more.
pub(super) fn has_image(code: Code) -> bool {
    use Mnemonic::{Fldcw, Fldenv, Fnsave, Fnstenv, Frstor, Fxrstor, Fxrstor64, Fxsave, Fxsave64, Ldmxcsr};
    matches!(
        code.mnemonic(),
        Fldcw | Ldmxcsr | Fnstenv | Fldenv | Fnsave | Frstor | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
    )
}

/// Loads from what was stored just before; takes what differs from processor to processor out of what is stored: where the
/// last x87 instruction and its operand were, and which bits of MXCSR there are.
pub(super) fn image(a: &mut Assembler, op: &Op) {
    let size = match op.code.mnemonic() {
        Mnemonic::Fldcw => 2,
        Mnemonic::Ldmxcsr => 4,
        _ => 512,
    };
    let place = a.memory(op, size, size == 512, Reach::Ram);
    let decided = Decided { memory: Some(place), ..Default::default() };
    let store = match op.code {
        Code::Fldcw_m2byte => {
            a.emit(stored(&place, Code::Mov_rm16_imm16, control_word(op)));
            None
        }
        Code::Ldmxcsr_m32 => {
            a.emit(stored(&place, Code::Mov_rm32_imm32, control_word(op)));
            None
        }
        Code::Fldenv_m14byte => Some(Code::Fnstenv_m14byte),
        Code::Fldenv_m28byte => Some(Code::Fnstenv_m28byte),
        Code::Frstor_m94byte => Some(Code::Fnsave_m94byte),
        Code::Frstor_m108byte => Some(Code::Fnsave_m108byte),
        Code::Fxrstor_m512byte => Some(Code::Fxsave_m512byte),
        Code::Fxrstor64_m512byte => Some(Code::Fxsave64_m512byte),
        _ => None,
    };
    let stored_by = store.unwrap_or(op.code);
    if let Some(code) = store {
        let instruction = operands::instruction(a, &Op { code, picks: op.picks }, decided, Reach::Ram);
        a.emit(instruction);
    }
    let instruction = operands::instruction(a, op, decided, Reach::Ram);
    a.emit(instruction);
    match stored_by.mnemonic() {
        Mnemonic::Fnstenv | Mnemonic::Fnsave => {
            let short = matches!(stored_by, Code::Fnstenv_m14byte | Code::Fnsave_m94byte);
            let (first, last) = if short { (6, 14) } else { (12, 28) };
            for offset in (first..last).step_by(2) {
                a.emit(stored(&place.plus(offset), Code::Mov_rm16_imm16, 0));
            }
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => {
            a.emit(stored(&place.plus(6), Code::Mov_rm16_imm16, 0));
            for offset in [8, 12, 16, 20, 28] {
                a.emit(stored(&place.plus(offset), Code::Mov_rm32_imm32, 0));
            }
        }
        _ => {}
    }
}
