//! Jumps, calls and returns, each to one of the next three ops; and loops that end.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind as Form, OpKind};

use super::assemble::{Assembler, ECX, ESP};
use super::memory_operand::Reach;
use super::operands::{self, Decided};
use super::preparation::{is_short, push, stored};
use super::program::Op;

/// Whether `code` goes elsewhere, and not to an interrupt's handler.
pub(super) fn is_branch(code: Code) -> bool {
    !matches!(
        code.flow_control(),
        FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception | FlowControl::XbeginXabortXend
    )
}

/// Adds a branch and what it needs.
pub(super) fn add(a: &mut Assembler, op: &Op) {
    let target = a.target(op.picks.extra);
    let selector = a.windows.code.selector;
    match (op.code.mnemonic(), op.code.op_code().op_kinds()) {
        (Mnemonic::Ret, forms) => {
            push_target(a, is_short(op.code), target);
            if !forms.is_empty() {
                a.stack_lost |= op.picks.value % 0x40 > 0x20;
            }
            finish(a, op, Decided { immediate: Some(op.picks.value % 0x40), ..Default::default() }, target);
        }
        (Mnemonic::Retf, _) => {
            push(a, is_short(op.code), selector.into());
            push_target(a, is_short(op.code), target);
            finish(a, op, Decided { immediate: Some(op.picks.value % 0x40), ..Default::default() }, target);
        }
        (Mnemonic::Iret | Mnemonic::Iretd, _) => {
            push(a, is_short(op.code), op.picks.value & 0x24_0cd7 | 2);
            push(a, is_short(op.code), selector.into());
            push_target(a, is_short(op.code), target);
            finish(a, op, Decided::default(), target);
        }
        (Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne, _) => {
            a.hold(ECX, op.picks.value % 4);
            jump(a, op, Decided::default(), target);
        }
        (Mnemonic::Jcxz | Mnemonic::Jecxz, _) => {
            if op.picks.value.is_multiple_of(2) {
                a.hold(ECX, (op.picks.value >> 1) % 2 * 0x1_0000);
            }
            jump(a, op, Decided::default(), target);
        }
        (_, [Form::farbr2_2 | Form::farbr4_2]) => jump(a, op, Decided { selector, ..Default::default() }, target),
        (_, [Form::r16_or_mem | Form::r32_or_mem]) if !operands::in_memory(op) => {
            let register = operands::register(op, 0);
            let register = if register == ESP { ECX } else { register };
            a.load_target(register, target);
            finish(a, op, Decided { register: Some(register), ..Default::default() }, target);
        }
        (_, [Form::r16_or_mem | Form::r32_or_mem | Form::mem]) => {
            let place = a.memory(&op.picks, Reach::Ram);
            let short = is_short(op.code);
            let (code, width) = if short { (Code::Mov_rm16_imm16, 2) } else { (Code::Mov_rm32_imm32, 4) };
            a.emit_to(stored(&place, code, 0), target);
            let far = place.plus(width, place.address_bits());
            a.emit(stored(&far, Code::Mov_rm16_imm16, selector.into()));
            finish(a, op, Decided { memory: Some(place), ..Default::default() }, target);
        }
        _ => jump(a, op, Decided::default(), target),
    }
}

/// A branch that mentions where it goes to.
fn jump(a: &mut Assembler, op: &Op, decided: Decided, target: usize) {
    let instruction = operands::instruction(a, op, decided);
    a.emit_to(instruction, target);
    a.leave_to(target);
}

/// A branch that finds in a register or in memory where it goes to.
fn finish(a: &mut Assembler, op: &Op, decided: Decided, target: usize) {
    let instruction = operands::instruction(a, op, decided);
    a.emit(instruction);
    a.leave_to(target);
}

fn push_target(a: &mut Assembler, short: bool, target: usize) {
    let mut push = Instruction::default();
    push.set_code(if short { Code::Push_imm16 } else { Code::Pushd_imm32 });
    push.set_op0_kind(if short { OpKind::Immediate16 } else { OpKind::Immediate32 });
    a.emit_to(push, target);
}
