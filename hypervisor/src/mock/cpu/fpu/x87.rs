//! x87 arithmetic, loads and stores: all that the host's unit does by itself.

use std::sync::LazyLock;

use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::super::exception::{Fault, Result};
use super::super::flags::STATUS;
use super::super::operands::Use;
use super::super::segments::Seg;
use super::super::{Exec, Handler};
use super::check::{Unit, ready};
use super::host_x87::{self, Opcode};
use super::operands::is_memory;
use super::state::{EXCEPTIONS, PRECISION, Pointers};

/// Those that have a form the host executes, by iced's numbers.
static KNOWN: LazyLock<Vec<bool>> = LazyLock::new(|| {
    let mut known = vec![false; Mnemonic::values().len()];
    // `fisttp` is SSE3's.
    let is_here = |code: &Code| Opcode::of(*code).is_some() && code.mnemonic() != Mnemonic::Fisttp;
    for code in Code::values().filter(is_here) {
        if let Some(known) = known.get_mut(code.mnemonic() as usize) {
            *known = true;
        }
    }
    known
});

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    KNOWN.get(mnemonic as usize).copied().unwrap_or(false).then_some(arithmetic)
}

/// Executes an instruction on the host. The guest's masks are in force there too, so unmasked exceptions leave what they leave
/// on a processor: operands as they were, or a result whose exponent is adjusted.
fn arithmetic(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let opcode = Opcode::of(instruction.code()).ok_or(Fault::Unknown)?;
    ready(exec, Unit::X87)?;
    if is_memory(instruction, 0) {
        with_memory(exec, instruction, opcode)
    } else {
        with_registers(exec, instruction, opcode);
        Ok(())
    }
}

fn with_registers(exec: &mut Exec, instruction: &Instruction, opcode: Opcode) {
    let operands = 0..instruction.op_count();
    let index = operands.map(|operand| st_index(instruction.op_register(operand))).max().unwrap_or(0);
    let opcode = opcode.with_st(index);
    let rflags = exec.state.regs.rflags;
    let flags = host_x87::execute(exec.state.fpu.registers_mut(), opcode, &mut [0; 16], rflags);
    exec.state.regs.rflags = rflags & !STATUS | flags & STATUS;
    note(exec, instruction);
}

fn with_memory(exec: &mut Exec, instruction: &Instruction, opcode: Opcode) -> Result<()> {
    use Mnemonic::{Fbstp, Fist, Fistp, Fst, Fstp};
    let size = instruction.memory_size().size();
    let stores = matches!(instruction.mnemonic(), Fst | Fstp | Fist | Fistp | Fbstp);
    let linear = exec.wide_address(instruction, size, 1, if stores { Use::Write } else { Use::Read })?;
    let mut memory = [0; 16];
    if !stores {
        exec.load_bytes(linear, memory.get_mut(..size).unwrap_or_default())?;
    }
    host_x87::execute(exec.state.fpu.registers_mut(), opcode, &mut memory, 0);
    // None was pending before, so an unmasked exception is this one's. Only rounding lets the value be stored all the same.
    let fpu = &exec.state.fpu;
    let is_stored = fpu.status() & !fpu.control() & EXCEPTIONS & !PRECISION == 0;
    if stores && is_stored {
        exec.store_bytes(linear, memory.get(..size).unwrap_or_default())?;
    }
    note(exec, instruction);
    Ok(())
}

fn st_index(register: Register) -> usize {
    if register.is_st() { register.number() } else { 0 }
}

/// Keeps where the instruction and its operand are, for those who look into an exception.
fn note(exec: &mut Exec, instruction: &Instruction) {
    let mut pointers = Pointers { ip: exec.start, cs: exec.state.sregs.cs.selector, ..exec.state.fpu.pointers };
    if is_memory(instruction, 0) {
        pointers.dp = exec.offset(instruction);
        pointers.ds = exec.segment(Seg::named(instruction.memory_segment())).selector;
    }
    exec.state.fpu.pointers = pointers;
}
