//! The mock's processor, the interpreter: executes a guest's machine code.
//!
//! Code is decoded by `iced-x86`; what an instruction does is in the files of [`ops`], one for each group of them. The state
//! it works on is the vCPU's own. An instruction is executed completely, or not at all: its writes to memory are collected
//! by the [bus](bus::Bus) and made last, and where it cannot be completed, the registers are put back.
//!
//! The way of an access: an offset in a segment ([`segments`]) becomes a linear address, that a physical one
//! ([`paging`], [`tlb`]), and that is memory or an exit ([`bus`]).

mod block;
mod bus;
mod decode;
mod delivery;
mod descriptors;
mod dispatch;
mod exception;
mod execute;
mod fast;
mod features;
mod fetch;
pub(super) mod flags;
pub(super) mod fpu;
mod interpreter;
mod memory;
pub(super) mod mode;
mod new_stack;
mod operands;
mod ops;
mod paging;
pub(super) mod regs;
pub(super) mod segments;
pub(super) mod tlb;
mod trace;
mod traffic;

use iced_x86::Instruction;

use super::vcpu::State;
use crate::Exit;
use bus::Bus;
use exception::{Exception, Result};

pub(super) use features::Features;
pub(super) use interpreter::{Interpreter, Progress};
pub(super) use ops::control_regs::{cr4_bits, efer_bits};
pub use trace::Executed;

/// What executes one kind of instruction. RIP is behind it already.
type Handler = for<'a, 'b> fn(&'a mut Exec<'b>, &Instruction) -> Result<()>;

/// A processor that executes: its state, and what it is connected to.
struct Exec<'a> {
    state: &'a mut State,
    bus: Bus<'a>,
    /// RIP of the instruction under way.
    start: u64,
    /// Which interrupt shadow the instruction leaves (`KVM_X86_SHADOW_INT_*`).
    shadow: u8,
    /// The instruction is a string's, and has another repetition to do.
    repeats: bool,
    /// The instruction was not begun, for it needs to be [alone](exception::Fault::Split).
    split: bool,
    /// An exception that comes after the instruction, which is complete.
    after: Option<Exception>,
    /// The breakpoints that accesses of the instruction have met, as bits of DR6.
    watched: u64,
    /// What the run is to return for.
    exit: Option<Exit>,
}
