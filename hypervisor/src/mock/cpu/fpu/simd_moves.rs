//! What moves MMX and XMM registers as they are.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::{Exec, Handler};
use super::host_sse::{Execute, Operands, packed};
use super::operands::{is_memory, is_mm};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match mnemonic {
        Movaps | Movapd | Movups | Movupd | Movdqa | Movdqu | Movntps | Movntpd | Movntdq => |e, i| whole(e, i, 16),
        Movq | Movntq | Movdq2q | Movq2dq => |e, i| whole(e, i, 8),
        Movd => |e, i| whole(e, i, 4),
        Movss => |e, i| scalar(e, i, 4),
        Movlps | Movlpd | Movhlps => |e, i| half(e, i, 0),
        Movhps | Movhpd | Movlhps => |e, i| half(e, i, 64),
        Movmskps => |e, i| signs(e, i, packed!("movmskps eax, xmm1")),
        Movmskpd => |e, i| signs(e, i, packed!("movmskpd eax, xmm1")),
        Pmovmskb => |e, i| signs(e, i, packed!("pmovmskb eax, xmm1")),
        Pextrw => extract_word,
        Pinsrw => insert_word,
        Maskmovq => |e, i| masked(e, i, 8),
        Maskmovdqu => |e, i| masked(e, i, 16),
        _ => return None,
    };
    Some(handler)
}

/// The one of SSE2; the other is a string instruction.
pub(super) fn movsd(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    scalar(exec, instruction, 8)
}

/// The low `size` bytes of `value`.
fn low(value: u128, size: usize) -> u128 {
    value & u128::MAX >> (128 - 8 * size)
}

/// Moves `size` bytes; what a register has above them becomes 0.
fn whole(exec: &mut Exec, instruction: &Instruction, size: usize) -> Result<()> {
    if is_memory(instruction, 0) {
        // The 64-bit form of `movd` is `movq`'s.
        return exec.store_register(instruction, size, 0);
    }
    let value = exec.begin_vector(instruction)?;
    exec.set_vector(instruction.op0_register(), low(value, size));
    Ok(())
}

/// Moves a scalar: from memory with zeroes above it, between registers with nothing above it.
fn scalar(exec: &mut Exec, instruction: &Instruction, size: usize) -> Result<()> {
    if is_memory(instruction, 0) {
        return exec.store_register(instruction, size, 0);
    }
    let value = low(exec.begin_vector(instruction)?, size);
    let kept = match is_memory(instruction, 1) {
        true => 0,
        false => exec.vector(instruction.op0_register()) & !low(u128::MAX, size),
    };
    exec.set_vector(instruction.op0_register(), kept | value);
    Ok(())
}

/// Moves 64 bits to or from the half of an XMM register that begins at bit `at`. Between two registers the other half of the
/// source is moved.
fn half(exec: &mut Exec, instruction: &Instruction, at: u32) -> Result<()> {
    if is_memory(instruction, 0) {
        return exec.store_register(instruction, 8, at);
    }
    let source = exec.begin_vector(instruction)?;
    let crosses = instruction.mnemonic() == Mnemonic::Movhlps;
    let value = u128::from((if crosses { source >> 64 } else { source }) as u64) << at;
    let kept = exec.vector(instruction.op0_register()) & !(u128::from(u64::MAX) << at);
    exec.set_vector(instruction.op0_register(), kept | value);
    Ok(())
}

/// Collects the sign of each lane. Of an MMX register's value the upper lanes are 0.
fn signs(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    let src = exec.begin_vector(instruction)?;
    let mut operands = Operands { src, ..Default::default() };
    host(&mut operands);
    exec.set_vector(instruction.op0_register(), operands.general.into());
    Ok(())
}

/// The bit at which the word begins that an immediate selects.
fn word(instruction: &Instruction, vector: u32) -> u32 {
    let words = if is_mm(instruction, vector) { 4 } else { 8 };
    u32::from(instruction.immediate8()) % words * 16
}

fn extract_word(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let value = exec.begin_vector(instruction)? >> word(instruction, 1);
    exec.set_vector(instruction.op0_register(), u128::from(value as u16));
    Ok(())
}

fn insert_word(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let value = exec.begin_vector(instruction)?;
    let at = word(instruction, 0);
    let kept = exec.vector(instruction.op0_register()) & !(0xffff << at);
    exec.set_vector(instruction.op0_register(), kept | u128::from(value as u16) << at);
    Ok(())
}

/// Stores those bytes of the first register to DS:rDI whose bytes in the second have their highest bit set. Only these can
/// fault in their page; MMX registers are in use also then.
fn masked(exec: &mut Exec, instruction: &Instruction, size: usize) -> Result<()> {
    let data = exec.begin_vector(instruction)?.to_le_bytes();
    let linear = exec.string_destination(instruction, size)?;
    let mask = exec.vector(instruction.op_register(2)).to_le_bytes();
    for (at, (byte, mask)) in (0..).zip(data.into_iter().zip(mask).take(size)) {
        if mask >> 7 != 0 {
            exec.store_bytes(linear.wrapping_add(at), &[byte])?;
        }
    }
    Ok(())
}
