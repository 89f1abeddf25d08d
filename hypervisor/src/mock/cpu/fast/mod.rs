//! The forms of instructions that most code consists of, as functions of their own.
//!
//! Such a function touches registers and at most one place in memory, that the TLB knows to be plain memory. It checks all
//! that it needs before it changes anything, and else leaves the instruction to its [handler](super::Handler), which can do
//! everything. So it needs neither a copy of the registers nor the bus's log.

mod access;
mod alu;
mod branch;
mod mov;
mod shift;
mod stack;
pub(super) mod strings;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Exec;
use super::operands::address_width;
use super::regs::Part;
use super::segments::Seg;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    /// RIP is set already.
    Jumped,
    /// It has changed the code of its own block.
    Leave,
    /// Nothing was done: its handler is to do it.
    Slow,
}

/// What executes an instruction of one form.
pub(super) type Fast = for<'a, 'b> fn(&'a mut Exec<'b>, &Op) -> Flow;

/// No register.
const NONE: u8 = 16;

/// An instruction with its operands taken apart.
#[derive(Clone, Copy)]
pub(super) struct Op {
    pub(super) run: Fast,
    /// An immediate operand, or the target of a branch; of a call through a register or memory, RIP behind it.
    imm: u64,
    /// The displacement of a memory operand, or RIP behind a branch.
    disp: u64,
    /// Numbers of general registers.
    dst: u8,
    src: u8,
    /// Of a memory operand: registers, the index's shift, the segment, and the bits of 64 that an address lacks.
    base: u8,
    index: u8,
    scale: u8,
    segment: u8,
    unused_bits: u8,
    /// Bytes from the block's start to the instruction's end.
    pub(super) end: u8,
    /// No other instruction of the block may follow without a look at the state.
    pub(super) ends_block: bool,
}

/// An instruction without a form of its own.
fn slow(_: &mut Exec, _: &Op) -> Flow {
    Flow::Slow
}

/// A general register that is not AH, BH, CH or DH: its number and bytes.
fn register(register: Register) -> Option<(u8, u32)> {
    let Part { number, width, shift } = Part::named(register);
    (width != 0 && shift == 0).then_some((number as u8, width))
}

/// What the operands of an instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// None, or one that the instruction implies.
    Plain,
    Register,
    Memory,
    RegisterRegister,
    RegisterImmediate,
    RegisterMemory,
    MemoryRegister,
    MemoryImmediate,
    Immediate,
    Branch,
}

/// The form of an instruction, and the bytes of its first operand.
fn form(instruction: &Instruction) -> Option<(Form, u32)> {
    enum Kind {
        Register(u32),
        Memory(u32),
        Immediate,
        Branch,
    }
    let kind = |operand| {
        Some(match instruction.op_kind(operand) {
            OpKind::Register => Kind::Register(register(instruction.op_register(operand))?.1),
            OpKind::Memory => Kind::Memory(instruction.memory_size().size() as u32),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => Kind::Branch,
            _ if instruction.try_immediate(operand).is_ok() => Kind::Immediate,
            _ => return None,
        })
    };
    Some(match (instruction.op_count(), kind(0)) {
        (0, _) => (Form::Plain, 0),
        (1, Some(Kind::Register(width))) => (Form::Register, width),
        (1, Some(Kind::Memory(width))) => (Form::Memory, width),
        (1, Some(Kind::Immediate)) => (Form::Immediate, 0),
        (1, Some(Kind::Branch)) => (Form::Branch, 0),
        (2, Some(first)) => match (first, kind(1)?) {
            (Kind::Register(width), Kind::Register(_)) => (Form::RegisterRegister, width),
            (Kind::Register(width), Kind::Immediate) => (Form::RegisterImmediate, width),
            (Kind::Register(width), Kind::Memory(_)) => (Form::RegisterMemory, width),
            (Kind::Memory(width), Kind::Register(_)) => (Form::MemoryRegister, width),
            (Kind::Memory(width), Kind::Immediate) => (Form::MemoryImmediate, width),
            _ => return None,
        },
        _ => return None,
    })
}

/// What executes an instruction fast, if anything does.
fn select(instruction: &Instruction) -> Option<Fast> {
    if instruction.has_lock_prefix() {
        return None;
    }
    let (form, width) = form(instruction)?;
    alu::select(instruction, form, width)
        .or_else(|| mov::select(instruction, form, width))
        .or_else(|| shift::select(instruction, form, width))
        .or_else(|| stack::select(instruction, form, width))
        .or_else(|| branch::select(instruction, form, width))
}

impl Op {
    /// An instruction that ends `end` bytes behind its block's start.
    pub(super) fn new(instruction: &Instruction, end: u8, ends_block: bool) -> Self {
        let number = |name| register(name).map_or(NONE, |(number, _)| number);
        let last = instruction.op_count().saturating_sub(1);
        let is_branch = matches!(form(instruction), Some((Form::Branch, _)));
        let (imm, disp) = if is_branch {
            (instruction.near_branch_target(), instruction.next_ip())
        } else if instruction.mnemonic() == Mnemonic::Call {
            (instruction.next_ip(), instruction.memory_displacement64())
        } else {
            (instruction.try_immediate(last).unwrap_or_default(), instruction.memory_displacement64())
        };
        let is_relative = matches!(instruction.memory_base(), Register::RIP | Register::EIP);
        let base = if is_relative { NONE } else { number(instruction.memory_base()) };
        let has_memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        Self {
            run: select(instruction).unwrap_or(slow),
            imm,
            disp,
            dst: number(instruction.op0_register()),
            src: number(instruction.op1_register()),
            base,
            index: number(instruction.memory_index()),
            scale: instruction.memory_index_scale().trailing_zeros() as u8,
            segment: Seg::named(instruction.memory_segment()) as u8,
            unused_bits: if has_memory { 64 - 8 * address_width(instruction) as u8 } else { 0 },
            end,
            ends_block,
        }
    }
}
