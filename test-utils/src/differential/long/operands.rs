//! The operands of an instruction, from the forms its encoding has.

use iced_x86::{Encoder, Instruction, OpCodeOperandKind as Form, OpKind, Register};

use super::assemble::{Assembler, RSP, general};
use super::memory_operand::{MemoryOperand, Reach};
use super::values;
use crate::differential::{Op, random};

/// What is decided of the operands already.
#[derive(Clone, Copy, Default)]
pub(super) struct Decided {
    /// The operand in memory.
    pub(super) memory: Option<MemoryOperand>,
    /// The general register of an operand that may be memory too.
    pub(super) register: Option<usize>,
    /// The immediate.
    pub(super) immediate: Option<u64>,
}

/// Whether an operand that may be either is memory.
pub(super) fn in_memory(op: &Op) -> bool {
    op.picks.form % 8 >= 4
}

/// Whether an operand of `op` is memory that a ModR/M byte addresses.
pub(super) fn has_memory(op: &Op) -> bool {
    op.code.op_code().op_kinds().iter().any(|form| match form {
        Form::mem | Form::mem_offs => true,
        form => is_either(*form) && in_memory(op),
    })
}

fn is_either(form: Form) -> bool {
    use Form::{mm_or_mem, r8_or_mem, r16_or_mem, r32_or_mem, r64_or_mem, xmm_or_mem};
    matches!(form, r8_or_mem | r16_or_mem | r32_or_mem | r64_or_mem | mm_or_mem | xmm_or_mem)
}

/// The number of the general register of operand `operand`; rarely the stack pointer.
pub(super) fn register(op: &Op, operand: u32) -> usize {
    match (op.picks.registers >> (4 * operand)) as usize % 16 {
        RSP if op.picks.extra >> 28 != 0 => 13,
        number => number,
    }
}

/// 64 bits that the picks of `op` decide.
pub(super) fn value(op: &Op) -> u64 {
    let mut seed = u64::from(op.picks.value) << 32 | u64::from(op.picks.place);
    values::integer(random(&mut seed), op.picks.value)
}

/// Bytes of the operand in memory.
pub(super) fn memory_size(op: &Op) -> u64 {
    (op.code.op_code().memory_size().size() as u64).max(1)
}

/// The instruction of `op`, with all registers loaded that its address needs.
pub(super) fn instruction(a: &mut Assembler, op: &Op, decided: Decided, reach: Reach) -> Instruction {
    let forms = op.code.op_code().op_kinds();
    let mut instruction = Instruction::default();
    instruction.set_code(op.code);
    let mut immediates = 0;
    for (operand, form) in (0..).zip(forms) {
        let number = register(op, operand);
        match form {
            Form::mem => memory(a, op, decided, &mut instruction, operand, reach),
            form if is_either(*form) && (decided.memory.is_some() || decided.register.is_none() && in_memory(op)) => {
                memory(a, op, decided, &mut instruction, operand, reach);
            }
            Form::mem_offs => {
                instruction.set_op_kind(operand, OpKind::Memory);
                let address = super::memory_operand::address(op, memory_size(op), false, reach);
                instruction.set_memory_displacement64(address);
                instruction.set_memory_displ_size(8);
            }
            form if is_either(*form) => {
                let number = decided.register.unwrap_or(number);
                put_register(&mut instruction, operand, name(*form, number, op));
            }
            Form::r8_reg
            | Form::r8_opcode
            | Form::r16_reg
            | Form::r16_rm
            | Form::r16_opcode
            | Form::r32_reg
            | Form::r32_rm
            | Form::r32_opcode
            | Form::r64_reg
            | Form::r64_rm
            | Form::r64_opcode
            | Form::mm_reg
            | Form::mm_rm
            | Form::xmm_reg
            | Form::xmm_rm => {
                put_register(&mut instruction, operand, name(*form, number, op));
            }
            Form::sti_opcode => put_register(&mut instruction, operand, Register::ST0 + number as u32 % 8),
            Form::st0 => put_register(&mut instruction, operand, Register::ST0),
            Form::cr_reg => {
                let control = [Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8];
                put_register(&mut instruction, operand, control[number % control.len()]);
            }
            Form::dr_reg => put_register(&mut instruction, operand, Register::DR0 + number as u32 % 8),
            Form::al => put_register(&mut instruction, operand, Register::AL),
            Form::cl => put_register(&mut instruction, operand, Register::CL),
            Form::ax => put_register(&mut instruction, operand, Register::AX),
            Form::eax => put_register(&mut instruction, operand, Register::EAX),
            Form::rax => put_register(&mut instruction, operand, Register::RAX),
            Form::dx => put_register(&mut instruction, operand, Register::DX),
            Form::imm8
            | Form::imm8_const_1
            | Form::imm8sex16
            | Form::imm8sex32
            | Form::imm8sex64
            | Form::imm16
            | Form::imm32
            | Form::imm32sex64
            | Form::imm64 => {
                let value = decided.immediate.unwrap_or_else(|| value(op));
                put_immediate(&mut instruction, operand, *form, value, immediates);
                immediates += 1;
            }
            Form::seg_rSI => instruction.set_op_kind(operand, OpKind::MemorySegRSI),
            Form::es_rDI => instruction.set_op_kind(operand, OpKind::MemoryESRDI),
            Form::seg_rDI => instruction.set_op_kind(operand, OpKind::MemorySegRDI),
            Form::seg_rBX_al => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_base(Register::RBX);
                instruction.set_memory_index(Register::AL);
            }
            Form::br64_1 | Form::br64_4 => instruction.set_op_kind(operand, OpKind::NearBranch64),
            other => panic!("{:?} has an operand of an unknown form: {other:?}", op.code),
        }
    }
    encodable(instruction)
}

