//! Moves: `mov`, `movzx`, `movsx`, `xchg`, `lea`, far pointers, `xlat`, `bswap`, sign extension.

use iced_x86::{Instruction, Mnemonic, OpKind};
use kvm_bindings::KVM_X86_SHADOW_INT_MOV_SS;

use super::super::exception::Result;
use super::super::operands::{Use, address_width, width};
use super::super::regs::{AX, BX, DX, mask, register_width, signed};
use super::super::segments::Seg;
use super::super::{Exec, Handler};
use super::control_regs;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Mov => mov,
        Mnemonic::Movzx => movzx,
        Mnemonic::Movsx | Mnemonic::Movsxd => movsx,
        Mnemonic::Movnti => mov_value,
        Mnemonic::Movbe => movbe,
        Mnemonic::Xchg => xchg,
        Mnemonic::Lea => lea,
        Mnemonic::Lds => |exec, instruction| load_far(exec, instruction, Seg::Ds),
        Mnemonic::Les => |exec, instruction| load_far(exec, instruction, Seg::Es),
        Mnemonic::Lfs => |exec, instruction| load_far(exec, instruction, Seg::Fs),
        Mnemonic::Lgs => |exec, instruction| load_far(exec, instruction, Seg::Gs),
        Mnemonic::Lss => |exec, instruction| load_far(exec, instruction, Seg::Ss),
        Mnemonic::Xlatb => xlat,
        Mnemonic::Bswap => bswap,
        Mnemonic::Cbw => |exec, _| extend(exec, 1),
        Mnemonic::Cwde => |exec, _| extend(exec, 2),
        Mnemonic::Cdqe => |exec, _| extend(exec, 4),
        Mnemonic::Cwd => |exec, _| spread_sign(exec, 2),
        Mnemonic::Cdq => |exec, _| spread_sign(exec, 4),
        Mnemonic::Cqo => |exec, _| spread_sign(exec, 8),
        _ => return None,
    };
    Some(handler)
}

fn mov(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    if to.is_segment_register() {
        return mov_to_segment(exec, instruction);
    }
    if from.is_segment_register() {
        return mov_from_segment(exec, instruction);
    }
    if control_regs::is_special(to) || control_regs::is_special(from) {
        return control_regs::mov(exec, instruction);
    }
    mov_value(exec, instruction)
}

fn mov_value(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let value = exec.value(instruction, 1, width)?;
    let place = exec.place(instruction, 0, width, Use::Write)?;
    exec.set(place, width, value)
}

/// One of the operands is memory, whose bytes are in the other order.
fn movbe(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let value = exec.value(instruction, 1, width)?.swap_bytes() >> (64 - 8 * width);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    exec.set(place, width, value)
}

fn mov_to_segment(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let seg = Seg::named(instruction.op0_register());
    let selector = match instruction.op1_kind() {
        OpKind::Register => exec.state.regs.get(instruction.op1_register()),
        _ => exec.value(instruction, 1, 2)?,
    };
    load_segment(exec, seg, selector as u16)
}

/// Loads a data or stack segment register. One of SS keeps interrupts away from the next instruction.
pub(super) fn load_segment(exec: &mut Exec, seg: Seg, selector: u16) -> Result<()> {
    let segment = exec.data_segment(seg, selector)?;
    exec.set_segment(seg, segment);
    if seg == Seg::Ss {
        exec.shadow = KVM_X86_SHADOW_INT_MOV_SS as u8;
    }
    Ok(())
}

/// A register of 4 or 8 bytes gets the selector with zeros above it; memory always 2 bytes.
fn mov_from_segment(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let selector = exec.segment(Seg::named(instruction.op1_register())).selector;
    let width = match instruction.op0_kind() {
        OpKind::Register => register_width(instruction.op0_register()),
        _ => 2,
    };
    let place = exec.place(instruction, 0, width, Use::Write)?;
    exec.set(place, width, selector.into())
}

fn movzx(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let value = exec.value(instruction, 1, width(instruction, 1))?;
    exec.state.regs.set(instruction.op0_register(), value);
    Ok(())
}

/// `movsxd` reads 4 bytes of memory also where its destination has 2, as processors and KVM do.
fn movsx(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let is_wide = instruction.mnemonic() == Mnemonic::Movsxd && instruction.op1_kind() == OpKind::Memory;
    let width = if is_wide { 4 } else { width(instruction, 1) };
    let value = exec.value(instruction, 1, width)?;
    exec.state.regs.set(instruction.op0_register(), signed(value, width) as u64);
    Ok(())
}

/// With memory it is always one atomic step.
fn xchg(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = width(instruction, 0);
    let first = exec.place(instruction, 0, width, Use::Write)?;
    let second = exec.place(instruction, 1, width, Use::Write)?;
    exec.bus.locked = true;
    let (a, b) = (exec.get(first, width)?, exec.get(second, width)?);
    exec.set(first, width, b)?;
    exec.set(second, width, a)
}

fn lea(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let offset = exec.offset(instruction);
    exec.state.regs.set(instruction.op0_register(), offset);
    Ok(())
}

fn load_far(exec: &mut Exec, instruction: &Instruction, seg: Seg) -> Result<()> {
    let width = register_width(instruction.op0_register());
    let (offset, selector) = exec.far_pointer(instruction, width)?;
    let segment = exec.data_segment(seg, selector)?;
    exec.set_segment(seg, segment);
    exec.state.regs.set(instruction.op0_register(), offset);
    Ok(())
}

fn xlat(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = address_width(instruction);
    let regs = &exec.state.regs;
    let offset = regs.low(BX, width).wrapping_add(regs.low(AX, 1)) & mask(width);
    let linear = exec.memory_at(Seg::named(instruction.memory_segment()), offset, 1, Use::Read)?;
    let value = exec.load(linear, 1)?;
    exec.state.regs.set_low(AX, 1, value);
    Ok(())
}

/// Of 2 bytes the result is undefined (Intel SDM volume 2); processors give 0.
fn bswap(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let register = instruction.op0_register();
    let width = register_width(register);
    let value = exec.state.regs.get(register).swap_bytes() >> (64 - 8 * width);
    exec.state.regs.set(register, if width == 2 { 0 } else { value });
    Ok(())
}

/// AX becomes twice as wide.
fn extend(exec: &mut Exec, from: u32) -> Result<()> {
    let value = signed(exec.state.regs.low(AX, from), from);
    exec.state.regs.set_low(AX, 2 * from, value as u64);
    Ok(())
}

fn spread_sign(exec: &mut Exec, width: u32) -> Result<()> {
    let sign = signed(exec.state.regs.low(AX, width), width) >> 63;
    exec.state.regs.set_low(DX, width, sign as u64);
    Ok(())
}
