//! The stack: `push` and `pop` in all their forms, `enter` and `leave`.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::fault::Result;
use super::flags::{self, IF, IOPL, VM};
use super::moves::load_segment;
use super::operands::Use;
use super::regs::{AX, BP, BX, CX, DI, DX, SI, SP, mask};
use super::segments::Seg;
use super::{Exec, Handler};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Push => push,
        Mnemonic::Pop => pop,
        Mnemonic::Pusha => |exec, _| push_all(exec, 2),
        Mnemonic::Pushad => |exec, _| push_all(exec, 4),
        Mnemonic::Popa => |exec, _| pop_all(exec, 2),
        Mnemonic::Popad => |exec, _| pop_all(exec, 4),
        Mnemonic::Pushf => |exec, _| push_flags(exec, 2),
        Mnemonic::Pushfd => |exec, _| push_flags(exec, 4),
        Mnemonic::Popf => |exec, _| pop_flags(exec, 2),
        Mnemonic::Popfd => |exec, _| pop_flags(exec, 4),
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
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        _ => instruction.stack_pointer_increment().unsigned_abs(),
    }
}

impl Exec<'_> {
    /// The bytes of the stack pointer that count.
    pub(super) fn stack_width(&self) -> u32 {
        if self.state.sregs.ss.db != 0 { 4 } else { 2 }
    }

    pub(super) fn push(&mut self, value: u32, width: u32) -> Result<()> {
        self.make_room(width);
        let linear = self.linear(Seg::Ss, self.top_of_stack(), width, true)?;
        self.store(linear, width, value);
        Ok(())
    }

    pub(super) fn pop(&mut self, width: u32) -> Result<u32> {
        let linear = self.linear(Seg::Ss, self.top_of_stack(), width, false)?;
        let value = self.load(linear, width)?;
        self.drop_from_stack(width);
        Ok(value)
    }

    fn top_of_stack(&self) -> u32 {
        self.state.regs.low(SP, self.stack_width())
    }

    fn make_room(&mut self, bytes: u32) {
        self.drop_from_stack(bytes.wrapping_neg());
    }

    /// Moves the stack pointer up.
    pub(super) fn drop_from_stack(&mut self, bytes: u32) {
        let width = self.stack_width();
        let top = self.state.regs.low(SP, width).wrapping_add(bytes);
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
        // Of an item of 4 bytes only the lower two are written.
        exec.make_room(width - 2);
        let selector = exec.segment(seg).selector;
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
    exec.set(place, width, value);
    Ok(())
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

fn push_flags(exec: &mut Exec, width: u32) -> Result<()> {
    exec.push((exec.state.regs.rflags & !VM) as u32, width)
}

/// The flags that any code may set.
pub(super) const FREE_FLAGS: u64 = flags::STATUS | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;

impl Exec<'_> {
    /// The flags that `popf` and `iret` change at this privilege.
    pub(super) fn settable_flags(&self) -> u64 {
        let interrupts = if self.has_io_privilege() { IF } else { 0 };
        let privilege = if self.cpl() == 0 { IOPL } else { 0 };
        FREE_FLAGS | interrupts | privilege
    }
}

fn pop_flags(exec: &mut Exec, width: u32) -> Result<()> {
    let value = exec.pop(width)?;
    let which = exec.settable_flags() & u64::from(mask(width));
    exec.state.regs.replace(which, value.into());
    Ok(())
}

/// Intel SDM volume 2, "ENTER".
fn enter(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction);
    let room = u32::from(instruction.immediate16());
    let level = u32::from(instruction.immediate8_2nd() % 32);
    exec.push(exec.state.regs.low(BP, width), width)?;
    let frame = exec.top_of_stack();
    if level > 0 {
        let stack_width = exec.stack_width();
        for above in 1..level {
            let at = exec.state.regs.low(BP, stack_width).wrapping_sub(above * width) & mask(stack_width);
            let linear = exec.linear(Seg::Ss, at, width, false)?;
            let link = exec.load(linear, width)?;
            exec.push(link, width)?;
        }
        exec.push(frame, width)?;
    }
    exec.make_room(room);
    // The new top must be writable although nothing is written there.
    exec.linear(Seg::Ss, exec.top_of_stack(), width, true)?;
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
