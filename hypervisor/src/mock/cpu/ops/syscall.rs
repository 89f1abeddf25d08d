//! Fast system calls, and the bases of FS and GS (Intel SDM volume 2, "SYSCALL" and so on).

use iced_x86::{Code, Instruction, Mnemonic};
use kvm_bindings::kvm_segment;

use super::super::exception::{Fault, Result};
use super::super::flags::{FIXED, IF, RF, VM};
use super::super::mode::{CR4_FSGSBASE, EFER_SCE};
use super::super::regs::{CX, DX, R11, SP, register_width};
use super::super::segments::{Seg, is_canonical};
use super::super::{Exec, Handler};

/// The flags that `sysret` takes from R11.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Syscall => |exec, _| syscall(exec),
        Mnemonic::Sysret | Mnemonic::Sysretq => sysret,
        Mnemonic::Sysenter => |exec, _| sysenter(exec),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => sysexit,
        Mnemonic::Swapgs => |exec, _| swapgs(exec),
        Mnemonic::Rdfsbase => |exec, instruction| read_base(exec, instruction, Seg::Fs),
        Mnemonic::Rdgsbase => |exec, instruction| read_base(exec, instruction, Seg::Gs),
        Mnemonic::Wrfsbase => |exec, instruction| write_base(exec, instruction, Seg::Fs),
        Mnemonic::Wrgsbase => |exec, instruction| write_base(exec, instruction, Seg::Gs),
        _ => return None,
    };
    Some(handler)
}

/// The code sizes that these instructions lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Bits32,
    Bits64,
}

impl Exec<'_> {
    /// Flat segments of a privilege level, without a look at descriptors.
    fn set_flat_segments(&mut self, cs: u64, ss: u64, dpl: u8, size: Size) {
        let flat = kvm_segment { limit: u32::MAX, present: 1, dpl, s: 1, g: 1, ..Default::default() };
        let selector = |selector: u64| selector as u16 & !3 | u16::from(dpl);
        let (l, db) = if size == Size::Bits64 { (1, 0) } else { (0, 1) };
        self.set_segment(Seg::Ss, kvm_segment { selector: selector(ss), type_: 3, db: 1, ..flat });
        self.set_segment(Seg::Cs, kvm_segment { selector: selector(cs), type_: 11, l, db, ..flat });
    }

    fn has_syscall(&self) -> bool {
        self.state.sregs.efer & EFER_SCE != 0 && self.is_64_bit()
    }
}

fn syscall(exec: &mut Exec) -> Result<()> {
    if !exec.has_syscall() {
        return Err(Fault::invalid_opcode());
    }
    let (star, target, mask) = (exec.state.msrs.star, exec.state.msrs.lstar, exec.state.msrs.fmask);
    let regs = &mut exec.state.regs;
    regs.set_low(CX, 8, regs.rip);
    regs.set_low(R11, 8, regs.rflags & !RF);
    regs.rip = target;
    regs.rflags = regs.rflags & !(mask | RF) | FIXED;
    let cs = star >> 32 & 0xfffc;
    exec.set_flat_segments(cs, cs + 8, 0, Size::Bits64);
    Ok(())
}

fn sysret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    if !exec.has_syscall() {
        return Err(Fault::invalid_opcode());
    }
    exec.need_cpl_0()?;
    let star = exec.state.msrs.star >> 48;
    let size = if instruction.code() == Code::Sysretq { Size::Bits64 } else { Size::Bits32 };
    let (width, cs) = if size == Size::Bits64 { (8, star + 16) } else { (4, star) };
    let target = exec.state.regs.low(CX, width);
    if !is_canonical(target) {
        return Err(Fault::protection(0));
    }
    let regs = &mut exec.state.regs;
    regs.rip = target;
    regs.rflags = regs.low(R11, 8) & SYSRET_FLAGS | FIXED;
    exec.set_flat_segments(cs, star + 8, 3, size);
    Ok(())
}

fn sysenter(exec: &mut Exec) -> Result<()> {
    let cs = exec.state.msrs.sysenter_cs;
    let has_pe = exec.state.sregs.cr0 & super::super::mode::CR0_PE != 0;
    if !has_pe || cs & 0xfffc == 0 {
        return Err(Fault::protection(0));
    }
    let is_long = exec.state.mode.is_long;
    let (target, stack) = (exec.state.msrs.sysenter_eip, exec.state.msrs.sysenter_esp);
    exec.state.regs.put(VM | IF | RF, false);
    let (size, width) = if is_long { (Size::Bits64, 8) } else { (Size::Bits32, 4) };
    exec.set_flat_segments(cs, cs + 8, 0, size);
    exec.state.regs.rip = target & super::super::regs::mask(width);
    exec.state.regs.set_low(SP, width, stack);
    Ok(())
}

fn sysexit(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let cs = exec.state.msrs.sysenter_cs;
    if !exec.is_protected() || exec.cpl() != 0 || cs & 0xfffc == 0 {
        return Err(Fault::protection(0));
    }
    let size = if instruction.code() == Code::Sysexitq { Size::Bits64 } else { Size::Bits32 };
    let (width, cs) = if size == Size::Bits64 { (8, cs + 32) } else { (4, cs + 16) };
    let regs = &exec.state.regs;
    let (target, stack) = (regs.low(DX, width), regs.low(CX, width));
    if !is_canonical(target) || !is_canonical(stack) {
        return Err(Fault::protection(0));
    }
    exec.set_flat_segments(cs, cs + 8, 3, size);
    exec.state.regs.rip = target;
    exec.state.regs.set_low(SP, width, stack);
    Ok(())
}

fn swapgs(exec: &mut Exec) -> Result<()> {
    if !exec.is_64_bit() {
        return Err(Fault::invalid_opcode());
    }
    exec.need_cpl_0()?;
    let state = &mut *exec.state;
    std::mem::swap(&mut state.msrs.kernel_gs_base, &mut state.sregs.gs.base);
    exec.state.refresh_mode();
    Ok(())
}

fn check_bases(exec: &Exec) -> Result<()> {
    let allowed = exec.is_64_bit() && exec.state.sregs.cr4 & CR4_FSGSBASE != 0;
    if allowed { Ok(()) } else { Err(Fault::invalid_opcode()) }
}

fn read_base(exec: &mut Exec, instruction: &Instruction, seg: Seg) -> Result<()> {
    check_bases(exec)?;
    let base = exec.segment(seg).base;
    exec.state.regs.set(instruction.op0_register(), base);
    Ok(())
}

fn write_base(exec: &mut Exec, instruction: &Instruction, seg: Seg) -> Result<()> {
    check_bases(exec)?;
    let base = exec.state.regs.get(instruction.op0_register());
    if register_width(instruction.op0_register()) == 8 && !is_canonical(base) {
        return Err(Fault::protection(0));
    }
    let segment = kvm_segment { base, ..*exec.segment(seg) };
    exec.set_segment(seg, segment);
    Ok(())
}
