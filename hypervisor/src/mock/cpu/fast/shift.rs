//! Shifts of registers, single bits of them, and products.

use iced_x86::{Instruction, Mnemonic};

use super::super::Exec;
use super::super::flags::{CF, OF, PF, SF, STATUS, of_result};
use super::super::regs::{CX, mask, sign_bit, signed};
use super::{Fast, Flow, Form, Op};

const SHL: u8 = 0;
const SHR: u8 = 1;
const SAR: u8 = 2;

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

pub(super) fn select(instruction: &Instruction, form: Form, width: u32) -> Option<Fast> {
    match (instruction.mnemonic(), form) {
        (Mnemonic::Shl | Mnemonic::Sal, Form::RegisterImmediate) => for_width!(shift, SHL, width),
        (Mnemonic::Shr, Form::RegisterImmediate) => for_width!(shift, SHR, width),
        (Mnemonic::Sar, Form::RegisterImmediate) => for_width!(shift, SAR, width),
        (Mnemonic::Shl | Mnemonic::Sal, Form::RegisterRegister) => for_width!(shift_by_cl, SHL, width),
        (Mnemonic::Shr, Form::RegisterRegister) => for_width!(shift_by_cl, SHR, width),
        (Mnemonic::Sar, Form::RegisterRegister) => for_width!(shift_by_cl, SAR, width),
        (Mnemonic::Bt, Form::RegisterImmediate) if width == 4 => Some(test_bit::<4> as Fast),
        (Mnemonic::Bt, Form::RegisterImmediate) if width == 8 => Some(test_bit::<8> as Fast),
        (Mnemonic::Imul, Form::RegisterRegister) if width == 4 => Some(multiply::<4> as Fast),
        (Mnemonic::Imul, Form::RegisterRegister) if width == 8 => Some(multiply::<8> as Fast),
        (Mnemonic::Imul, Form::RegisterMemory) if width == 4 => Some(multiply_memory::<4> as Fast),
        (Mnemonic::Imul, Form::RegisterMemory) if width == 8 => Some(multiply_memory::<8> as Fast),
        _ => None,
    }
}

/// By a count within the width, and not by 0: others are left to the handler.
#[inline(always)]
fn shift_by<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op, count: u64) -> Flow {
    let count = count as u32 & if WIDTH == 8 { 63 } else { 31 };
    if count == 0 || count >= 8 * WIDTH {
        return Flow::Slow;
    }
    let value = exec.fast_register(op.dst) & mask(WIDTH);
    let (result, carry, overflow) = match KIND {
        SHL => {
            let result = value << count & mask(WIDTH);
            let carry = value >> (8 * WIDTH - count) & 1 != 0;
            (result, carry, (result & sign_bit(WIDTH) != 0) != carry)
        }
        SHR => {
            let before = value >> (count - 1);
            (value >> count, before & 1 != 0, before & sign_bit(WIDTH) != 0)
        }
        _ => {
            let value = signed(value, WIDTH);
            ((value >> count) as u64 & mask(WIDTH), value >> (count - 1) & 1 != 0, false)
        }
    };
    let flags = of_result(result, WIDTH) | if carry { CF } else { 0 } | if overflow { OF } else { 0 };
    exec.state.regs.replace(STATUS, flags);
    exec.set_fast_register::<WIDTH>(op.dst, result);
    Flow::Next
}

fn shift<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    shift_by::<KIND, WIDTH>(exec, op, op.imm)
}

fn shift_by_cl<const KIND: u8, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let count = exec.state.regs.low(CX, 1);
    shift_by::<KIND, WIDTH>(exec, op, count)
}

fn test_bit<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let bit = op.imm & u64::from(8 * WIDTH - 1);
    let is_set = exec.fast_register(op.dst) >> bit & 1 != 0;
    exec.state.regs.put(CF, is_set);
    Flow::Next
}

fn multiply<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let factor = exec.fast_register(op.src);
    multiply_by::<WIDTH>(exec, op, factor)
}

fn multiply_memory<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    match exec.fast_load::<WIDTH>(op) {
        Some(factor) => multiply_by::<WIDTH>(exec, op, factor),
        None => Flow::Slow,
    }
}

#[inline(always)]
fn multiply_by<const WIDTH: u32>(exec: &mut Exec, op: &Op, factor: u64) -> Flow {
    let product = i128::from(signed(exec.fast_register(op.dst), WIDTH)) * i128::from(signed(factor, WIDTH));
    let low = product as u64 & mask(WIDTH);
    let regs = &mut exec.state.regs;
    regs.replace(SF | PF, of_result(low, WIDTH));
    regs.put(CF | OF, i128::from(signed(low, WIDTH)) != product);
    exec.set_fast_register::<WIDTH>(op.dst, low);
    Flow::Next
}
