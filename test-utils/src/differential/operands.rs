//! The operands of an instruction, from the forms its encoding has.

use iced_x86::{Instruction, OpCodeOperandKind as Form, OpKind, Register};

use super::assemble::{Assembler, EBX, EDI, ESI, GENERAL};
use super::memory_operand::{MemoryOperand, Reach};
use super::program::{Mode, Op};
use super::strategy::interesting;

/// What is decided of the operands already.
#[derive(Clone, Copy, Default)]
pub(super) struct Decided {
    /// The operand in memory.
    pub(super) memory: Option<MemoryOperand>,
    /// The general register of an operand that may be memory too.
    pub(super) register: Option<usize>,
    /// The immediate.
    pub(super) immediate: Option<u32>,
    /// The segment register.
    pub(super) segment: Option<Register>,
    /// The selector of a far address.
    pub(super) selector: u16,
}

/// Whether an operand that may be either is memory.
pub(super) fn in_memory(op: &Op) -> bool {
    op.picks.form % 8 >= 3
}

/// The number of the general register of operand `operand`; rarely the stack pointer.
pub(super) fn register(op: &Op, operand: u32) -> usize {
    match (op.picks.registers >> (4 * operand)) % 16 {
        4 if op.picks.extra >> 28 != 0 => EDI,
        12 => EBX,
        n => (n % 8) as usize,
    }
}

/// The instruction of `op`, with all registers loaded that its address needs.
pub(super) fn instruction(assembler: &mut Assembler, op: &Op, decided: Decided) -> Instruction {
    let forms = op.code.op_code().op_kinds();
    let mut instruction = Instruction::default();
    instruction.set_code(op.code);
    let mut immediates = 0;
    for (operand, form) in (0..).zip(forms) {
        match form {
            Form::mem => memory(assembler, op, decided, &mut instruction, operand),
            Form::r8_or_mem | Form::r16_or_mem | Form::r32_or_mem
                if decided.memory.is_some() || decided.register.is_none() && in_memory(op) =>
            {
                memory(assembler, op, decided, &mut instruction, operand);
            }
            Form::mem_offs => {
                let place = memory_without_registers(assembler, op);
                place.put(&mut instruction, operand);
            }
            Form::r8_or_mem | Form::r16_or_mem | Form::r32_or_mem => {
                let number = decided.register.unwrap_or_else(|| register(op, operand));
                put_register(&mut instruction, operand, name(*form, number));
            }
            Form::r8_reg
            | Form::r8_opcode
            | Form::r16_reg
            | Form::r16_rm
            | Form::r16_opcode
            | Form::r32_reg
            | Form::r32_rm
            | Form::r32_opcode => {
                put_register(&mut instruction, operand, name(*form, register(op, operand)));
            }
            Form::seg_reg => put_register(&mut instruction, operand, decided.segment.unwrap_or(Register::DS)),
            Form::cr_reg => put_register(&mut instruction, operand, decided.segment.unwrap_or(Register::CR0)),
            Form::dr_reg => put_register(&mut instruction, operand, decided.segment.unwrap_or(Register::DR0)),
            Form::al => put_register(&mut instruction, operand, Register::AL),
            Form::cl => put_register(&mut instruction, operand, Register::CL),
            Form::ax => put_register(&mut instruction, operand, Register::AX),
            Form::eax => put_register(&mut instruction, operand, Register::EAX),
            Form::dx => put_register(&mut instruction, operand, Register::DX),
            Form::es => put_register(&mut instruction, operand, Register::ES),
            Form::cs => put_register(&mut instruction, operand, Register::CS),
            Form::ss => put_register(&mut instruction, operand, Register::SS),
            Form::ds => put_register(&mut instruction, operand, Register::DS),
            Form::fs => put_register(&mut instruction, operand, Register::FS),
            Form::gs => put_register(&mut instruction, operand, Register::GS),
            Form::imm8 | Form::imm8_const_1 | Form::imm8sex16 | Form::imm8sex32 | Form::imm16 | Form::imm32 => {
                let value = decided.immediate.unwrap_or_else(|| interesting(op.picks.value, op.picks.place >> 20));
                put_immediate(&mut instruction, operand, *form, value, immediates);
                immediates += 1;
            }
            Form::seg_rSI => {
                let long = string_addresses(assembler, op) == 32;
                instruction.set_op_kind(operand, if long { OpKind::MemorySegESI } else { OpKind::MemorySegSI });
                instruction.set_segment_prefix(string_segment(op));
            }
            Form::es_rDI => {
                let long = string_addresses(assembler, op) == 32;
                instruction.set_op_kind(operand, if long { OpKind::MemoryESEDI } else { OpKind::MemoryESDI });
            }
            Form::seg_rBX_al => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_memory_base(if string_addresses(assembler, op) == 32 {
                    Register::EBX
                } else {
                    Register::BX
                });
                instruction.set_memory_index(Register::AL);
                instruction.set_segment_prefix(string_segment(op));
            }
            Form::br16_1 | Form::br16_2 => instruction.set_op_kind(operand, OpKind::NearBranch16),
            Form::br32_1 | Form::br32_4 => instruction.set_op_kind(operand, OpKind::NearBranch32),
            Form::farbr2_2 | Form::farbr4_2 => {
                let long = *form == Form::farbr4_2;
                instruction.set_op_kind(operand, if long { OpKind::FarBranch32 } else { OpKind::FarBranch16 });
                instruction.set_far_branch_selector(decided.selector);
            }
            other => panic!("{:?} has an operand of an unknown form: {other:?}", op.code),
        }
    }
    instruction
}

