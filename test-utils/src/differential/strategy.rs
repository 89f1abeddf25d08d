//! The strategy that makes programs.

use proptest::array::uniform8;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::catalog::codes;
use super::program::{Mode, Op, Picks, Program, Start};

/// Instructions of a program, without those that prepare their operands.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=28;

/// CF, PF, AF, ZF, SF, DF and OF.
const FLAGS: u32 = 0xcd5;

/// Programs in all modes.
pub fn program() -> impl Strategy<Value = Program> {
    (start(), vec(any::<[u32; 6]>(), LENGTH)).prop_map(|(start, picks)| {
        let ops = picks.into_iter().map(|picks| op(start.mode, picks)).collect();
        Program { start, ops }
    })
}

fn start() -> impl Strategy<Value = Start> {
    let mode = select(&[Mode::Real, Mode::Flat, Mode::Segmented][..]);
    let flags = any::<u32>().prop_map(|bits| bits & FLAGS | 2);
    (mode, uniform8(value()), flags, any::<u64>()).prop_map(|(mode, registers, flags, memory)| Start {
        mode,
        registers,
        flags,
        memory,
    })
}

/// Numbers as arithmetic finds them hard, and any.
fn value() -> impl Strategy<Value = u32> {
    any::<u64>().prop_map(|bits| interesting(bits as u32, (bits >> 32) as u32))
}

/// `bits` itself, or one of the numbers at the edges, as `pick` says.
pub(super) fn interesting(bits: u32, pick: u32) -> u32 {
    const EDGES: [u32; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    match pick % 4 {
        0 => bits,
        1 => bits & 0xff,
        _ => EDGES.get((pick / 4) as usize % EDGES.len()).map_or(bits, |edge| edge.wrapping_add(bits & 1)),
    }
}

fn op(mode: Mode, [code, registers, form, place, value, extra]: [u32; 6]) -> Op {
    let codes = codes(mode);
    Op { code: codes[code as usize % codes.len()], picks: Picks { registers, form, place, value, extra } }
}
