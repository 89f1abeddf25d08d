//! The stack: `push` and `pop` in all their forms, `enter` and `leave`.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::super::exception::{Fault, Result};
use super::super::flags::{self, IF, IOPL, RF, VIF, VIP, VM};
use super::super::mode::CR4_VME;
use super::super::operands::Use;
use super::super::regs::{AX, BP, BX, CX, DI, DX, SI, SP, mask};
use super::super::segments::Seg;
use super::super::{Exec, Handler};
use super::mov::load_segment;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Push => push,
        Mnemonic::Pop => pop,
        Mnemonic::Pusha => |exec, _| push_all(exec, 2),
        Mnemonic::Pushad => |exec, _| push_all(exec, 4),
        Mnemonic::Popa => |exec, _| pop_all(exec, 2),
        Mnemonic::Popad => |exec, _| pop_all(exec, 4),
        Mnemonic::Pushf => |exec, _| push_flags(exec, 2),
        Mnemonic::Pushfd => |exec, _| push_flags(exec, 4),
        Mnemonic::Pushfq => |exec, _| push_flags(exec, 8),
        Mnemonic::Popf => |exec, _| pop_flags(exec, 2),
        Mnemonic::Popfd => |exec, _| pop_flags(exec, 4),
        Mnemonic::Popfq => |exec, _| pop_flags(exec, 8),
        Mnemonic::Enter => enter,
        Mnemonic::Leave => leave,
        _ => return None,
    };
    Some(handler)
}

/// The bytes of an item that an instruction pushes or pops.
pub(super) fn width(instruction: &Instruction) -> u32 {
    match instruction.code() {
        Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
        Code::Retnq | Code::Retnq_imm16 | Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        Code::Enterq_imm16_imm8 | Code::Leaveq => 8,
        _ => instruction.stack_pointer_increment().unsigned_abs(),
    }
}

impl Exec<'_> {
    /// The bytes of the stack pointer that count.
    pub(in super::super) fn stack_width(&self) -> u32 {
        self.state.mode.stack_width.into()
    }

    pub(in super::super) fn push(&mut self, value: u64, width: u32) -> Result<()> {
        self.make_room(width);
        let linear = self.linear(Seg::Ss, self.top_of_stack(), width, true)?;
        self.store(linear, width, value)
    }

    pub(in super::super) fn pop(&mut self, width: u32) -> Result<u64> {
        let linear = self.linear(Seg::Ss, self.top_of_stack(), width, false)?;
        let value = self.load(linear, width)?;
        self.drop_from_stack(width);
        Ok(value)
    }

    pub(in super::super) fn top_of_stack(&self) -> u64 {
        self.state.regs.low(SP, self.stack_width())
    }

    pub(in super::super) fn make_room(&mut self, bytes: u32) {
        self.move_stack(u64::from(bytes).wrapping_neg());
    }

    /// Moves the stack pointer up.
    pub(in super::super) fn drop_from_stack(&mut self, bytes: u32) {
        self.move_stack(bytes.into());
    }

    fn move_stack(&mut self, by: u64) {
        let width = self.stack_width();
        let top = self.state.regs.low(SP, width).wrapping_add(by);
        self.state.regs.set_kept(SP, width, top);
    }
}

/// The segment register that an instruction pushes or pops.
fn segment(instruction: &Instruction) -> Option<Seg> {
    let register = instruction.op0_register();
    let is_segment = instruction.op0_kind() == OpKind::Register && register.is_segment_register();
    is_segment.then(|| Seg::named(register))
}

fn push(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction);
    if let Some(seg) = segment(instruction) {
        // Of an item of 4 bytes only the lower two are written; one of 8 is written whole.
        let selector = exec.segment(seg).selector;
        if width == 8 {
            return exec.push(selector.into(), 8);
        }
        exec.make_room(width - 2);
        return exec.push(selector.into(), 2);
    }
    let value = exec.value(instruction, 0, width)?;
    exec.push(value, width)
}

fn pop(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction);
    if let Some(seg) = segment(instruction) {
        let selector = exec.pop(2)? as u16;
        exec.drop_from_stack(width - 2);
        return load_segment(exec, seg, selector);
    }
    let value = exec.pop(width)?;
    // An address by way of the stack pointer has what it is after the pop.
    let place = exec.place(instruction, 0, width, Use::Write)?;
    exec.set(place, width, value)
}

