//! Interrupts and exceptions: how they are delivered, and the instructions that make them.

use iced_x86::{Instruction, Mnemonic};

use super::fault::{Exception, Fault, Result};
use super::flags::{AC, IF, NT, OF, RF, TF, VM};
use super::operands::Use;
use super::regs::{register_width, signed};
use super::segments::Transfer;
use super::{Exec, Handler};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Int => |exec, instruction| software(exec, instruction.immediate8()),
        Mnemonic::Int3 => |exec, _| software(exec, 3),
        Mnemonic::Into => into,
        Mnemonic::Bound => bound,
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => |_, _| Err(Fault::invalid_opcode()),
        _ => return None,
    };
    Some(handler)
}

/// Where an interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An instruction for it, which needs the gate's permission.
    Software,
    /// An exception, or an interrupt from outside.
    Hardware,
}

fn software(exec: &mut Exec, vector: u8) -> Result<()> {
    exec.interrupt(Exception { vector, error: None }, Source::Software)
}

fn into(exec: &mut Exec, _: &Instruction) -> Result<()> {
    if exec.state.regs.has(OF) { software(exec, 4) } else { Ok(()) }
}

fn bound(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let register = instruction.op0_register();
    let width = register_width(register);
    let linear = exec.memory(instruction, 2 * width, Use::Read)?;
    let lower = signed(exec.load(linear, width)?, width);
    let upper = signed(exec.load(linear.wrapping_add(width), width)?, width);
    let index = signed(exec.state.regs.get(register), width);
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(Fault::bound()) }
}

impl Exec<'_> {
    /// Begins the handler of an interrupt or an exception. RIP is what the handler is to return to.
    pub(super) fn interrupt(&mut self, what: Exception, source: Source) -> Result<()> {
        if !self.is_protected() {
            return self.interrupt_by_vector_table(what.vector);
        }
        let delivered = self.interrupt_by_gate(what, source);
        // Error codes say that it was not the program that asked for this (EXT).
        delivered.map_err(|fault| match fault {
            Fault::Exception(Exception { vector, error: Some(error) }) if source == Source::Hardware => {
                Fault::Exception(Exception { vector, error: Some(error | 1) })
            }
            fault => fault,
        })
    }

    /// Real mode: Intel SDM volume 3, section 22.1.4.
    fn interrupt_by_vector_table(&mut self, vector: u8) -> Result<()> {
        let idt = self.state.sregs.idt;
        let entry = u32::from(vector) * 4;
        if entry + 3 > idt.limit.into() {
            return Err(Fault::protection(0));
        }
        let (flags, cs, back) =
            (self.state.regs.rflags as u32, self.state.sregs.cs.selector, self.state.regs.rip as u32);
        self.push(flags, 2)?;
        self.push(cs.into(), 2)?;
        self.push(back, 2)?;
        let linear = (idt.base as u32).wrapping_add(entry);
        let offset = self.load(linear, 2)?;
        let selector = self.load(linear.wrapping_add(2), 2)? as u16;
        let segment = self.code_segment(selector, Transfer::Interrupt)?;
        self.go_far(segment, offset)?;
        self.state.regs.put(IF | TF | AC | RF, false);
        Ok(())
    }

    /// Protected mode: Intel SDM volume 3, section 7.12.1.
    fn interrupt_by_gate(&mut self, what: Exception, source: Source) -> Result<()> {
        const TASK_GATE: u8 = 5;
        let idt = self.state.sregs.idt;
        let entry = u32::from(what.vector) * 8;
        // The table's index, and the bit that says it is one of the IDT.
        let error = entry as u16 | 2;
        if entry + 7 > idt.limit.into() {
            return Err(Fault::protection(error));
        }
        let gate = self.bus.load((idt.base as u32).wrapping_add(entry), 8)?;
        let kind = (gate >> 40 & 0x1f) as u8;
        let (width, masks) = match kind {
            0x6 => (2, true),
            0x7 => (2, false),
            0xe => (4, true),
            0xf => (4, false),
            TASK_GATE => return Err(Fault::Unknown),
            _ => return Err(Fault::protection(error)),
        };
        if source == Source::Software && ((gate >> 45 & 3) as u8) < self.cpl() {
            return Err(Fault::protection(error));
        }
        if gate >> 47 & 1 == 0 {
            return Err(Fault::not_present(error));
        }
        let offset = (gate & 0xffff | if width == 4 { gate >> 32 & 0xffff_0000 } else { 0 }) as u32;
        let segment = self.code_segment((gate >> 16) as u16, Transfer::Interrupt)?;
        let (flags, cs, back) =
            (self.state.regs.rflags as u32, self.state.sregs.cs.selector, self.state.regs.rip as u32);
        self.push(flags, width)?;
        self.push(cs.into(), width)?;
        self.push(back, width)?;
        if let Some(error) = what.error {
            self.push(error.into(), width)?;
        }
        self.go_far(segment, offset)?;
        self.state.regs.put(TF | NT | RF | VM, false);
        if masks {
            self.state.regs.put(IF, false);
        }
        Ok(())
    }
}
