//! Decimal arithmetic: digits one a byte, or two (Intel SDM volume 2, "AAA" and so on).
//!
//! What is undefined: OF is 0; `aaa` and `aas` set SF, ZF and PF by AL; `aam` and `aad` clear CF and AF.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::{Fault, Result};
use super::super::flags::{self, AF, CF};
use super::super::regs::{AX, Regs};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Aaa => |exec, _| adjust_digit(exec, |ax| ax.wrapping_add(0x106)),
        Mnemonic::Aas => |exec, _| adjust_digit(exec, |ax| ax.wrapping_sub(0x106)),
        Mnemonic::Daa => |exec, _| daa(exec),
        Mnemonic::Das => |exec, _| das(exec),
        Mnemonic::Aam => aam,
        Mnemonic::Aad => aad,
        _ => return None,
    };
    Some(handler)
}

fn adjust_digit(exec: &mut Exec, adjust: fn(u16) -> u16) -> Result<()> {
    let regs = &mut exec.state.regs;
    let ax = regs.low(AX, 2) as u16;
    let carries = ax & 0xf > 9 || regs.has(AF);
    let ax = if carries { adjust(ax) } else { ax } & 0xff0f;
    regs.set_low(AX, 2, ax.into());
    regs.logic(u64::from(ax & 0xff), 1);
    regs.put(AF | CF, carries);
    Ok(())
}

fn daa(exec: &mut Exec) -> Result<()> {
    let regs = &mut exec.state.regs;
    let (al, carry) = (regs.low(AX, 1) as u8, regs.has(CF));
    let lower = al & 0xf > 9 || regs.has(AF);
    let upper = al > 0x99 || carry;
    let by = if lower { 6 } else { 0 } + if upper { 0x60 } else { 0 };
    after_two_digits(regs, al.wrapping_add(by), lower, upper)
}

/// Other than in `daa`, a borrow out of the lower digit's adjustment is a carry by itself.
fn das(exec: &mut Exec) -> Result<()> {
    let regs = &mut exec.state.regs;
    let (al, carry) = (regs.low(AX, 1) as u8, regs.has(CF));
    let lower = al & 0xf > 9 || regs.has(AF);
    let upper = al > 0x99 || carry;
    let by = if lower { 6 } else { 0 } + if upper { 0x60 } else { 0 };
    after_two_digits(regs, al.wrapping_sub(by), lower, upper || lower && al < 6)
}

fn after_two_digits(regs: &mut Regs, al: u8, half: bool, carry: bool) -> Result<()> {
    regs.set_low(AX, 1, al.into());
    regs.logic(al.into(), 1);
    regs.put(AF, half);
    regs.put(CF, carry);
    Ok(())
}

fn aam(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (base, al) = (u64::from(instruction.immediate8()), exec.state.regs.low(AX, 1));
    let upper = al.checked_div(base).ok_or(Fault::divide())?;
    let lower = al % base;
    exec.state.regs.set_low(AX, 2, upper << 8 | lower);
    exec.state.regs.replace(flags::STATUS, flags::of_result(lower, 1));
    Ok(())
}

fn aad(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (base, ax) = (u64::from(instruction.immediate8()), exec.state.regs.low(AX, 2));
    let value = (ax >> 8).wrapping_mul(base).wrapping_add(ax) & 0xff;
    exec.state.regs.set_low(AX, 2, value);
    exec.state.regs.replace(flags::STATUS, flags::of_result(value, 1));
    Ok(())
}
