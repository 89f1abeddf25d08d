//! Operands of x87, MMX and SSE instructions.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::Exec;
use super::super::exception::{Fault, Result};
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
fn unit(instruction: &Instruction) -> Unit {
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

/// What #AC asks of an operand of so many bytes (Intel SDM volume 3, table 7-7): of an environment and of what it begins that of
/// its words, of 80 bits that of 64. One of 16 bytes has #GP instead, or nothing.
fn natural_alignment(size: usize) -> u32 {
    match size {
        10 => 8,
        14 | 94 => 2,
        28 | 108 | 512.. => 4,
        size => size as u32,
    }
}

impl Exec<'_> {
    /// Returns the linear address of the memory operand, of `size` bytes; #GP where it has to be aligned to `align` and is not.
    /// What is written there behind this does not fault.
    pub(super) fn wide_address(
        &mut self,
        instruction: &Instruction,
        size: usize,
        align: u64,
        what_for: Use,
    ) -> Result<u64> {
        let linear = self.memory(instruction, size as u32, what_for)?;
        self.check_alignment(linear, natural_alignment(size))?;
        if linear.is_multiple_of(align) { Ok(linear) } else { Err(Fault::protection(0)) }
    }

    /// The same for an SSE instruction's: 16 bytes are aligned, but for those of some moves.
    fn vector_address(&mut self, instruction: &Instruction, size: usize, what_for: Use) -> Result<u64> {
        let align = if size == 16 && !may_be_unaligned(instruction.mnemonic()) { 16 } else { 1 };
        self.wide_address(instruction, size, align, what_for)
    }

    /// Returns the linear address of `size` bytes at DS:rDI, which their segment allows to be written.
    pub(super) fn string_destination(&mut self, instruction: &Instruction, size: usize) -> Result<u64> {
        let register = match instruction.op0_kind() {
            OpKind::MemorySegDI => Register::DI,
            OpKind::MemorySegEDI => Register::EDI,
            _ => Register::RDI,
        };
        let offset = self.state.regs.get(register);
        let linear = self.linear(Seg::named(instruction.memory_segment()), offset, size as u32, true)?;
        // Processors want words of 8 bytes aligned, whichever are stored.
        self.check_alignment(linear, 8)?;
        Ok(linear)
    }

    /// Reads the first `size` bytes, at most 16, of a memory operand.
    fn load_vector(&mut self, instruction: &Instruction, size: usize) -> Result<u128> {
        let linear = self.vector_address(instruction, size, Use::Read)?;
        self.load_wide(linear, size as u32)
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
        self.store_wide(linear, size as u32, value)
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
            self.state.regs.set(register, value as u64);
        }
    }
}