/// SP is pushed as it was before.
fn push_all(exec: &mut Exec, width: u32) -> Result<()> {
    let before = exec.state.regs;
    for register in [AX, CX, DX, BX, SP, BP, SI, DI] {
        exec.push(before.low(register, width), width)?;
    }
    Ok(())
}

/// What lies there for SP is passed over.
fn pop_all(exec: &mut Exec, width: u32) -> Result<()> {
    for register in [DI, SI, BP, SP, BX, DX, CX, AX] {
        let value = exec.pop(width)?;
        if register != SP {
            exec.state.regs.set_low(register, width, value);
        }
    }
    Ok(())
}

/// The flags that any code may set.
pub(super) const FREE_FLAGS: u64 = flags::STATUS | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;

impl Exec<'_> {
    /// The flags that `popf` and `iret` change at this privilege.
    pub(in super::super) fn settable_flags(&self) -> u64 {
        let interrupts = if self.has_io_privilege() { IF } else { 0 };
        let privilege = if self.cpl() == 0 { IOPL } else { 0 };
        FREE_FLAGS | interrupts | privilege
    }

    /// The I/O privilege level.
    pub(in super::super) fn iopl(&self) -> u8 {
        ((self.state.regs.rflags & IOPL) >> 12) as u8
    }

    /// Virtual 8086 mode without the privilege for `cli` and its like.
    fn is_restrained_8086(&self) -> bool {
        self.state.mode.is_virtual_8086 && self.iopl() < 3
    }

    fn has_vme(&self) -> bool {
        self.state.sregs.cr4 & CR4_VME != 0
    }
}

/// Virtual 8086 mode without privilege needs CR4.VME, and then sees VIF as IF.
fn push_flags(exec: &mut Exec, width: u32) -> Result<()> {
    let mut value = exec.state.regs.rflags & !(VM | RF);
    if exec.is_restrained_8086() {
        if width != 2 || !exec.has_vme() {
            return Err(Fault::protection(0));
        }
        let virtual_if = if exec.state.regs.has(VIF) { IF } else { 0 };
        value = value & !IF | virtual_if | IOPL;
    }
    exec.push(value, width)
}

fn pop_flags(exec: &mut Exec, width: u32) -> Result<()> {
    if exec.is_restrained_8086() {
        return pop_virtual_flags(exec, width);
    }
    let value = exec.pop(width)?;
    let which = exec.settable_flags() & mask(width);
    exec.state.regs.replace(which | RF, value & which);
    exec.state.refresh_mode();
    Ok(())
}

/// With CR4.VME, IF goes to VIF (Intel SDM volume 2, "POPF").
fn pop_virtual_flags(exec: &mut Exec, width: u32) -> Result<()> {
    if width != 2 || !exec.has_vme() {
        return Err(Fault::protection(0));
    }
    let value = exec.pop(width)?;
    if value & IF != 0 && exec.state.regs.has(VIP) || value & flags::TF != 0 {
        return Err(Fault::protection(0));
    }
    exec.state.regs.replace(FREE_FLAGS & mask(width), value);
    exec.state.regs.put(VIF, value & IF != 0);
    Ok(())
}

/// Intel SDM volume 2, "ENTER".
fn enter(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction);
    let room = u32::from(instruction.immediate16());
    let level = u32::from(instruction.immediate8_2nd() % 32);
    exec.push(exec.state.regs.low(BP, width), width)?;
    // ESP whole where the operand has 32 bits, also on a stack of 16.
    let frame = exec.state.regs.low(SP, width);
    if level > 0 {
        let stack_width = exec.stack_width();
        for above in 1..level {
            let at = exec.state.regs.low(BP, stack_width).wrapping_sub((above * width).into()) & mask(stack_width);
            let linear = exec.linear(Seg::Ss, at, width, false)?;
            let link = exec.load(linear, width)?;
            exec.push(link, width)?;
        }
        exec.push(frame, width)?;
    }
    exec.make_room(room);
    // The new top must be writable although nothing is written there.
    exec.memory_at(Seg::Ss, exec.top_of_stack(), width, Use::Write)?;
    exec.state.regs.set_low(BP, width, frame);
    Ok(())
}

fn leave(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (width, stack_width) = (width(instruction), exec.stack_width());
    let frame = exec.state.regs.low(BP, stack_width);
    exec.state.regs.set_kept(SP, stack_width, frame);
    let before = exec.pop(width)?;
    exec.state.regs.set_low(BP, width, before);
    Ok(())
}
