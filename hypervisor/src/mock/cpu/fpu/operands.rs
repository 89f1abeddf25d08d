//! Operands of x87, MMX and SSE instructions.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::Exec;
use super::super::fault::{Fault, Result};
use super::super::operands::Use;
use super::super::segments::Seg;
use super::check::{Unit, ready};

/// Which MMX register, if it is one.
fn mm_index(register: Register) -> Option<usize> {
    register.is_mm().then(|| register.number())
}

fn xmm_index(register: Register) -> Option<usize> {
    register.is_xmm().then(|| register.number())
}

/// The unit an instruction with such registers needs.
pub(super) fn unit(instruction: &Instruction) -> Unit {
    let any = |is: fn(&Instruction, u32) -> bool| (0..instruction.op_count()).any(|operand| is(instruction, operand));
    match (any(is_mm), any(is_xmm)) {
        (true, true) => Unit::SseAndMmx,
        (true, false) => Unit::Mmx,
        (false, _) => Unit::Sse,
    }
}

/// Whether an operand is an MMX register.
pub(super) fn is_mm(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_mm()
}

fn is_xmm(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Register && instruction.op_register(operand).is_xmm()
}

pub(super) fn is_memory(instruction: &Instruction, operand: u32) -> bool {
    instruction.op_kind(operand) == OpKind::Memory
}

/// Whether a 16-byte operand in memory may be anywhere.
fn may_be_unaligned(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu)
}

impl Exec<'_> {
    /// Returns the linear address of the memory operand, of `size` bytes; #GP where it has to be aligned to `align` and is not.
    pub(super) fn wide_address(
        &mut self,
        instruction: &Instruction,
        size: usize,
        align: u32,
        what_for: Use,
    ) -> Result<u32> {
        let linear = self.memory(instruction, size as u32, what_for)?;
        if linear % align == 0 { Ok(linear) } else { Err(Fault::protection(0)) }
    }

    /// The same for an SSE instruction's: 16 bytes are aligned, but for those of some moves.
    fn vector_address(&mut self, instruction: &Instruction, size: usize, what_for: Use) -> Result<u32> {
        let align = if size == 16 && !may_be_unaligned(instruction.mnemonic()) { 16 } else { 1 };
        self.wide_address(instruction, size, align, what_for)
    }

    /// Returns the linear address of `size` bytes at DS:rDI, where they are written to.
    pub(super) fn string_destination(&mut self, instruction: &Instruction, size: usize) -> Result<u32> {
        let (register, mask) = match instruction.op0_kind() {
            OpKind::MemorySegDI => (Register::DI, 0xffff),
            _ => (Register::EDI, u32::MAX),
        };
        let offset = self.state.regs.get(register) & mask;
        self.linear(Seg::named(instruction.memory_segment()), offset, size as u32, true)
    }

    /// Fills `bytes` from memory.
    pub(super) fn load_bytes(&mut self, linear: u32, bytes: &mut [u8]) -> Result<()> {
        for (at, chunk) in (linear..).step_by(8).zip(bytes.chunks_mut(8)) {
            let value = self.bus.load(at, chunk.len())?;
            chunk.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }

    /// Writes `bytes` to memory, when the instruction is complete. Their address was checked for it.
    pub(super) fn store_bytes(&mut self, linear: u32, bytes: &[u8]) {
        self.bus.store_block(linear, bytes);
    }

    /// Reads the first `size` bytes, at most 16, of a memory operand.
    fn load_vector(&mut self, instruction: &Instruction, size: usize) -> Result<u128> {
        let linear = self.vector_address(instruction, size, Use::Read)?;
        let mut bytes = [0; 16];
        self.load_bytes(linear, bytes.get_mut(..size).unwrap_or_default())?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Returns a source's value, zero-extended: of a register all it has, of memory as much as the instruction names, or an
    /// immediate.
    fn vector_source(&mut self, instruction: &Instruction, operand: u32) -> Result<u128> {
        match instruction.op_kind(operand) {
            OpKind::Register => Ok(self.vector(instruction.op_register(operand))),
            OpKind::Memory => self.load_vector(instruction, instruction.memory_size().size()),
            _ => instruction.try_immediate(operand).map(u128::from).map_err(|_| Fault::Unknown),
        }
    }

    /// Begins an instruction by the registers it names: checks that its unit is there, and returns the value of operand 1.
    /// With an MMX register among them, the MMX registers are in use from here on.
    pub(super) fn begin_vector(&mut self, instruction: &Instruction) -> Result<u128> {
        let unit = unit(instruction);
        ready(self, unit)?;
        // A read may end the attempt, so it comes before anything is changed.
        let source = match instruction.op_kind(1) {
            OpKind::Register => None,
            _ => Some(self.vector_source(instruction, 1)?),
        };
        if unit != Unit::Sse {
            self.state.fpu.begin_mmx();
        }
        Ok(source.unwrap_or_else(|| self.vector(instruction.op1_register())))
    }

    /// Stores the register operand 1 to memory, its low `size` bytes, shifted down by `shift` bits.
    pub(super) fn store_register(&mut self, instruction: &Instruction, size: usize, shift: u32) -> Result<()> {
        let unit = unit(instruction);
        ready(self, unit)?;
        let linear = self.vector_address(instruction, size, Use::Write)?;
        if unit != Unit::Sse {
            self.state.fpu.begin_mmx();
        }
        let value = self.vector(instruction.op1_register()) >> shift;
        self.store_bytes(linear, value.to_le_bytes().get(..size).unwrap_or_default());
        Ok(())
    }

    /// Returns a register's value, zero-extended.
    pub(super) fn vector(&self, register: Register) -> u128 {
        if let Some(index) = xmm_index(register) {
            self.state.fpu.xmm(index)
        } else if let Some(index) = mm_index(register) {
            self.state.fpu.mm(index).into()
        } else {
            self.state.regs.get(register).into()
        }
    }

    /// Sets a register: an MMX or general one to what fits.
    pub(super) fn set_vector(&mut self, register: Register, value: u128) {
        if let Some(index) = xmm_index(register) {
            self.state.fpu.set_xmm(index, value);
        } else if let Some(index) = mm_index(register) {
            self.state.fpu.set_mm(index, value as u64);
        } else {
            self.state.regs.set(register, value as u32);
        }
    }
}
