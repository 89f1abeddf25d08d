//! Moves, addresses, and what extends a value.

use iced_x86::{Instruction, Mnemonic};

use super::super::Exec;
use super::super::regs::{AX, DX, mask, signed};
use super::{Fast, Flow, Form, Op, register};

macro_rules! for_width {
    ($function:ident, $width:expr) => {
        match $width {
            1 => Some($function::<1> as Fast),
            2 => Some($function::<2> as Fast),
            4 => Some($function::<4> as Fast),
            8 => Some($function::<8> as Fast),
            _ => None,
        }
    };
}

macro_rules! extension {
    ($function:ident, $to:expr, $from:expr) => {
        match ($to, $from) {
            (2, 1) => Some($function::<2, 1> as Fast),
            (4, 1) => Some($function::<4, 1> as Fast),
            (4, 2) => Some($function::<4, 2> as Fast),
            (8, 1) => Some($function::<8, 1> as Fast),
            (8, 2) => Some($function::<8, 2> as Fast),
            (8, 4) => Some($function::<8, 4> as Fast),
            _ => None,
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, width: u32) -> Option<Fast> {
    match instruction.mnemonic() {
        Mnemonic::Mov => match form {
            Form::RegisterRegister => for_width!(register_register, width),
            Form::RegisterImmediate => for_width!(register_immediate, width),
            Form::RegisterMemory => for_width!(register_memory, width),
            Form::MemoryRegister => for_width!(memory_register, width),
            Form::MemoryImmediate => for_width!(memory_immediate, width),
            _ => None,
        },
        Mnemonic::Lea => for_width!(lea, width),
        Mnemonic::Movzx => extend(instruction, form, width, false),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend(instruction, form, width, true),
        Mnemonic::Nop | Mnemonic::Reservednop => Some(nop as Fast),
        Mnemonic::Cdq => Some(spread_sign::<4> as Fast),
        Mnemonic::Cqo => Some(spread_sign::<8> as Fast),
        Mnemonic::Cwde => Some(widen::<2> as Fast),
        Mnemonic::Cdqe => Some(widen::<4> as Fast),
        _ => None,
    }
}

fn extend(instruction: &Instruction, form: Form, width: u32, is_signed: bool) -> Option<Fast> {
    let from = match form {
        Form::RegisterRegister => register(instruction.op1_register())?.1,
        Form::RegisterMemory => instruction.memory_size().size() as u32,
        _ => return None,
    };
    match (form, is_signed) {
        (Form::RegisterRegister, false) => extension!(zero_extend_register, width, from),
        (Form::RegisterRegister, true) => extension!(sign_extend_register, width, from),
        (_, false) => extension!(zero_extend_memory, width, from),
        (_, true) => extension!(sign_extend_memory, width, from),
    }
}

fn nop(_: &mut Exec, _: &Op) -> Flow {
    Flow::Next
}

fn register_register<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let value = exec.fast_register(op.src);
    exec.set_fast_register::<WIDTH>(op.dst, value);
    Flow::Next
}

fn register_immediate<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    exec.set_fast_register::<WIDTH>(op.dst, op.imm);
    Flow::Next
}

fn register_memory<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some(value) = exec.fast_load::<WIDTH>(op) else { return Flow::Slow };
    exec.set_fast_register::<WIDTH>(op.dst, value);
    Flow::Next
}

fn memory_register<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some(spot) = exec.fast_spot::<WIDTH>(op) else { return Flow::Slow };
    exec.fast_store::<WIDTH>(&spot, exec.fast_register(op.src))
}

fn memory_immediate<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some(spot) = exec.fast_spot::<WIDTH>(op) else { return Flow::Slow };
    exec.fast_store::<WIDTH>(&spot, op.imm)
}

fn lea<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let offset = exec.fast_offset(op);
    exec.set_fast_register::<WIDTH>(op.dst, offset);
    Flow::Next
}

fn zero_extend_register<const TO: u32, const FROM: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let value = exec.fast_register(op.src) & mask(FROM);
    exec.set_fast_register::<TO>(op.dst, value);
    Flow::Next
}

fn sign_extend_register<const TO: u32, const FROM: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let value = signed(exec.fast_register(op.src), FROM);
    exec.set_fast_register::<TO>(op.dst, value as u64);
    Flow::Next
}

fn zero_extend_memory<const TO: u32, const FROM: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some(value) = exec.fast_load::<FROM>(op) else { return Flow::Slow };
    exec.set_fast_register::<TO>(op.dst, value);
    Flow::Next
}

fn sign_extend_memory<const TO: u32, const FROM: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some(value) = exec.fast_load::<FROM>(op) else { return Flow::Slow };
    exec.set_fast_register::<TO>(op.dst, signed(value, FROM) as u64);
    Flow::Next
}

fn spread_sign<const WIDTH: u32>(exec: &mut Exec, _: &Op) -> Flow {
    let sign = signed(exec.state.regs.low(AX, WIDTH), WIDTH) >> 63;
    exec.state.regs.set_low(DX, WIDTH, sign as u64);
    Flow::Next
}

fn widen<const FROM: u32>(exec: &mut Exec, _: &Op) -> Flow {
    let value = signed(exec.state.regs.low(AX, FROM), FROM);
    exec.state.regs.set_low(AX, 2 * FROM, value as u64);
    Flow::Next
}