fn memory(assembler: &mut Assembler, op: &Op, decided: Decided, instruction: &mut Instruction, operand: u32) {
    let place = decided.memory.unwrap_or_else(|| assembler.memory(&op.picks, Reach::Anywhere));
    place.put(instruction, operand);
}

/// An address that is a number.
fn memory_without_registers(assembler: &mut Assembler, op: &Op) -> MemoryOperand {
    let mut picks = op.picks;
    picks.form &= !(0xf << 12);
    assembler.memory(&picks, Reach::Anywhere)
}

/// Bits of a string's addresses. What is flat is out of reach of 16 bits.
fn string_addresses(assembler: &Assembler, op: &Op) -> u32 {
    let other = assembler.mode != Mode::Flat && (op.picks.form >> 16) % 4 == 3;
    if other { 48 - assembler.bits } else { assembler.bits }
}

fn string_segment(op: &Op) -> Register {
    match (op.picks.form >> 8) % 16 {
        1 => Register::SS,
        3 => Register::ES,
        4 => Register::FS,
        5 => Register::GS,
        _ => Register::None,
    }
}

fn name(form: Form, number: usize) -> Register {
    let number = number as u32;
    match form {
        Form::r8_or_mem | Form::r8_reg | Form::r8_opcode => Register::AL + number,
        Form::r16_or_mem | Form::r16_reg | Form::r16_rm | Form::r16_opcode => Register::AX + number,
        _ => GENERAL[number as usize],
    }
}

fn put_register(instruction: &mut Instruction, operand: u32, register: Register) {
    instruction.set_op_kind(operand, OpKind::Register);
    instruction.set_op_register(operand, register);
}

fn put_immediate(instruction: &mut Instruction, operand: u32, form: Form, value: u32, before: u32) {
    match form {
        // The second immediate of `enter`.
        Form::imm8 if before == 1 => {
            instruction.set_op_kind(operand, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd((value >> 16) as u8 & 3);
        }
        Form::imm8 => {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(value as u8);
        }
        Form::imm8_const_1 => {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(1);
        }
        Form::imm8sex16 => {
            instruction.set_op_kind(operand, OpKind::Immediate8to16);
            instruction.set_immediate8to16(i16::from(value as u8 as i8));
        }
        Form::imm8sex32 => {
            instruction.set_op_kind(operand, OpKind::Immediate8to32);
            instruction.set_immediate8to32(i32::from(value as u8 as i8));
        }
        Form::imm16 => {
            instruction.set_op_kind(operand, OpKind::Immediate16);
            instruction.set_immediate16(value as u16);
        }
        _ => {
            instruction.set_op_kind(operand, OpKind::Immediate32);
            instruction.set_immediate32(value);
        }
    }
}

/// The registers that a string instruction walks with.
pub(super) const WALKERS: [(Form, usize); 2] = [(Form::seg_rSI, ESI), (Form::es_rDI, EDI)];