/// AH to BH have no encoding beside what only a REX prefix gives: AL to BL are put in their place then.
fn encodable(mut instruction: Instruction) -> Instruction {
    let branch = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64;
    if !branch && Encoder::new(64).encode(&instruction, super::layout::CODE.start).is_err() {
        for operand in 0..instruction.op_count() {
            let register = instruction.op_register(operand);
            if (Register::AH..=Register::BH).contains(&register) {
                instruction.set_op_register(operand, Register::AL + (register as u32 - Register::AH as u32));
            }
        }
    }
    instruction
}

fn memory(a: &mut Assembler, op: &Op, decided: Decided, instruction: &mut Instruction, operand: u32, reach: Reach) {
    let place = decided.memory.unwrap_or_else(|| a.memory(op, memory_size(op), is_aligned(op), reach));
    place.put(instruction, operand);
}

/// Whether a misaligned operand would fault, which it is to do rarely.
fn is_aligned(op: &Op) -> bool {
    use iced_x86::Mnemonic::{Movdqu, Movupd, Movups};
    memory_size(op) == 16 && !matches!(op.code.mnemonic(), Movups | Movupd | Movdqu) && op.picks.extra >> 20 & 0xff != 0
}

fn name(form: Form, number: usize, op: &Op) -> Register {
    let high = op.picks.extra >> 18 & 3 == 0;
    match form {
        Form::r8_or_mem | Form::r8_reg | Form::r8_opcode if high && number < 4 => Register::AH + number as u32,
        Form::r8_or_mem | Form::r8_reg | Form::r8_opcode => match number {
            0..4 => Register::AL + number as u32,
            _ => Register::SPL + (number as u32 - 4),
        },
        Form::r16_or_mem | Form::r16_reg | Form::r16_rm | Form::r16_opcode => Register::AX + number as u32,
        Form::r32_or_mem | Form::r32_reg | Form::r32_rm | Form::r32_opcode => Register::EAX + number as u32,
        Form::mm_reg | Form::mm_rm | Form::mm_or_mem => Register::MM0 + number as u32 % 8,
        Form::xmm_reg | Form::xmm_rm | Form::xmm_or_mem => Register::XMM0 + number as u32,
        _ => general(number),
    }
}

fn put_register(instruction: &mut Instruction, operand: u32, register: Register) {
    instruction.set_op_kind(operand, OpKind::Register);
    instruction.set_op_register(operand, register);
}

fn put_immediate(instruction: &mut Instruction, operand: u32, form: Form, value: u64, before: u32) {
    let byte = value as u8;
    match form {
        // The second immediate of `enter`.
        Form::imm8 if before == 1 => {
            instruction.set_op_kind(operand, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd((value >> 16) as u8 & 3);
        }
        Form::imm8 => {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(byte);
        }
        Form::imm8_const_1 => {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(1);
        }
        Form::imm8sex16 => {
            instruction.set_op_kind(operand, OpKind::Immediate8to16);
            instruction.set_immediate8to16((byte as i8).into());
        }
        Form::imm8sex32 => {
            instruction.set_op_kind(operand, OpKind::Immediate8to32);
            instruction.set_immediate8to32((byte as i8).into());
        }
        Form::imm8sex64 => {
            instruction.set_op_kind(operand, OpKind::Immediate8to64);
            instruction.set_immediate8to64((byte as i8).into());
        }
        Form::imm16 => {
            instruction.set_op_kind(operand, OpKind::Immediate16);
            instruction.set_immediate16(value as u16);
        }
        Form::imm32sex64 => {
            instruction.set_op_kind(operand, OpKind::Immediate32to64);
            instruction.set_immediate32to64((value as i32).into());
        }
        Form::imm64 => {
            instruction.set_op_kind(operand, OpKind::Immediate64);
            instruction.set_immediate64(value);
        }
        _ => {
            instruction.set_op_kind(operand, OpKind::Immediate32);
            instruction.set_immediate32(value as u32);
        }
    }
}
