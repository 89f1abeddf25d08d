//! Descriptor tables, and what asks about descriptors.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use kvm_bindings::kvm_dtable;

use super::super::descriptors::{Descriptor, LDT, RPL, TSS, TSS_16};
use super::super::exception::{Fault, Result};
use super::super::flags::ZF;
use super::super::mode::CR4_UMIP;
use super::super::operands::{Use, width};
use super::super::regs::register_width;
use super::super::segments::{is_canonical, null_segment};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Lgdt => |exec, instruction| {
            exec.state.sregs.gdt = load_table(exec, instruction)?;
            Ok(())
        },
        Mnemonic::Lidt => |exec, instruction| {
            exec.state.sregs.idt = load_table(exec, instruction)?;
            Ok(())
        },
        Mnemonic::Sgdt => |exec, instruction| store_table(exec, instruction, exec.state.sregs.gdt),
        Mnemonic::Sidt => |exec, instruction| store_table(exec, instruction, exec.state.sregs.idt),
        Mnemonic::Lldt => lldt,
        Mnemonic::Ltr => ltr,
        Mnemonic::Sldt => |exec, instruction| store_selector(exec, instruction, exec.state.sregs.ldt.selector),
        Mnemonic::Str => |exec, instruction| store_selector(exec, instruction, exec.state.sregs.tr.selector),
        Mnemonic::Verr => |exec, instruction| verify(exec, instruction, Descriptor::is_readable),
        Mnemonic::Verw => |exec, instruction| verify(exec, instruction, Descriptor::is_writable_data),
        Mnemonic::Lar => lar,
        Mnemonic::Lsl => lsl,
        Mnemonic::Arpl => arpl,
        _ => return None,
    };
    Some(handler)
}

impl Exec<'_> {
    /// #GP(0) where CR4 keeps what tells of descriptor tables for privileged code.
    pub(in super::super) fn check_umip(&self) -> Result<()> {
        if self.cpl() > 0 && self.state.sregs.cr4 & CR4_UMIP != 0 { Err(Fault::protection(0)) } else { Ok(()) }
    }
}

/// Bytes of a descriptor table's base in memory that are read; those of 16-bit operands are three.
fn base_bytes(instruction: &Instruction) -> u32 {
    match instruction.code() {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16 => 3,
        Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 8,
        _ => 4,
    }
}

fn load_table(exec: &mut Exec, instruction: &Instruction) -> Result<kvm_dtable> {
    exec.need_cpl_0()?;
    let bytes = base_bytes(instruction);
    let linear = exec.memory(instruction, 2 + bytes, Use::Read)?;
    let limit = exec.load(linear, 2)? as u16;
    let base = exec.load(linear.wrapping_add(2), bytes)?;
    if !is_canonical(base) {
        return Err(Fault::protection(0));
    }
    Ok(kvm_dtable { base, limit, ..Default::default() })
}

fn store_table(exec: &mut Exec, instruction: &Instruction, table: kvm_dtable) -> Result<()> {
    exec.check_umip()?;
    let bytes = base_bytes(instruction);
    let (bytes, base) = if bytes == 3 { (4, table.base & 0xff_ffff) } else { (bytes, table.base) };
    let linear = exec.memory(instruction, 2 + bytes, Use::Write)?;
    exec.store(linear, 2, table.limit.into())?;
    exec.store(linear.wrapping_add(2), bytes, base)
}

/// The descriptor of a table or a TSS in the GDT, of one of these kinds.
fn system_descriptor(exec: &mut Exec, selector: u16, kinds: &[u8]) -> Result<Descriptor> {
    let wrong = Fault::protection(selector & !RPL);
    if selector & 4 != 0 {
        return Err(wrong);
    }
    let descriptor = exec.need_descriptor(selector)?;
    if descriptor.is_memory() || !kinds.contains(&descriptor.kind()) {
        return Err(wrong);
    }
    if !descriptor.is_present() {
        return Err(Fault::not_present(descriptor.error()));
    }
    if is_canonical(descriptor.segment().base) { Ok(descriptor) } else { Err(wrong) }
}

fn lldt(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    exec.need_cpl_0()?;
    let selector = exec.value(instruction, 0, 2)? as u16;
    exec.state.sregs.ldt = if selector & !RPL == 0 {
        null_segment(selector)
    } else {
        system_descriptor(exec, selector, &[LDT])?.segment()
    };
    Ok(())
}

