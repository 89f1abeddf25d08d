//! Far jumps, calls and returns, and `iret` (Intel SDM volume 2, "JMP", "CALL", "RET", "IRET").

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};
use kvm_bindings::kvm_segment;

use super::super::descriptors::{CALL_GATE, CALL_GATE_16, Descriptor, RPL, TASK_GATE, TSS, TSS_16};
use super::super::exception::{Fault, Result};
use super::super::operands::Use;
use super::super::regs::mask;
use super::super::segments::{Seg, is_canonical};
use super::super::{Exec, Handler};
use super::stack;
use super::task_switch::Reason;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Retf => ret,
        _ => return None,
    };
    Some(handler)
}

/// Whether a `jmp` or `call` goes to another segment.
pub(in super::super) fn is_far(instruction: &Instruction) -> bool {
    match instruction.op0_kind() {
        OpKind::FarBranch16 | OpKind::FarBranch32 => true,
        OpKind::Memory => {
            matches!(instruction.memory_size(), MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64)
        }
        _ => false,
    }
}

/// Where a far transfer leads to, and the bytes of its offset.
struct Target {
    selector: u16,
    offset: u64,
    width: u32,
}

fn target(exec: &mut Exec, instruction: &Instruction) -> Result<Target> {
    let selector = instruction.far_branch_selector();
    match instruction.op0_kind() {
        OpKind::FarBranch16 => Ok(Target { selector, offset: instruction.far_branch16().into(), width: 2 }),
        OpKind::FarBranch32 => Ok(Target { selector, offset: instruction.far_branch32().into(), width: 4 }),
        _ => {
            let width = match instruction.memory_size() {
                MemorySize::SegPtr16 => 2,
                MemorySize::SegPtr32 => 4,
                _ => 8,
            };
            let (offset, selector) = exec.far_pointer(instruction, width)?;
            Ok(Target { selector, offset, width })
        }
    }
}

/// What a selector leads to.
enum Destination {
    Code(kvm_segment),
    Gate(Descriptor),
    /// A task, by the selector of its TSS.
    Task(u16),
}

