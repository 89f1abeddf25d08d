//! Shuffles and shifts of whole registers, by an immediate.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::{Exec, Handler};

const LOW: u128 = u64::MAX as u128;
const HIGH: u128 = !LOW;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match mnemonic {
        Pshufw => |e, i| shuffle(e, i, |_, src, by| select(src, by, 16)),
        Pshufd => |e, i| shuffle(e, i, |_, src, by| select(src, by, 32)),
        Pshuflw => |e, i| shuffle(e, i, |_, src, by| src & HIGH | select(src, by, 16)),
        Pshufhw => |e, i| shuffle(e, i, |_, src, by| src & LOW | select(src >> 64, by, 16) << 64),
        Shufps => |e, i| shuffle(e, i, |dst, src, by| select(dst, by, 32) & LOW | select(src, by, 32) & HIGH),
        Shufpd => |e, i| shuffle(e, i, |dst, src, by| select_half(dst, by) | select_half(src, by >> 1) << 64),
        Pslldq => |e, i| shuffle(e, i, |dst, by, _| dst.checked_shl(bits(by)).unwrap_or(0)),
        Psrldq => |e, i| shuffle(e, i, |dst, by, _| dst.checked_shr(bits(by)).unwrap_or(0)),
        _ => return None,
    };
    Some(handler)
}

/// Sets the destination to what `result` makes of it, of the source, and of the immediate.
fn shuffle(exec: &mut Exec, instruction: &Instruction, result: fn(u128, u128, u8) -> u128) -> Result<()> {
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    exec.set_vector(instruction.op0_register(), result(dst, src, instruction.immediate8()));
    Ok(())
}

/// Four lanes of so many bits: each is the one that the next two bits of `by` name.
fn select(lanes: u128, by: u8, bits: u32) -> u128 {
    (0..4).fold(0, |result, at| {
        let from = u32::from(by >> (2 * at) & 3);
        let lane = lanes >> (from * bits) & u128::MAX >> (128 - bits);
        result | lane << (at * bits)
    })
}

/// The half that the lowest bit of `by` names.
fn select_half(value: u128, by: u8) -> u128 {
    value >> (64 * u32::from(by & 1)) & LOW
}

/// The bits in so many bytes; 16 and more are all.
fn bits(bytes: u128) -> u32 {
    8 * bytes.min(16) as u32
}
