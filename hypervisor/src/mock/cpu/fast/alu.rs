//! Arithmetic and logic.

use iced_x86::{Instruction, Mnemonic};

use super::super::Exec;
use super::super::flags::CF;
use super::super::regs::{Regs, mask};
use super::{Fast, Flow, Form, Op};

const ADD: u8 = 0;
const OR: u8 = 1;
const ADC: u8 = 2;
const SBB: u8 = 3;
const AND: u8 = 4;
const SUB: u8 = 5;
const XOR: u8 = 6;
const CMP: u8 = 7;
const TEST: u8 = 8;
const INC: u8 = 9;
const DEC: u8 = 10;
const NEG: u8 = 11;
const NOT: u8 = 12;

macro_rules! for_width {
    ($function:ident, $kind:ident, $width:ident) => {
        match $width {
            1 => Some($function::<$kind, 1> as Fast),
            2 => Some($function::<$kind, 2> as Fast),
            4 => Some($function::<$kind, 4> as Fast),
            8 => Some($function::<$kind, 8> as Fast),
            _ => None,
        }
    };
}

macro_rules! with_two {
    ($kind:ident, $form:ident, $width:ident) => {
        match $form {
            Form::RegisterRegister => for_width!(register_register, $kind, $width),
            Form::RegisterImmediate => for_width!(register_immediate, $kind, $width),
            Form::RegisterMemory => for_width!(register_memory, $kind, $width),
            Form::MemoryRegister => for_width!(memory_register, $kind, $width),
            Form::MemoryImmediate => for_width!(memory_immediate, $kind, $width),
            _ => None,
        }
    };
}

macro_rules! with_one {
    ($kind:ident, $form:ident, $width:ident) => {
        match $form {
            Form::Register => for_width!(one_register, $kind, $width),
            Form::Memory => for_width!(one_memory, $kind, $width),
            _ => None,
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, width: u32) -> Option<Fast> {
    match instruction.mnemonic() {
        Mnemonic::Add => with_two!(ADD, form, width),
        Mnemonic::Or => with_two!(OR, form, width),
        Mnemonic::Adc => with_two!(ADC, form, width),
        Mnemonic::Sbb => with_two!(SBB, form, width),
        Mnemonic::And => with_two!(AND, form, width),
        Mnemonic::Sub => with_two!(SUB, form, width),
        Mnemonic::Xor => with_two!(XOR, form, width),
        Mnemonic::Cmp => with_two!(CMP, form, width),
        Mnemonic::Test => with_two!(TEST, form, width),
        Mnemonic::Inc => with_one!(INC, form, width),
        Mnemonic::Dec => with_one!(DEC, form, width),
        Mnemonic::Neg => with_one!(NEG, form, width),
        Mnemonic::Not => with_one!(NOT, form, width),
        _ => None,
    }
}

/// The result of an instruction, and the flags.
#[inline(always)]
fn compute<const KIND: u8, const WIDTH: u32>(regs: &mut Regs, a: u64, b: u64) -> u64 {
    match KIND {
        ADD => regs.add(a, b, false, WIDTH),
        OR => regs.logic(a | b, WIDTH),
        ADC => regs.add(a, b, regs.has(CF), WIDTH),
        SBB => regs.subtract(a, b, regs.has(CF), WIDTH),
        AND | TEST => regs.logic(a & b, WIDTH),
        XOR => regs.logic(a ^ b, WIDTH),
        INC | DEC => {
            let carry = regs.rflags;
            let result = if KIND == INC { regs.add(a, 1, false, WIDTH) } else { regs.subtract(a, 1, false, WIDTH) };
            regs.replace(CF, carry);
            result
        }
        NEG => regs.subtract(0, a, false, WIDTH),
        NOT => !a,
        _ => regs.subtract(a, b, false, WIDTH),
    }
}

/// Whether only the flags change.
const fn compares(kind: u8) -> bool {
    matches!(kind, CMP | TEST)
}

#[inline(always)]
fn to_register<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op, b: u64) -> Flow {
    let a = exec.fast_register(op.dst) & mask(WIDTH);
    let result = compute::<KIND, WIDTH>(&mut exec.state.regs, a, b & mask(WIDTH));
    if !compares(KIND) {
        exec.set_fast_register::<WIDTH>(op.dst, result);
    }
    Flow::Next
}

#[inline(always)]
fn to_memory<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op, b: u64) -> Flow {
    if compares(KIND) {
        let Some(a) = exec.fast_load::<WIDTH>(op) else { return Flow::Slow };
        compute::<KIND, WIDTH>(&mut exec.state.regs, a, b & mask(WIDTH));
        return Flow::Next;
    }
    let Some(spot) = exec.fast_spot::<WIDTH>(op) else { return Flow::Slow };
    let a = spot.load::<WIDTH>();
    let result = compute::<KIND, WIDTH>(&mut exec.state.regs, a, b & mask(WIDTH));
    exec.fast_store::<WIDTH>(&spot, result)
}

fn register_register<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let b = exec.fast_register(op.src);
    to_register::<KIND, WIDTH>(exec, op, b)
}

fn register_immediate<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    to_register::<KIND, WIDTH>(exec, op, op.imm)
}

fn register_memory<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    match exec.fast_load::<WIDTH>(op) {
        Some(b) => to_register::<KIND, WIDTH>(exec, op, b),
        None => Flow::Slow,
    }
}

fn memory_register<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let b = exec.fast_register(op.src);
    to_memory::<KIND, WIDTH>(exec, op, b)
}

fn memory_immediate<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    to_memory::<KIND, WIDTH>(exec, op, op.imm)
}

fn one_register<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    to_register::<KIND, WIDTH>(exec, op, 0)
}

fn one_memory<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    to_memory::<KIND, WIDTH>(exec, op, 0)
}