impl Exec<'_> {
    /// The offset of `width` bytes and the selector in memory. Of 2 and 4 bytes both are read as one.
    pub(in super::super) fn far_pointer(&mut self, instruction: &Instruction, width: u32) -> Result<(u64, u16)> {
        let linear = self.memory(instruction, width + 2, Use::Read)?;
        if width == 8 {
            return Ok((self.load(linear, 8)?, self.load(linear.wrapping_add(8), 2)? as u16));
        }
        let pointer = self.load(linear, width + 2)?;
        Ok((pointer & mask(width), (pointer >> (8 * width)) as u16))
    }

    /// Continues in another code segment.
    pub(in super::super) fn go_far(&mut self, segment: kvm_segment, offset: u64) -> Result<()> {
        let is_64_bit = self.state.mode.is_long && segment.l != 0;
        let allowed = if is_64_bit { is_canonical(offset) } else { offset <= segment.limit.into() };
        if !allowed {
            return Err(Fault::protection(0));
        }
        self.set_segment(Seg::Cs, segment);
        self.state.regs.rip = offset;
        Ok(())
    }

    /// What CS is to become outside of protected mode.
    pub(in super::super) fn real_code_segment(&self, selector: u16) -> kvm_segment {
        kvm_segment { selector, base: u64::from(selector) << 4, ..self.state.sregs.cs }
    }

    /// #GP that names a code segment which is of 32 bits and of 64.
    pub(in super::super) fn check_code_size(&self, descriptor: &Descriptor) -> Result<()> {
        let is_both = self.state.mode.is_long && descriptor.is_long() && descriptor.is_big();
        if is_both { Err(Fault::protection(descriptor.error())) } else { Ok(()) }
    }

    /// CS for a code segment at a privilege level.
    pub(in super::super) fn code_segment(&mut self, mut descriptor: Descriptor, cpl: u8) -> Result<kvm_segment> {
        if !descriptor.is_present() {
            return Err(Fault::not_present(descriptor.error()));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(kvm_segment { selector: descriptor.selector & !RPL | u16::from(cpl), ..descriptor.segment() })
    }

    /// What the selector of a far jump or call leads to.
    fn destination(&mut self, selector: u16) -> Result<Destination> {
        if selector & !RPL == 0 {
            return Err(Fault::protection(0));
        }
        let descriptor = self.need_descriptor(selector)?;
        let (rpl, dpl, cpl) = ((selector & RPL) as u8, descriptor.dpl(), self.cpl());
        let wrong = Fault::protection(descriptor.error());
        if descriptor.is_memory() {
            let allowed = match descriptor.is_conforming() {
                true => dpl <= cpl,
                false => rpl <= cpl && dpl == cpl,
            };
            if !descriptor.is_code() || !allowed {
                return Err(wrong);
            }
            self.check_code_size(&descriptor)?;
            return Ok(Destination::Code(self.code_segment(descriptor, cpl)?));
        }
        let is_long = self.state.mode.is_long;
        let is_known = match descriptor.kind() {
            CALL_GATE => true,
            CALL_GATE_16 | TASK_GATE | TSS_16 | TSS => !is_long,
            _ => false,
        };
        if !is_known || dpl < cpl.max(rpl) {
            return Err(wrong);
        }
        if !descriptor.is_present() {
            return Err(Fault::not_present(descriptor.error()));
        }
        Ok(match descriptor.kind() {
            CALL_GATE | CALL_GATE_16 => Destination::Gate(descriptor),
            TASK_GATE => Destination::Task(descriptor.gate_selector()),
            _ => Destination::Task(selector),
        })
    }

    /// The code that a call gate leads to, and where in it.
    fn gate_target(&mut self, gate: &Descriptor) -> Result<(Descriptor, u64)> {
        let selector = gate.gate_selector();
        if selector & !RPL == 0 {
            return Err(Fault::protection(0));
        }
        let descriptor = self.need_descriptor(selector)?;
        let wrong = Fault::protection(descriptor.error());
        let is_long = self.state.mode.is_long;
        if !descriptor.is_code()
            || descriptor.dpl() > self.cpl()
            || is_long && (!descriptor.is_long() || descriptor.is_big())
        {
            return Err(wrong);
        }
        let offset = if gate.kind() == CALL_GATE_16 { gate.gate_offset_16() } else { gate.gate_offset() };
        Ok((descriptor, offset))
    }

    /// Forgets data segments that code of the privilege of now may not use, after a return to it. Their bases stay, as on
    /// processors: 64-bit code uses those of FS and GS under any selector.
    pub(in super::super) fn drop_privileged_segments(&mut self) {
        let cpl = self.cpl();
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let segment = *self.segment(seg);
            let conforming_code = segment.type_ & 0xc == 0xc;
            if segment.s != 0 && segment.dpl < cpl && !conforming_code {
                let null = super::super::segments::null_segment(0);
                self.set_segment(seg, kvm_segment { base: segment.base, ..null });
            }
        }
    }
}

pub(super) fn jmp(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let Target { selector, offset, .. } = target(exec, instruction)?;
    if !exec.is_protected() {
        return exec.go_far(exec.real_code_segment(selector), offset);
    }
    match exec.destination(selector)? {
        Destination::Code(segment) => exec.go_far(segment, offset),
        Destination::Task(tss) => exec.switch_task(tss, Reason::Jump),
        Destination::Gate(gate) => {
            let (code, offset) = exec.gate_target(&gate)?;
            let cpl = exec.cpl();
            if !code.is_conforming() && code.dpl() != cpl {
                return Err(Fault::protection(code.error()));
            }
            let segment = exec.code_segment(code, cpl)?;
            exec.go_far(segment, offset)
        }
    }
}

pub(super) fn call(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let Target { selector, offset, width } = target(exec, instruction)?;
    let segment = if exec.is_protected() {
        match exec.destination(selector)? {
            Destination::Code(segment) => segment,
            Destination::Task(tss) => return exec.switch_task(tss, Reason::Call),
            Destination::Gate(gate) => return call_gate(exec, &gate),
        }
    } else {
        exec.real_code_segment(selector)
    };
    let (old, back) = (exec.state.sregs.cs.selector, exec.state.regs.rip);
    let mut stack = exec.current_stack(exec.is_64_bit());
    exec.push_on(&mut stack, old.into(), width)?;
    exec.push_on(&mut stack, back, width)?;
    exec.go_far(segment, offset)?;
    exec.take_stack(&stack);
    Ok(())
}

