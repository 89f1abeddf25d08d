//! Near jumps, calls and returns, and what depends on a condition.

use iced_x86::{Code, Instruction, Mnemonic};

use super::super::Exec;
use super::super::flags::condition;
use super::{Fast, Flow, Form, Op};

macro_rules! for_condition {
    ($function:ident, $number:expr, $($numbers:literal)*) => {
        match $number {
            $($numbers => Some($function::<$numbers> as Fast),)*
            _ => None,
        }
    };
}

macro_rules! conditional {
    ($function:ident, $instruction:ident) => {
        for_condition!($function, number($instruction)?, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, width: u32) -> Option<Fast> {
    match (instruction.mnemonic(), form) {
        (Mnemonic::Jmp, Form::Branch) => Some(jmp as Fast),
        // Through all 64 bits of a register or of memory: in 64-bit code.
        (Mnemonic::Jmp, Form::Register) if width == 8 => Some(jmp_register as Fast),
        (Mnemonic::Jmp, Form::Memory) if instruction.code() == Code::Jmp_rm64 => Some(jmp_memory as Fast),
        (Mnemonic::Call, Form::Register) if width == 8 => Some(call_register as Fast),
        (Mnemonic::Call, Form::Memory) if instruction.code() == Code::Call_rm64 => Some(call_memory as Fast),
        (Mnemonic::Call, Form::Branch) => match instruction.code() {
            Code::Call_rel16 => Some(call::<2> as Fast),
            Code::Call_rel32_32 => Some(call::<4> as Fast),
            Code::Call_rel32_64 => Some(call::<8> as Fast),
            _ => None,
        },
        (Mnemonic::Ret, Form::Plain) => match instruction.code() {
            Code::Retnw => Some(ret::<2> as Fast),
            Code::Retnd => Some(ret::<4> as Fast),
            Code::Retnq => Some(ret::<8> as Fast),
            _ => None,
        },
        (_, Form::Branch) if instruction.is_jcc_short_or_near() => conditional!(jcc, instruction),
        (_, Form::Register) if width == 1 => conditional!(setcc, instruction),
        (_, Form::RegisterRegister) if width == 4 => conditional!(cmovcc_4, instruction),
        (_, Form::RegisterRegister) if width == 8 => conditional!(cmovcc_8, instruction),
        _ => None,
    }
}

/// The number of the condition that an instruction depends on, as in its opcode.
fn number(instruction: &Instruction) -> Option<u32> {
    use iced_x86::ConditionCode as C;
    Some(match instruction.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
        C::None => return None,
    })
}

/// Jumps, where the code segment lets it.
#[inline(always)]
fn go(exec: &mut Exec, target: u64) -> Flow {
    if exec.check_target(target).is_err() {
        return Flow::Slow;
    }
    exec.state.regs.rip = target;
    Flow::Jumped
}

fn jmp(exec: &mut Exec, op: &Op) -> Flow {
    go(exec, op.imm)
}

fn jmp_register(exec: &mut Exec, op: &Op) -> Flow {
    let target = exec.fast_register(op.dst);
    go(exec, target)
}

fn jmp_memory(exec: &mut Exec, op: &Op) -> Flow {
    match exec.fast_load::<8>(op) {
        Some(target) => go(exec, target),
        None => Flow::Slow,
    }
}

fn jcc<const NUMBER: u32>(exec: &mut Exec, op: &Op) -> Flow {
    if condition(exec.state.regs.rflags, NUMBER) {
        return go(exec, op.imm);
    }
    exec.state.regs.rip = op.disp;
    Flow::Jumped
}

/// Calls, with what the block says is behind the call.
#[inline(always)]
fn call_to<const WIDTH: u32>(exec: &mut Exec, target: u64, back: u64) -> Flow {
    let Some((spot, top)) = exec.fast_push::<WIDTH>() else { return Flow::Slow };
    if exec.check_target(target).is_err() {
        return Flow::Slow;
    }
    exec.fast_store::<WIDTH>(&spot, back);
    exec.set_top(top);
    exec.state.regs.rip = target;
    Flow::Jumped
}

fn call<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    call_to::<WIDTH>(exec, op.imm, op.disp)
}

fn call_register(exec: &mut Exec, op: &Op) -> Flow {
    let target = exec.fast_register(op.dst);
    call_to::<8>(exec, target, op.imm)
}

fn call_memory(exec: &mut Exec, op: &Op) -> Flow {
    match exec.fast_load::<8>(op) {
        Some(target) => call_to::<8>(exec, target, op.imm),
        None => Flow::Slow,
    }
}

fn ret<const WIDTH: u32>(exec: &mut Exec, _: &Op) -> Flow {
    let Some((target, top)) = exec.fast_pop::<WIDTH>() else { return Flow::Slow };
    if exec.check_target(target).is_err() {
        return Flow::Slow;
    }
    exec.set_top(top);
    exec.state.regs.rip = target;
    Flow::Jumped
}

fn setcc<const NUMBER: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let holds = condition(exec.state.regs.rflags, NUMBER);
    exec.set_fast_register::<1>(op.dst, holds.into());
    Flow::Next
}

#[inline(always)]
fn cmovcc<const NUMBER: u32, const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let from = if condition(exec.state.regs.rflags, NUMBER) { op.src } else { op.dst };
    let value = exec.fast_register(from);
    exec.set_fast_register::<WIDTH>(op.dst, value);
    Flow::Next
}

fn cmovcc_4<const NUMBER: u32>(exec: &mut Exec, op: &Op) -> Flow {
    cmovcc::<NUMBER, 4>(exec, op)
}

fn cmovcc_8<const NUMBER: u32>(exec: &mut Exec, op: &Op) -> Flow {
    cmovcc::<NUMBER, 8>(exec, op)
}
