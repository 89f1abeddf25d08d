//! Generated programs, run on two backends that must agree.
//!
//! A [`Program`] is a start state and at least 16 instructions; [`program`](fn@program) is the strategy that makes them.
//! A [`Machine`] runs one after the other in the same VM and tells what came of it: the [`Outcome`].

mod assemble;
mod branches;
mod campaign;
mod catalog;
mod compare;
mod drive;
pub mod found;
pub mod layout;
pub mod long;
mod machine;
mod memory_operand;
mod operands;
mod preparation;
mod program;
mod quirks;
mod strategy;
mod undefined;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

pub use assemble::Code;
pub use campaign::{Campaign, Pair, Report, Unpaged, Verdict};
pub use catalog::{FORMS_LEFT_OUT, LEFT_OUT, LeftOut, Why, codes, is_integer};
pub use compare::differences;
pub use drive::{End, Seen};
pub use machine::{Machine, Outcome};
pub use program::{Mode, Op, Picks, Program, Start};
pub use quirks::{QUIRKS, Quirk, explanation};
pub use strategy::program;

/// The next of the numbers that follow from `state` (SplitMix64).
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// `code` as a person reads it.
pub fn listing(mode: Mode, code: &[u8]) -> String {
    let ip = layout::CODE.start - u64::from(layout::windows(mode).code.base);
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    for instruction in &mut Decoder::with_ip(mode.bits(), code, ip, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        text.push_str(&format!("{:6x}  {line}\n", instruction.ip()));
    }
    text
}