fn call_gate(exec: &mut Exec, gate: &Descriptor) -> Result<()> {
    let is_long = exec.state.mode.is_long;
    let width = match gate.kind() {
        CALL_GATE_16 => 2,
        _ if is_long => 8,
        _ => 4,
    };
    let (code, offset) = exec.gate_target(gate)?;
    let (cs, ss, back) = (exec.state.sregs.cs.selector, exec.state.sregs.ss.selector, exec.state.regs.rip);
    if code.is_conforming() || code.dpl() == exec.cpl() {
        let segment = exec.code_segment(code, exec.cpl())?;
        let mut stack = exec.current_stack(is_long);
        exec.push_on(&mut stack, cs.into(), width)?;
        exec.push_on(&mut stack, back, width)?;
        exec.go_far(segment, offset)?;
        exec.take_stack(&stack);
        return Ok(());
    }
    let level = code.dpl();
    let segment = exec.code_segment(code, level)?;
    let old = exec.top_of_stack();
    let mut stack =
        if is_long { exec.stack_in_tss(4 + 8 * u32::from(level), level)? } else { exec.stack_of_level(level)? };
    exec.push_on(&mut stack, ss.into(), width)?;
    exec.push_on(&mut stack, old, width)?;
    if !is_long {
        for parameter in (0..gate.gate_parameters()).rev() {
            let at = old.wrapping_add(parameter * u64::from(width)) & mask(exec.stack_width());
            let linear = exec.linear(Seg::Ss, at, width, false)?;
            let value = exec.load(linear, width)?;
            exec.push_on(&mut stack, value, width)?;
        }
    }
    exec.push_on(&mut stack, cs.into(), width)?;
    exec.push_on(&mut stack, back, width)?;
    exec.take_stack(&stack);
    exec.go_far(segment, offset)
}

/// What a return's selector leads to, in protected mode.
pub(super) fn return_segment(exec: &mut Exec, selector: u16) -> Result<kvm_segment> {
    if selector & !RPL == 0 {
        return Err(Fault::protection(0));
    }
    let descriptor = exec.need_descriptor(selector)?;
    let (rpl, dpl) = ((selector & RPL) as u8, descriptor.dpl());
    let allowed = match descriptor.is_conforming() {
        true => dpl <= rpl,
        false => dpl == rpl,
    };
    if !descriptor.is_code() || rpl < exec.cpl() || !allowed {
        return Err(Fault::protection(descriptor.error()));
    }
    exec.check_code_size(&descriptor)?;
    exec.code_segment(descriptor, rpl)
}

fn ret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = stack::width(instruction);
    let parameters = if instruction.op_count() == 1 { instruction.immediate16().into() } else { 0 };
    let offset = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    if !exec.is_protected() {
        exec.drop_from_stack(parameters);
        return exec.go_far(exec.real_code_segment(selector), offset);
    }
    let segment = return_segment(exec, selector)?;
    exec.drop_from_stack(parameters);
    let rpl = (selector & RPL) as u8;
    if rpl == exec.cpl() {
        return exec.go_far(segment, offset);
    }
    let outer = pop_outer_stack(exec, width, &segment, rpl)?;
    exec.go_far(segment, offset)?;
    enter_outer(exec, &outer);
    exec.drop_from_stack(parameters);
    Ok(())
}

/// The stack of less privileged code.
pub(super) struct OuterStack {
    pub(super) ss: kvm_segment,
    pub(super) pointer: u64,
}

/// Pops the stack that a return to another privilege level, or within 64-bit mode, is to have.
pub(super) fn pop_outer_stack(exec: &mut Exec, width: u32, code: &kvm_segment, rpl: u8) -> Result<OuterStack> {
    let pointer = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    let is_64_bit = exec.state.mode.is_long && code.l != 0;
    let ss = exec.stack_segment(selector, rpl, is_64_bit && rpl < 3, Fault::protection)?;
    Ok(OuterStack { ss, pointer })
}

/// Takes the stack of less privileged code, whose CS is there already.
pub(super) fn enter_outer(exec: &mut Exec, outer: &OuterStack) {
    exec.set_segment(Seg::Ss, outer.ss);
    let width = exec.stack_width();
    exec.state.regs.set_kept(super::super::regs::SP, width, outer.pointer);
    exec.drop_privileged_segments();
}
