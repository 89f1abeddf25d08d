//! Single bits: test and change, and the search for the first.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::exception::Result;
use super::super::flags::{CF, STATUS, ZF};
use super::super::operands::{Place, Use, address_width, width};
use super::super::regs::{mask, register_width, signed};
use super::super::segments::Seg;
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Bt => bt,
        Mnemonic::Bts => |exec, instruction| change(exec, instruction, |value, bit| value | bit),
        Mnemonic::Btr => |exec, instruction| change(exec, instruction, |value, bit| value & !bit),
        Mnemonic::Btc => |exec, instruction| change(exec, instruction, |value, bit| value ^ bit),
        Mnemonic::Bsf => |exec, instruction| scan(exec, instruction, u64::trailing_zeros),
        Mnemonic::Bsr => |exec, instruction| scan(exec, instruction, |value| 63 - value.leading_zeros()),
        Mnemonic::Popcnt => popcnt,
        _ => return None,
    };
    Some(handler)
}

/// The place that holds the bit, and the bit in it. A register's number of a bit reaches as far as it likes in memory, in
/// steps of the operand's width; an immediate one is taken modulo that width.
fn find(exec: &mut Exec, instruction: &Instruction, what_for: Use) -> Result<(Place, u64, u32)> {
    let width = width(instruction, 0);
    let number = exec.value(instruction, 1, width)?;
    let bit = 1 << (number % u64::from(8 * width));
    let in_memory_by_register = instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register;
    if !in_memory_by_register {
        return Ok((exec.place(instruction, 0, width, what_for)?, bit, width));
    }
    let steps = signed(number, width) >> (8 * width).trailing_zeros();
    let offset = exec.offset(instruction).wrapping_add((steps as u64).wrapping_mul(width.into()));
    let offset = offset & mask(address_width(instruction));
    let segment = Seg::named(instruction.memory_segment());
    let linear = exec.memory_at(segment, offset, width, what_for)?;
    exec.bus.locked = what_for == Use::Write && instruction.has_lock_prefix();
    Ok((Place::Memory(linear), bit, width))
}

fn bt(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (place, bit, width) = find(exec, instruction, Use::Read)?;
    let value = exec.get(place, width)?;
    exec.state.regs.put(CF, value & bit != 0);
    Ok(())
}

fn change(exec: &mut Exec, instruction: &Instruction, make: fn(u64, u64) -> u64) -> Result<()> {
    let (place, bit, width) = find(exec, instruction, Use::Write)?;
    let value = exec.get(place, width)?;
    exec.state.regs.put(CF, value & bit != 0);
    exec.set(place, width, make(value, bit))
}

/// Without a bit that is set the destination stays, as on all processors. Flags other than ZF are undefined and stay too.
fn scan(exec: &mut Exec, instruction: &Instruction, search: fn(u64) -> u32) -> Result<()> {
    let register = instruction.op0_register();
    let value = exec.value(instruction, 1, register_width(register))?;
    exec.state.regs.put(ZF, value == 0);
    if value != 0 {
        exec.state.regs.set(register, search(value).into());
    }
    Ok(())
}

fn popcnt(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let register = instruction.op0_register();
    let value = exec.value(instruction, 1, register_width(register))?;
    exec.state.regs.replace(STATUS, if value == 0 { ZF } else { 0 });
    exec.state.regs.set(register, value.count_ones().into());
    Ok(())
}
