//! Single flags, and the low byte of them in AH.

use iced_x86::Mnemonic;
use kvm_bindings::KVM_X86_SHADOW_INT_STI;

use super::super::exception::{Fault, Result};
use super::super::features::Features;
use super::super::flags::{AF, CF, DF, FIXED, IF, PF, SF, VIF, VIP, ZF};
use super::super::mode::{CR4_PVI, CR4_VME};
use super::super::regs::AX;
use super::super::{Exec, Handler};

/// Those in AH.
const IN_AH: u64 = CF | PF | AF | ZF | SF;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Clc => |exec, _| put(exec, CF, false),
        Mnemonic::Stc => |exec, _| put(exec, CF, true),
        Mnemonic::Cmc => |exec, _| put(exec, CF, !exec.state.regs.has(CF)),
        Mnemonic::Cld => |exec, _| put(exec, DF, false),
        Mnemonic::Std => |exec, _| put(exec, DF, true),
        Mnemonic::Cli => |exec, _| cli(exec),
        Mnemonic::Sti => |exec, _| sti(exec),
        Mnemonic::Lahf => |exec, _| lahf(exec),
        Mnemonic::Sahf => |exec, _| sahf(exec),
        Mnemonic::Salc => |exec, _| salc(exec),
        _ => return None,
    };
    Some(handler)
}

fn put(exec: &mut Exec, flag: u64, on: bool) -> Result<()> {
    exec.state.regs.put(flag, on);
    Ok(())
}

/// Whether `cli` and `sti` change VIF in place of IF: with CR4.VME in virtual 8086 mode, with CR4.PVI in user code (Intel SDM
/// volume 2, "CLI").
fn is_virtual(exec: &Exec) -> bool {
    let cr4 = exec.state.sregs.cr4;
    let protected = exec.is_protected() && exec.cpl() == 3 && cr4 & CR4_PVI != 0;
    exec.state.mode.is_virtual_8086 && cr4 & CR4_VME != 0 || protected
}

fn cli(exec: &mut Exec) -> Result<()> {
    match exec.has_io_privilege() {
        true => put(exec, IF, false),
        false if is_virtual(exec) => put(exec, VIF, false),
        false => Err(Fault::protection(0)),
    }
}

/// Interrupts stay away from the one instruction after it.
fn sti(exec: &mut Exec) -> Result<()> {
    if exec.has_io_privilege() {
        exec.shadow = KVM_X86_SHADOW_INT_STI as u8;
        return put(exec, IF, true);
    }
    if is_virtual(exec) && !exec.state.regs.has(VIP) { put(exec, VIF, true) } else { Err(Fault::protection(0)) }
}

/// 64-bit code has these two only where CPUID says so.
fn check_ah(exec: &Exec) -> Result<()> {
    let missing = exec.is_64_bit() && !exec.state.features.has(Features::LAHF64);
    if missing { Err(Fault::invalid_opcode()) } else { Ok(()) }
}

fn lahf(exec: &mut Exec) -> Result<()> {
    check_ah(exec)?;
    let flags = exec.state.regs.rflags & IN_AH | FIXED;
    let low = exec.state.regs.low(AX, 1);
    exec.state.regs.set_low(AX, 2, flags << 8 | low);
    Ok(())
}

fn sahf(exec: &mut Exec) -> Result<()> {
    check_ah(exec)?;
    let flags = exec.state.regs.low(AX, 2) >> 8;
    exec.state.regs.replace(IN_AH, flags);
    Ok(())
}

/// Undocumented: AL is filled with the carry.
fn salc(exec: &mut Exec) -> Result<()> {
    let value = if exec.state.regs.has(CF) { 0xff } else { 0 };
    exec.state.regs.set_low(AX, 1, value);
    Ok(())
}
