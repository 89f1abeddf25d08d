//! Near jumps, calls and returns; loops; what depends on a condition.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::super::exception::Result;
use super::super::flags::{ZF, condition};
use super::super::operands::{Use, width};
use super::super::regs::{CX, mask, register_width};
use super::super::{Exec, Handler};
use super::{far_transfer, stack};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Jmp => jmp,
        Mnemonic::Call => call,
        Mnemonic::Ret => ret,
        Mnemonic::Loop => |exec, instruction| loop_while(exec, instruction, |_| true),
        Mnemonic::Loope => |exec, instruction| loop_while(exec, instruction, |exec| exec.state.regs.has(ZF)),
        Mnemonic::Loopne => |exec, instruction| loop_while(exec, instruction, |exec| !exec.state.regs.has(ZF)),
        Mnemonic::Jcxz => |exec, instruction| jump_if_zero(exec, instruction, 2),
        Mnemonic::Jecxz => |exec, instruction| jump_if_zero(exec, instruction, 4),
        Mnemonic::Jrcxz => |exec, instruction| jump_if_zero(exec, instruction, 8),
        _ => conditional(mnemonic)?,
    };
    Some(handler)
}

/// Sixteen conditions, three things to do under each.
fn conditional(mnemonic: Mnemonic) -> Option<Handler> {
    macro_rules! conditions {
        ($($number:literal: $jump:ident $set:ident $mov:ident,)*) => {
            match mnemonic {
                $(
                    Mnemonic::$jump => Some(|exec, instruction| jcc(exec, instruction, $number)),
                    Mnemonic::$set => Some(|exec, instruction| setcc(exec, instruction, $number)),
                    Mnemonic::$mov => Some(|exec, instruction| cmovcc(exec, instruction, $number)),
                )*
                _ => None,
            }
        };
    }
    conditions! {
        0x0: Jo Seto Cmovo,
        0x1: Jno Setno Cmovno,
        0x2: Jb Setb Cmovb,
        0x3: Jae Setae Cmovae,
        0x4: Je Sete Cmove,
        0x5: Jne Setne Cmovne,
        0x6: Jbe Setbe Cmovbe,
        0x7: Ja Seta Cmova,
        0x8: Js Sets Cmovs,
        0x9: Jns Setns Cmovns,
        0xa: Jp Setp Cmovp,
        0xb: Jnp Setnp Cmovnp,
        0xc: Jl Setl Cmovl,
        0xd: Jge Setge Cmovge,
        0xe: Jle Setle Cmovle,
        0xf: Jg Setg Cmovg,
    }
}

impl Exec<'_> {
    /// Continues at an offset in the code segment.
    pub(in super::super) fn go_to(&mut self, target: u64) -> Result<()> {
        self.check_target(target)?;
        self.state.regs.rip = target;
        Ok(())
    }

    /// Sets a counter or an index: in 64-bit code one of 4 bytes clears what is above it, else that stays, as KVM does it.
    pub(in super::super) fn set_address_register(&mut self, number: usize, width: u32, value: u64) {
        if self.is_64_bit() {
            self.state.regs.set_low(number, width, value);
        } else {
            self.state.regs.set_kept(number, width, value);
        }
    }
}

/// The width of the instruction pointer in a near transfer, and where the transfer leads to.
fn target(exec: &mut Exec, instruction: &Instruction) -> Result<(u32, u64)> {
    match instruction.op0_kind() {
        OpKind::NearBranch16 => Ok((2, instruction.near_branch16().into())),
        OpKind::NearBranch32 => Ok((4, instruction.near_branch32().into())),
        OpKind::NearBranch64 => Ok((8, instruction.near_branch64())),
        _ => {
            let width = width(instruction, 0);
            Ok((width, exec.value(instruction, 0, width)?))
        }
    }
}

fn jmp(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    if far_transfer::is_far(instruction) {
        return far_transfer::jmp(exec, instruction);
    }
    let (_, target) = target(exec, instruction)?;
    exec.go_to(target)
}

fn jcc(exec: &mut Exec, instruction: &Instruction, number: u32) -> Result<()> {
    if condition(exec.state.regs.rflags, number) { jump_near(exec, instruction) } else { Ok(()) }
}

fn jump_near(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.go_to(instruction.near_branch_target())
}

fn call(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    if far_transfer::is_far(instruction) {
        return far_transfer::call(exec, instruction);
    }
    let (width, target) = target(exec, instruction)?;
    let back = exec.state.regs.rip;
    exec.push(back, width)?;
    exec.go_to(target)
}

/// `ret` and `ret imm16`.
fn ret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let target = exec.pop(stack::width(instruction))?;
    let parameters = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
    exec.drop_from_stack(parameters.into());
    exec.go_to(target)
}

/// The bytes of the counter of a `loop`, which is that of addresses.
fn counter(instruction: &Instruction) -> u32 {
    match instruction.code() {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}

fn loop_while(exec: &mut Exec, instruction: &Instruction, holds: impl Fn(&Exec) -> bool) -> Result<()> {
    let width = counter(instruction);
    let left = exec.state.regs.low(CX, width).wrapping_sub(1) & mask(width);
    exec.set_address_register(CX, width, left);
    if left != 0 && holds(exec) { jump_near(exec, instruction) } else { Ok(()) }
}

fn jump_if_zero(exec: &mut Exec, instruction: &Instruction, width: u32) -> Result<()> {
    if exec.state.regs.low(CX, width) == 0 { jump_near(exec, instruction) } else { Ok(()) }
}

fn setcc(exec: &mut Exec, instruction: &Instruction, number: u32) -> Result<()> {
    let place = exec.place(instruction, 0, 1, Use::Write)?;
    let holds = condition(exec.state.regs.rflags, number);
    exec.set(place, 1, holds.into())
}

/// The source is read in either case, and a register of 4 bytes is written in either case.
fn cmovcc(exec: &mut Exec, instruction: &Instruction, number: u32) -> Result<()> {
    let register = instruction.op0_register();
    let width = register_width(register);
    let value = exec.value(instruction, 1, width)?;
    let value = if condition(exec.state.regs.rflags, number) { value } else { exec.state.regs.get(register) };
    exec.state.regs.set(register, value);
    Ok(())
}
