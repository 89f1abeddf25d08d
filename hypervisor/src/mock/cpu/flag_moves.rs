//! Single flags, and the low byte of them in AH.

use iced_x86::Mnemonic;
use kvm_bindings::KVM_X86_SHADOW_INT_STI;

use super::fault::{Fault, Result};
use super::flags::{AF, CF, DF, FIXED, IF, PF, SF, ZF};
use super::regs::AX;
use super::{Exec, Handler};

/// Those in AH.
const IN_AH: u64 = CF | PF | AF | ZF | SF;

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
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

fn cli(exec: &mut Exec) -> Result<()> {
    if !exec.has_io_privilege() {
        return Err(Fault::protection(0));
    }
    put(exec, IF, false)
}

/// Interrupts stay away from the one instruction behind it.
fn sti(exec: &mut Exec) -> Result<()> {
    if !exec.has_io_privilege() {
        return Err(Fault::protection(0));
    }
    exec.shadow = KVM_X86_SHADOW_INT_STI as u8;
    put(exec, IF, true)
}

fn lahf(exec: &mut Exec) -> Result<()> {
    let flags = (exec.state.regs.rflags & IN_AH | FIXED) as u32;
    let low = exec.state.regs.low(AX, 1);
    exec.state.regs.set_low(AX, 2, flags << 8 | low);
    Ok(())
}

fn sahf(exec: &mut Exec) -> Result<()> {
    let flags = exec.state.regs.low(AX, 2) >> 8;
    exec.state.regs.replace(IN_AH, flags.into());
    Ok(())
}

/// Undocumented: AL is filled with the carry.
fn salc(exec: &mut Exec) -> Result<()> {
    let value = if exec.state.regs.has(CF) { 0xff } else { 0 };
    exec.state.regs.set_low(AX, 1, value);
    Ok(())
}
