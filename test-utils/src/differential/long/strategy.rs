//! The strategy that makes user-mode programs.

use proptest::array::uniform16;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::catalog::{codes, privileged};
use super::program::{Flavour, Program, Start};
use super::values;
use crate::differential::{Op, Picks};

/// Instructions of a program, without those that prepare their operands.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=28;

/// CF, PF, AF, ZF, SF, DF and OF.
const FLAGS: u32 = 0xcd5;
/// AC.
const ALIGNMENT_CHECK: u32 = 1 << 18;
/// The masks of all exceptions in the x87 control word, and in MXCSR.
const MASKED: (u16, u32) = (0x3f, 0x1f80);

/// Programs of all flavours.
pub fn program() -> impl Strategy<Value = Program> {
    (start(), vec(any::<[u32; 6]>(), LENGTH)).prop_map(|(start, picks)| {
        let ops = picks.into_iter().map(|picks| op(start.flavour, picks)).collect();
        Program { start, ops }
    })
}

fn start() -> impl Strategy<Value = Start> {
    // Most opcodes are integer ones.
    const FLAVOURS: &[Flavour] = &[Flavour::Integer, Flavour::Integer, Flavour::X87, Flavour::Mmx, Flavour::Sse];
    let value = any::<(u64, u32)>().prop_map(|(bits, pick)| values::integer(bits, pick));
    (select(FLAVOURS), uniform16(value), any::<[u32; 3]>(), any::<u64>()).prop_map(
        |(flavour, registers, [flags, controls, rare], memory)| {
            let unmasked = rare % 8 == 1;
            let fcw = (controls as u16 & 0xf3f) | 0x40 | if unmasked { 0 } else { MASKED.0 };
            let mxcsr = (controls >> 16 & 0xffff) | if unmasked { 0 } else { MASKED.1 };
            let checked = if rare >> 8 & 15 == 1 { ALIGNMENT_CHECK } else { 0 };
            Start { flavour, registers, flags: flags & FLAGS | 2 | checked, fcw, mxcsr, memory }
        },
    )
}

fn op(flavour: Flavour, [code, registers, form, place, value, extra]: [u32; 6]) -> Op {
    let codes = match code % 512 {
        511 => privileged(),
        384..511 => codes(Flavour::Integer),
        _ => codes(flavour),
    };
    let code = codes[(code >> 9) as usize % codes.len()];
    Op { code, picks: Picks { registers, form, place, value, extra } }
}
