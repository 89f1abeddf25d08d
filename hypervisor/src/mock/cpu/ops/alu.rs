//! Arithmetic and logic of two operands or one.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Fault;
use super::super::exception::Result;
use super::super::flags::{CF, ZF};
use super::super::operands::{Place, Use, width};
use super::super::regs::{AX, BX, CX, DX, Regs};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
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
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        _ => return None,
    };
    Some(handler)
}

/// The first operand becomes what the two make.
fn modify(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u64, u64, u32) -> u64) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let b = exec.value(instruction, 1, width)?;
    let a = exec.get(place, width)?;
    let result = make(&mut exec.state.regs, a, b, width);
    exec.set(place, width, result)
}

/// Only the flags change.
fn compare(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u64, u64, u32) -> u64) -> Result<()> {
    let width = width(instruction, 0);
    let a = exec.value(instruction, 0, width)?;
    let b = exec.value(instruction, 1, width)?;
    make(&mut exec.state.regs, a, b, width);
    Ok(())
}

/// The only operand becomes what it makes.
fn change(exec: &mut Exec, instruction: &Instruction, make: impl Fn(&mut Regs, u64, u32) -> u64) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let a = exec.get(place, width)?;
    let result = make(&mut exec.state.regs, a, width);
    exec.set(place, width, result)
}

fn keeping_carry(regs: &mut Regs, make: impl Fn(&mut Regs) -> u64) -> u64 {
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
    exec.set(other, width, a)?;
    exec.set(place, width, sum)
}

/// The destination is written in either case; but 64-bit code finds a register as it was, as processors leave it.
fn cmpxchg(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let new = exec.value(instruction, 1, width)?;
    let expected = exec.state.regs.low(AX, width);
    let found = exec.get(place, width)?;
    exec.state.regs.subtract(expected, found, false, width);
    if found == expected {
        exec.set(place, width, new)
    } else {
        if !(exec.is_64_bit() && matches!(place, Place::Register(_))) {
            exec.set(place, width, found)?;
        }
        exec.state.regs.set_low(AX, width, found);
        Ok(())
    }
}

fn pair(regs: &Regs, high: usize, low: usize, width: u32) -> u128 {
    u128::from(regs.low(high, width)) << (8 * width) | u128::from(regs.low(low, width))
}

/// Compares two registers with an operand of twice their width, and takes two others for it, or it for them. Returns what the
/// operand is to be.
fn compare_pairs(exec: &mut Exec, found: u128, width: u32) -> u128 {
    let regs = &mut exec.state.regs;
    let same = found == pair(regs, DX, AX, width);
    regs.put(ZF, same);
    if same {
        return pair(regs, CX, BX, width);
    }
    regs.set_low(DX, width, (found >> (8 * width)) as u64);
    regs.set_low(AX, width, found as u64);
    found
}

fn cmpxchg8b(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let linear = exec.memory(instruction, 8, Use::Write)?;
    exec.bus.locked = instruction.has_lock_prefix();
    let found = exec.load(linear, 8)?;
    let new = compare_pairs(exec, found.into(), 4);
    exec.store(linear, 8, new as u64)
}

/// Its operand must be aligned.
fn cmpxchg16b(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let linear = exec.memory(instruction, 16, Use::Write)?;
    if !linear.is_multiple_of(16) {
        return Err(Fault::protection(0));
    }
    let found = exec.load_wide(linear, 16)?;
    let new = compare_pairs(exec, found, 8);
    if instruction.has_lock_prefix() {
        let physical = exec.translate(linear, exec.state.mode.write)?;
        exec.bus.locked = true;
        if exec.bus.exchange_16(physical, found, new) {
            return Ok(());
        }
        exec.bus.locked = false;
    }
    exec.store_wide(linear, 16, new)
}
