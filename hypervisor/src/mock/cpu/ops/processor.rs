//! The processor itself: `hlt`, caches, the TLB, `monitor` and `mwait`.

use iced_x86::{Instruction, Mnemonic};
use kvm_bindings::KVM_MP_STATE_HALTED;

use super::super::exception::{Fault, Result};
use super::super::mode::CR4_PCIDE;
use super::super::operands::Use;
use super::super::segments::{Seg, is_canonical};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Hlt => |exec, _| hlt(exec),
        Mnemonic::Invd | Mnemonic::Wbinvd => |exec, _| exec.need_cpl_0(),
        Mnemonic::Invlpg => invlpg,
        Mnemonic::Invpcid => invpcid,
        // As in KVM, no-ops of privileged code where they are offered.
        Mnemonic::Monitor | Mnemonic::Mwait => |exec, _| match exec.cpl() {
            0 => Ok(()),
            _ => Err(Fault::invalid_opcode()),
        },
        _ => return None,
    };
    Some(handler)
}

/// The vCPU waits for an interrupt.
fn hlt(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    exec.state.mp_state.mp_state = KVM_MP_STATE_HALTED;
    Ok(())
}

fn invlpg(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_cpl_0()?;
    let base = match Seg::named(instruction.memory_segment()) {
        seg @ (Seg::Fs | Seg::Gs) => exec.segment(seg).base,
        _ if exec.is_64_bit() => 0,
        seg => exec.segment(seg).base,
    };
    let linear = base.wrapping_add(exec.offset(instruction)) & exec.state.mode.linear_mask();
    exec.bus.tlb.flush_page(linear);
    Ok(())
}

/// The TLB's entries have no identifiers of contexts, so more is flushed than is asked for.
fn invpcid(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    if exec.state.mode.is_virtual_8086 {
        return Err(Fault::protection(0));
    }
    exec.need_cpl_0()?;
    let kind = exec.state.regs.get(instruction.op0_register());
    let linear = exec.memory(instruction, 16, Use::Read)?;
    let descriptor = exec.load_wide(linear, 16)?;
    let (context, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let names_one = kind < 2;
    if context >> 12 != 0 || names_one && context != 0 && exec.state.sregs.cr4 & CR4_PCIDE == 0 {
        return Err(Fault::protection(0));
    }
    match kind {
        0 if is_canonical(address) => exec.bus.tlb.flush_page(address),
        1 | 3 => exec.bus.tlb.flush(),
        2 => exec.bus.tlb.flush_all(),
        _ => return Err(Fault::protection(0)),
    }
    Ok(())
}
