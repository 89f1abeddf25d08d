//! Multiplication and division.
//!
//! A product's undefined flags are those of its low half, with AF and ZF as they were; a division leaves all flags.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::{Fault, Result};
use super::super::flags::{self, CF, OF, PF, SF};
use super::super::operands::width;
use super::super::regs::{AX, DX, mask, signed};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Mul => mul,
        Mnemonic::Imul => imul,
        Mnemonic::Div => div,
        Mnemonic::Idiv => idiv,
        _ => return None,
    };
    Some(handler)
}

impl Exec<'_> {
    /// The pair that a product goes to and a dividend comes from: AX, or DX and AX.
    fn pair(&self, width: u32) -> u128 {
        let regs = &self.state.regs;
        match width {
            1 => regs.low(AX, 2).into(),
            _ => u128::from(regs.low(DX, width)) << (8 * width) | u128::from(regs.low(AX, width)),
        }
    }

    fn set_pair(&mut self, width: u32, value: u128) {
        let regs = &mut self.state.regs;
        if width == 1 {
            regs.set_low(AX, 2, value as u64);
        } else {
            regs.set_low(AX, width, value as u64);
            regs.set_low(DX, width, (value >> (8 * width)) as u64);
        }
    }

    /// Quotient and remainder go to AL and AH, or AX and DX.
    fn set_quotient(&mut self, width: u32, quotient: u64, remainder: u64) {
        let low = u128::from(quotient & mask(width));
        self.set_pair(width, low | u128::from(remainder & mask(width)) << (8 * width));
    }

    fn after_multiplication(&mut self, low: u64, width: u32, too_large: bool) {
        let regs = &mut self.state.regs;
        regs.replace(SF | PF, flags::of_result(low, width));
        regs.put(CF | OF, too_large);
    }
}

fn mul(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let factor = exec.value(instruction, 0, width)?;
    let product = u128::from(exec.state.regs.low(AX, width)) * u128::from(factor);
    exec.set_pair(width, product);
    exec.after_multiplication(product as u64 & mask(width), width, product >> (8 * width) != 0);
    Ok(())
}

/// With one, two or three operands.
fn imul(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let count = instruction.op_count();
    let width = width(instruction, 0);
    let (a, b) = match count {
        1 => (exec.state.regs.low(AX, width), exec.value(instruction, 0, width)?),
        2 => (exec.value(instruction, 0, width)?, exec.value(instruction, 1, width)?),
        _ => (exec.value(instruction, 1, width)?, exec.value(instruction, 2, width)?),
    };
    let product = i128::from(signed(a, width)) * i128::from(signed(b, width));
    let low = product as u64 & mask(width);
    if count == 1 {
        exec.set_pair(width, product as u128);
    } else {
        exec.state.regs.set(instruction.op0_register(), low);
    }
    exec.after_multiplication(low, width, i128::from(signed(low, width)) != product);
    Ok(())
}

fn div(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let divisor = u128::from(exec.value(instruction, 0, width)?);
    let dividend = exec.pair(width);
    let quotient = dividend.checked_div(divisor).filter(|&quotient| quotient <= mask(width).into());
    let quotient = quotient.ok_or(Fault::divide())?;
    exec.set_quotient(width, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}

fn idiv(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let divisor = i128::from(signed(exec.value(instruction, 0, width)?, width));
    let unused = 128 - 16 * width;
    let dividend = ((exec.pair(width) << unused) as i128) >> unused;
    // The least dividend by -1 overflows, as other quotients that are too large.
    let quotient =
        dividend.checked_div(divisor).filter(|&quotient| quotient == i128::from(signed(quotient as u64, width)));
    let quotient = quotient.ok_or(Fault::divide())?;
    exec.set_quotient(width, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}
