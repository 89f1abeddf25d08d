//! Operands: registers, immediates, memory.

use iced_x86::{Instruction, OpKind, Register};

use super::Exec;
use super::exception::{Fault, Result};
use super::regs::{mask, register_width};
use super::segments::Seg;

/// Where an operand's value is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Register(Register),
    /// A linear address, which its segment and its page allow to be accessed.
    Memory(u64),
}

/// What an operand in memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// Also read and then written.
    Write,
}

/// The bytes an operand has, for registers and memory; 0 for others, and for registers that are no general ones.
#[inline]
pub(super) fn width(instruction: &Instruction, operand: u32) -> u32 {
    match instruction.op_kind(operand) {
        OpKind::Register => register_width(instruction.op_register(operand)),
        OpKind::Memory => instruction.memory_size().size() as u32,
        _ => 0,
    }
}

impl Exec<'_> {
    /// The offset of a memory operand in its segment.
    #[inline]
    pub(super) fn offset(&self, instruction: &Instruction) -> u64 {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let regs = &self.state.regs;
        // Relative to RIP, the displacement is the whole address.
        let base = if matches!(base, Register::RIP | Register::EIP) { 0 } else { regs.get(base) };
        let offset = instruction
            .memory_displacement64()
            .wrapping_add(base)
            .wrapping_add(regs.get(index).wrapping_mul(instruction.memory_index_scale().into()));
        offset & mask(address_width(instruction))
    }

    /// The linear address of `size` bytes at a memory operand. One that is to be written can be written.
    #[inline]
    pub(super) fn memory(&mut self, instruction: &Instruction, size: u32, what_for: Use) -> Result<u64> {
        let segment = Seg::named(instruction.memory_segment());
        let offset = self.offset(instruction);
        self.memory_at(segment, offset, size, what_for)
    }

    /// The same at an offset in a segment.
    #[inline]
    pub(super) fn memory_at(&mut self, segment: Seg, offset: u64, size: u32, what_for: Use) -> Result<u64> {
        let linear = self.linear(segment, offset, size, what_for == Use::Write)?;
        if what_for == Use::Write {
            self.probe(linear, size, self.state.mode.write)?;
        }
        Ok(linear)
    }

    /// Where a register or memory operand is.
    #[inline]
    pub(super) fn place(
        &mut self,
        instruction: &Instruction,
        operand: u32,
        width: u32,
        what_for: Use,
    ) -> Result<Place> {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                if register_width(register) == 0 { Err(Fault::Unknown) } else { Ok(Place::Register(register)) }
            }
            OpKind::Memory => {
                if what_for == Use::Write && instruction.has_lock_prefix() {
                    self.bus.locked = true;
                }
                Ok(Place::Memory(self.memory(instruction, width, what_for)?))
            }
            _ => Err(Fault::Unknown),
        }
    }

    #[inline]
    pub(super) fn get(&mut self, place: Place, width: u32) -> Result<u64> {
        match place {
            Place::Register(register) => Ok(self.state.regs.get(register)),
            Place::Memory(linear) => self.load(linear, width),
        }
    }

    #[inline]
    pub(super) fn set(&mut self, place: Place, width: u32, value: u64) -> Result<()> {
        match place {
            Place::Register(register) => {
                self.state.regs.set(register, value);
                Ok(())
            }
            Place::Memory(linear) => self.store(linear, width, value),
        }
    }

    /// The value of an operand that is only read: a register, an immediate, or memory.
    #[inline]
    pub(super) fn value(&mut self, instruction: &Instruction, operand: u32, width: u32) -> Result<u64> {
        match instruction.op_kind(operand) {
            OpKind::Register => Ok(self.state.regs.get(instruction.op_register(operand))),
            OpKind::Memory => {
                let linear = self.memory(instruction, width, Use::Read)?;
                self.load(linear, width)
            }
            _ => instruction.try_immediate(operand).map(|value| value & mask(width)).map_err(|_| Fault::Unknown),
        }
    }
}

/// The bytes an address of a memory operand has: 2, 4 or 8.
#[inline]
pub(super) fn address_width(instruction: &Instruction) -> u32 {
    let register = match instruction.memory_base() {
        Register::None => instruction.memory_index(),
        Register::RIP => return 8,
        Register::EIP => return 4,
        base => base,
    };
    match register {
        Register::None => instruction.memory_displ_size().max(2),
        register => register_width(register).max(2),
    }
}
