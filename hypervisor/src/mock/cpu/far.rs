//! Far jumps, calls and returns, and `iret`. Those through gates and those that change privilege are not known here.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};
use kvm_bindings::kvm_segment;

use super::fault::{Fault, Result};
use super::flags::{self, NT, RF, VM};
use super::operands::Use;
use super::regs::mask;
use super::segments::{Seg, Transfer};
use super::{Exec, Handler, stack};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Retf => ret,
        Mnemonic::Iret | Mnemonic::Iretd => iret,
        _ => return None,
    };
    Some(handler)
}

/// Whether a `jmp` or `call` goes to another segment.
pub(super) fn is_far(instruction: &Instruction) -> bool {
    match instruction.op0_kind() {
        OpKind::FarBranch16 | OpKind::FarBranch32 => true,
        OpKind::Memory => matches!(instruction.memory_size(), MemorySize::SegPtr16 | MemorySize::SegPtr32),
        _ => false,
    }
}

/// Where a far transfer leads to, and the bytes of its offset.
struct Target {
    selector: u16,
    offset: u32,
    width: u32,
}

fn target(exec: &mut Exec, instruction: &Instruction) -> Result<Target> {
    let selector = || instruction.far_branch_selector();
    match instruction.op0_kind() {
        OpKind::FarBranch16 => Ok(Target { selector: selector(), offset: instruction.far_branch16().into(), width: 2 }),
        OpKind::FarBranch32 => Ok(Target { selector: selector(), offset: instruction.far_branch32(), width: 4 }),
        _ => {
            let width = if instruction.memory_size() == MemorySize::SegPtr16 { 2 } else { 4 };
            let (offset, selector) = exec.far_pointer(instruction, width)?;
            Ok(Target { selector, offset, width })
        }
    }
}

impl Exec<'_> {
    /// The offset of `width` bytes and the selector in memory, read as one.
    pub(super) fn far_pointer(&mut self, instruction: &Instruction, width: u32) -> Result<(u32, u16)> {
        let linear = self.memory(instruction, width + 2, Use::Read)?;
        let pointer = self.bus.load(linear, width as usize + 2)?;
        Ok((pointer as u32 & mask(width), (pointer >> (8 * width)) as u16))
    }

    /// Goes on in another code segment.
    pub(super) fn go_far(&mut self, segment: kvm_segment, offset: u32) -> Result<()> {
        if offset > segment.limit {
            return Err(Fault::protection(0));
        }
        self.set_segment(Seg::Cs, segment);
        self.state.regs.rip = offset.into();
        Ok(())
    }
}

pub(super) fn jmp(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let Target { selector, offset, .. } = target(exec, instruction)?;
    let segment = exec.code_segment(selector, Transfer::Jump)?;
    exec.go_far(segment, offset)
}

pub(super) fn call(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let Target { selector, offset, width } = target(exec, instruction)?;
    let segment = exec.code_segment(selector, Transfer::Jump)?;
    let (old, back) = (exec.state.sregs.cs.selector, exec.state.regs.rip as u32);
    exec.push(old.into(), width)?;
    exec.push(back, width)?;
    exec.go_far(segment, offset)
}

fn ret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = stack::width(instruction);
    let offset = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    let segment = exec.code_segment(selector, Transfer::Return)?;
    let parameters = if instruction.op_count() == 1 { instruction.immediate16() } else { 0 };
    exec.drop_from_stack(parameters.into());
    exec.go_far(segment, offset)
}

/// Ends an interrupt; afterwards the next NMI may come.
fn iret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = stack::width(instruction);
    if exec.is_protected() && exec.state.regs.has(NT) {
        return Err(Fault::Unknown);
    }
    let offset = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    let flags = exec.pop(width)?;
    if exec.is_protected() && exec.cpl() == 0 && u64::from(flags) & VM != 0 {
        return Err(Fault::Unknown);
    }
    let segment = exec.code_segment(selector, Transfer::Return)?;
    let which = (exec.settable_flags() | RF) & u64::from(mask(width));
    exec.go_far(segment, offset)?;
    exec.state.regs.replace(which, flags.into());
    exec.state.regs.rflags |= flags::FIXED;
    exec.state.events.nmi.masked = 0;
    Ok(())
}
