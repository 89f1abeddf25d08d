//! Descriptor tables, what asks about descriptors, `hlt` and caches.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use kvm_bindings::{KVM_MP_STATE_HALTED, kvm_dtable, kvm_segment};

use super::fault::{Fault, Result};
use super::flags::ZF;
use super::operands::{Use, width};
use super::regs::register_width;
use super::segments::{Descriptor, RPL};
use super::{Exec, Handler, control};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Hlt => |exec, _| hlt(exec),
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Invlpg => |exec, _| exec.need_cpl_0(),
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
    pub(super) fn check_umip(&self) -> Result<()> {
        if self.cpl() > 0 && self.state.sregs.cr4 & control::CR4_UMIP != 0 { Err(Fault::protection(0)) } else { Ok(()) }
    }

    /// #UD in real mode.
    fn need_protected_mode(&self) -> Result<()> {
        if self.is_protected() { Ok(()) } else { Err(Fault::invalid_opcode()) }
    }
}

/// The vCPU waits for an interrupt.
fn hlt(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    exec.state.mp_state.mp_state = KVM_MP_STATE_HALTED;
    Ok(())
}

/// With operands of 16 bits a table's base has 24.
fn is_short(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 | Code::Sgdt_m1632_16 | Code::Sidt_m1632_16)
}

fn load_table(exec: &mut Exec, instruction: &Instruction) -> Result<kvm_dtable> {
    exec.need_cpl_0()?;
    let base_bytes = if is_short(instruction) { 3 } else { 4 };
    let linear = exec.memory(instruction, 2 + base_bytes, Use::Read)?;
    let limit = exec.load(linear, 2)? as u16;
    let base = exec.bus.load(linear.wrapping_add(2), base_bytes as usize)?;
    Ok(kvm_dtable { base, limit, ..Default::default() })
}

fn store_table(exec: &mut Exec, instruction: &Instruction, table: kvm_dtable) -> Result<()> {
    exec.check_umip()?;
    let linear = exec.memory(instruction, 6, Use::Write)?;
    let base = if is_short(instruction) { table.base as u32 & 0xff_ffff } else { table.base as u32 };
    exec.store(linear, 2, table.limit.into());
    exec.store(linear.wrapping_add(2), 4, base);
    Ok(())
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
    if descriptor.is_present() { Ok(descriptor) } else { Err(Fault::not_present(descriptor.error())) }
}

fn lldt(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    const LDT: u8 = 2;
    exec.need_protected_mode()?;
    exec.need_cpl_0()?;
    let selector = exec.value(instruction, 0, 2)? as u16;
    exec.state.sregs.ldt = if selector & !RPL == 0 {
        kvm_segment { selector, unusable: 1, ..Default::default() }
    } else {
        system_descriptor(exec, selector, &[LDT])?.segment()
    };
    Ok(())
}

fn ltr(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    const FREE_TSS: [u8; 2] = [1, 9];
    exec.need_protected_mode()?;
    exec.need_cpl_0()?;
    let selector = exec.value(instruction, 0, 2)? as u16;
    if selector & !RPL == 0 {
        return Err(Fault::protection(0));
    }
    let mut descriptor = system_descriptor(exec, selector, &FREE_TSS)?;
    exec.mark_busy(&mut descriptor);
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
    exec.set(place, width, selector.into());
    Ok(())
}

/// The descriptor that an instruction asks about, if the program may see it.
fn visible(exec: &mut Exec, selector: u16) -> Result<Option<Descriptor>> {
    if selector & !RPL == 0 {
        return Ok(None);
    }
    let Some(descriptor) = exec.descriptor(selector)? else { return Ok(None) };
    let guarded = !(descriptor.is_code() && descriptor.is_conforming());
    let needed = exec.cpl().max((selector & RPL) as u8);
    Ok((!guarded || descriptor.dpl() >= needed).then_some(descriptor))
}

fn verify(exec: &mut Exec, instruction: &Instruction, allows: fn(&Descriptor) -> bool) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = exec.value(instruction, 0, 2)? as u16;
    let descriptor = visible(exec, selector)?;
    exec.state.regs.put(ZF, descriptor.is_some_and(|descriptor| allows(&descriptor)));
    Ok(())
}

/// The selector that `lar` and `lsl` ask about: of a register the low 2 bytes, of memory 2 bytes.
fn asked_selector(exec: &mut Exec, instruction: &Instruction) -> Result<u16> {
    let width = width(instruction, 1).min(4);
    match instruction.op1_kind() {
        OpKind::Memory => exec.value(instruction, 1, 2).map(|value| value as u16),
        _ => exec.value(instruction, 1, width).map(|value| value as u16),
    }
}

fn lar(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = asked_selector(exec, instruction)?;
    let known = |descriptor: &Descriptor| {
        descriptor.is_memory() || matches!(descriptor.kind(), 1 | 2 | 3 | 4 | 5 | 9 | 0xb | 0xc)
    };
    let descriptor = visible(exec, selector)?.filter(known);
    exec.state.regs.put(ZF, descriptor.is_some());
    if let Some(descriptor) = descriptor {
        let rights = (descriptor.bits >> 32) as u32 & 0x00f0_ff00;
        exec.state.regs.set(instruction.op0_register(), rights);
    }
    Ok(())
}

fn lsl(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let selector = asked_selector(exec, instruction)?;
    let known = |descriptor: &Descriptor| descriptor.is_memory() || matches!(descriptor.kind(), 1 | 2 | 3 | 9 | 0xb);
    let descriptor = visible(exec, selector)?.filter(known);
    exec.state.regs.put(ZF, descriptor.is_some());
    if let Some(descriptor) = descriptor {
        exec.state.regs.set(instruction.op0_register(), descriptor.limit());
    }
    Ok(())
}

/// The destination's privilege is made no higher than the source's.
fn arpl(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_protected_mode()?;
    let source = exec.value(instruction, 1, 2)? as u16 & RPL;
    let place = exec.place(instruction, 0, 2, Use::Write)?;
    let selector = exec.get(place, 2)? as u16;
    let raises = selector & RPL < source;
    exec.state.regs.put(ZF, raises);
    if raises {
        exec.set(place, 2, u32::from(selector & !RPL | source));
    }
    Ok(())
}