fn ltr(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    exec.need_cpl_0()?;
    let selector = exec.value(instruction, 0, 2)? as u16;
    if selector & !RPL == 0 {
        return Err(Fault::protection(0));
    }
    let kinds: &[u8] = if exec.state.mode.is_long { &[TSS] } else { &[TSS_16, TSS] };
    let mut descriptor = system_descriptor(exec, selector, kinds)?;
    exec.mark_busy(&mut descriptor)?;
    exec.state.sregs.tr = descriptor.segment();
    Ok(())
}

fn store_selector(exec: &mut Exec, instruction: &Instruction, selector: u16) -> Result<()> {
    exec.need_protected_mode()?;
    exec.check_umip()?;
    let width = match instruction.op0_kind() {
        OpKind::Register => register_width(instruction.op0_register()),
        _ => 2,
    };
    let place = exec.place(instruction, 0, width, Use::Write)?;
    exec.set(place, width, selector.into())
}

/// The descriptor that an instruction asks about, if the program may see it.
fn visible(exec: &mut Exec, selector: u16) -> Result<Option<Descriptor>> {
    if selector & !RPL == 0 {
        return Ok(None);
    }
    let descriptor = match exec.descriptor(selector) {
        // What it would be #GP to load, is not there for these.
        Err(Fault::Exception(exception)) if exception.vector == super::super::exception::PROTECTION => None,
        descriptor => descriptor?,
    };
    let Some(descriptor) = descriptor else { return Ok(None) };
    let guarded = !(descriptor.is_code() && descriptor.is_conforming());
    let needed = exec.cpl().max((selector & RPL) as u8);
    Ok((!guarded || descriptor.dpl() >= needed).then_some(descriptor))
}

fn verify(exec: &mut Exec, instruction: &Instruction, allows: fn(&Descriptor) -> bool) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = asked_selector(exec, instruction, 0)?;
    let descriptor = visible(exec, selector)?;
    exec.state.regs.put(ZF, descriptor.is_some_and(|descriptor| allows(&descriptor)));
    Ok(())
}

/// The selector that is asked about: of a register the low 2 bytes, of memory 2 bytes.
fn asked_selector(exec: &mut Exec, instruction: &Instruction, operand: u32) -> Result<u16> {
    let width = match instruction.op_kind(operand) {
        OpKind::Memory => 2,
        _ => width(instruction, operand),
    };
    Ok(exec.value(instruction, operand, width)? as u16)
}

fn lar(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = asked_selector(exec, instruction, 1)?;
    let is_long = exec.state.mode.is_long;
    let known = |descriptor: &Descriptor| {
        descriptor.is_memory()
            || matches!(descriptor.kind(), 2 | 9 | 0xb | 0xc)
            || !is_long && matches!(descriptor.kind(), 1 | 3 | 4 | 5)
    };
    let descriptor = visible(exec, selector)?.filter(known);
    exec.state.regs.put(ZF, descriptor.is_some());
    if let Some(descriptor) = descriptor {
        let rights = descriptor.bits >> 32 & 0x00f0_ff00;
        exec.state.regs.set(instruction.op0_register(), rights);
    }
    Ok(())
}

fn lsl(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = asked_selector(exec, instruction, 1)?;
    let is_long = exec.state.mode.is_long;
    let known = |descriptor: &Descriptor| {
        descriptor.is_memory()
            || matches!(descriptor.kind(), 2 | 9 | 0xb)
            || !is_long && matches!(descriptor.kind(), 1 | 3)
    };
    let descriptor = visible(exec, selector)?.filter(known);
    exec.state.regs.put(ZF, descriptor.is_some());
    if let Some(descriptor) = descriptor {
        exec.state.regs.set(instruction.op0_register(), descriptor.limit().into());
    }
    Ok(())
}

/// The destination's privilege is made no higher than the source's.
fn arpl(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let source = exec.value(instruction, 1, 2)? as u16 & RPL;
    let place = exec.place(instruction, 0, 2, Use::Read)?;
    let selector = exec.get(place, 2)? as u16;
    let raises = selector & RPL < source;
    if raises {
        // It is written only where it changes: a selector that stays may be where nothing can be written.
        let place = exec.place(instruction, 0, 2, Use::Write)?;
        exec.set(place, 2, u64::from(selector & !RPL | source))?;
    }
    exec.state.regs.put(ZF, raises);
    Ok(())
}
