//! The mock's processor: executes a guest's machine code.
//!
//! Code is decoded by `iced-x86`; what an instruction does is in the files here, one for each group of them. The state it
//! works on is the vCPU's own. An instruction is executed completely, or not at all: its writes to memory are collected
//! by the [bus](bus::Bus) and made last, and where it cannot be completed, the registers are put back.

mod alu;
mod bcd;
mod bits;
mod bus;
mod control;
mod decode;
mod far;
mod fault;
mod flag_moves;
pub(super) mod flags;
pub(super) mod fpu;
mod history;
mod identify;
mod interrupts;
mod io;
mod jumps;
mod moves;
mod muldiv;
mod nothing;
mod operands;
pub(super) mod regs;
mod run;
mod segments;
mod shifts;
mod stack;
mod strings;
mod system;
mod table;

use iced_x86::Instruction;

use super::vcpu_state::State;
use crate::Exit;
use bus::Bus;
use fault::Result;

pub use history::Executed;
pub(super) use run::{Interpreter, Progress};

/// What executes one kind of instruction. RIP is behind it already.
type Handler = for<'a, 'b> fn(&'a mut Exec<'b>, &Instruction) -> Result<()>;

/// A processor at work: its state, and what it is connected to.
struct Exec<'a> {
    state: &'a mut State,
    bus: Bus<'a>,
    /// RIP of the instruction under way.
    start: u64,
    /// Which interrupt shadow the instruction leaves (`KVM_X86_SHADOW_INT_*`).
    shadow: u8,
    /// The instruction is a string's, and goes on with another repetition.
    repeats: bool,
    /// The instruction was not begun, for it needs to be [alone](Fault::Split).
    split: bool,
    /// What the run is to return for.
    exit: Option<Exit>,
}
