//! Arithmetic and logic of two operands or one.

use iced_x86::{Instruction, Mnemonic};

use super::fault::Result;
use super::flags::{CF, OF, PF, SF, ZF};
use super::operands::{Use, width};
use super::regs::{AX, BX, CX, DX, Regs};
use super::{Exec, Handler};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Add => {
            |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.add(a, b, false, width))
        }
        Mnemonic::Adc => {
            |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.add(a, b, regs.has(CF), width))
        }
        Mnemonic::Sub => {
            |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.subtract(a, b, false, width))
        }
        Mnemonic::Sbb => {
            |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.subtract(a, b, regs.has(CF), width))
        }
        Mnemonic::And => |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.logic(a & b, width)),
        Mnemonic::Or => |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.logic(a | b, width)),
        Mnemonic::Xor => |exec, instruction| modify(exec, instruction, |regs, a, b, width| regs.logic(a ^ b, width)),
        Mnemonic::Cmp => {
            |exec, instruction| compare(exec, instruction, |regs, a, b, width| regs.subtract(a, b, false, width))
        }
        Mnemonic::Test => |exec, instruction| compare(exec, instruction, |regs, a, b, width| regs.logic(a & b, width)),
        Mnemonic::Inc => |exec, instruction| {
            change(exec, instruction, |regs, a, width| keeping_carry(regs, |regs| regs.add(a, 1, false, width)))
        },
        Mnemonic::Dec => |exec, instruction| {
            change(exec, instruction, |regs, a, width| keeping_carry(regs, |regs| regs.subtract(a, 1, false, width)))
        },
        Mnemonic::Neg => {
            |exec, instruction| change(exec, instruction, |regs, a, width| regs.subtract(0, a, false, width))
        }
        Mnemonic::Not => |exec, instruction| change(exec, instruction, |_, a, _| !a),
        Mnemonic::Xadd => xadd,
        Mnemonic::Cmpxchg => cmpxchg,
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        _ => return None,
    };
    Some(handler)
}

/// The first operand becomes what the two make.
fn modify(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u32, u32, u32) -> u32) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let b = exec.value(instruction, 1, width)?;
    let a = exec.get(place, width)?;
    let result = make(&mut exec.state.regs, a, b, width);
    exec.set(place, width, result);
    Ok(())
}

/// Only the flags change.
fn compare(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u32, u32, u32) -> u32) -> Result<()> {
    let width = width(instruction, 0);
    let a = exec.value(instruction, 0, width)?;
    let b = exec.value(instruction, 1, width)?;
    make(&mut exec.state.regs, a, b, width);
    Ok(())
}

/// The only operand becomes what it makes.
fn change(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u32, u32) -> u32) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let a = exec.get(place, width)?;
    let result = make(&mut exec.state.regs, a, width);
    exec.set(place, width, result);
    Ok(())
}

fn keeping_carry(regs: &mut Regs, make: impl Fn(&mut Regs) -> u32) -> u32 {
    let before = regs.rflags;
    let result = make(regs);
    regs.replace(CF, before);
    result
}

fn xadd(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let other = exec.place(instruction, 1, width, Use::Write)?;
    let (a, b) = (exec.get(place, width)?, exec.get(other, width)?);
    let sum = exec.state.regs.add(a, b, false, width);
    // Of one register with itself the sum is what stays.
    exec.set(other, width, a);
    exec.set(place, width, sum);
    Ok(())
}

/// The destination is written in either case.
fn cmpxchg(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let new = exec.value(instruction, 1, width)?;
    let expected = exec.state.regs.low(AX, width);
    let found = exec.get(place, width)?;
    exec.state.regs.subtract(expected, found, false, width);
    if found == expected {
        exec.set(place, width, new);
    } else {
        exec.set(place, width, found);
        exec.state.regs.set_low(AX, width, found);
    }
    Ok(())
}

fn cmpxchg8b(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let linear = exec.memory(instruction, 8, Use::Write)?;
    exec.bus.locked = instruction.has_lock_prefix();
    let found = exec.bus.load(linear, 8)?;
    let pair = |high: usize, low: usize, regs: &Regs| u64::from(regs.low(high, 4)) << 32 | u64::from(regs.low(low, 4));
    let regs = &mut exec.state.regs;
    let same = found == pair(DX, AX, regs);
    regs.put(ZF, same);
    let new = if same {
        pair(CX, BX, regs)
    } else {
        regs.set_low(DX, 4, (found >> 32) as u32);
        regs.set_low(AX, 4, found as u32);
        found
    };
    exec.bus.store(linear, 8, new);
    Ok(())
}

/// Whether a condition of `jcc`, `setcc` or `cmovcc` holds; its number is that in the opcode (Intel SDM volume 2,
/// appendix B.1.4.7).
pub(super) fn condition(regs: &Regs, number: u32) -> bool {
    let holds = match number >> 1 {
        0 => regs.has(OF),
        1 => regs.has(CF),
        2 => regs.has(ZF),
        3 => regs.has(CF | ZF),
        4 => regs.has(SF),
        5 => regs.has(PF),
        6 => regs.has(SF) != regs.has(OF),
        _ => regs.has(ZF) || regs.has(SF) != regs.has(OF),
    };
    holds != (number & 1 != 0)
}
