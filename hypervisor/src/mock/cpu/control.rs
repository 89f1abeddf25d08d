//! Control and debug registers, and the switch of modes.

use iced_x86::{Instruction, Mnemonic, Register};
use kvm_bindings::kvm_sregs;

use super::fault::{DEBUG, Exception, Fault, Result};
use super::operands::{Use, width};
use super::{Exec, Handler, identify};

/// CR0: protected mode.
pub(super) const PE: u64 = 1;
/// CR0: an `fpu` task switch is due.
const TS: u64 = 1 << 3;
/// CR0: the extension type, always set.
const ET: u64 = 1 << 4;
/// CR0: not write-through.
const NW: u64 = 1 << 29;
/// CR0: caches off.
const CD: u64 = 1 << 30;
/// CR0: paging.
const PG: u64 = 1 << 31;
/// All bits of CR0 there are: PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG. KVM drops others.
const CR0_BITS: u64 = 0xe005_003f;

/// CR4: time stamps for privileged code only.
pub(super) const CR4_TSD: u64 = 1 << 2;
/// CR4: debugging extensions.
const CR4_DE: u64 = 1 << 3;
/// CR4: what tells of descriptor tables is for privileged code only.
pub(super) const CR4_UMIP: u64 = 1 << 11;
/// CR4: `xsave` is there to be used.
pub(super) const CR4_OSXSAVE: u64 = 1 << 18;
/// Bits of CR4 that need no leave of CPUID: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
const CR4_FREE: u64 = 0x7ff;

/// EFER: 64-bit mode is active.
const EFER_LMA: u64 = 1 << 10;

/// DR6: the trap of a single step.
pub(super) const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR6: a debug register was touched while DR7 guards them.
const DR6_GUARDED: u64 = 1 << 13;
/// DR6: bits that can be written, and those that are always set.
const DR6_BITS: (u64, u64) = (0xe00f, 0xffff_0ff0);
/// DR7: the same.
const DR7_BITS: (u64, u64) = (0xffff_2bff, 0x400);
/// DR7: guard the debug registers.
const DR7_GUARD: u64 = 1 << 13;

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Smsw => smsw,
        Mnemonic::Lmsw => lmsw,
        Mnemonic::Clts => |exec, _| clts(exec),
        _ => return None,
    };
    Some(handler)
}

/// Paging and 64-bit mode, of which the interpreter has no model.
pub(super) fn unknown_mode(sregs: &kvm_sregs) -> Option<&'static str> {
    if sregs.cr0 & PG != 0 {
        Some("(paging)")
    } else if sregs.efer & EFER_LMA != 0 {
        Some("(64-bit mode)")
    } else {
        None
    }
}

/// Whether `mov` of this register is for here.
pub(super) fn is_special(register: Register) -> bool {
    register.is_cr() || register.is_dr()
}

/// `mov` to and from control and debug registers, 4 bytes always.
pub(super) fn mov(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.need_cpl_0()?;
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    if is_special(to) {
        let value = u64::from(exec.state.regs.get(from));
        if to.is_cr() { exec.set_control(to, value) } else { exec.set_debug(to, value) }
    } else {
        let value = if from.is_cr() { exec.control(from)? } else { exec.debug(from)? };
        exec.state.regs.set(to, value as u32);
        Ok(())
    }
}

impl Exec<'_> {
    fn control(&self, register: Register) -> Result<u64> {
        let sregs = &self.state.sregs;
        match register {
            Register::CR0 => Ok(sregs.cr0),
            Register::CR2 => Ok(sregs.cr2),
            Register::CR3 => Ok(sregs.cr3),
            Register::CR4 => Ok(sregs.cr4),
            _ => Err(Fault::Unknown),
        }
    }

    fn set_control(&mut self, register: Register, value: u64) -> Result<()> {
        let sregs = &mut self.state.sregs;
        match register {
            Register::CR0 => return self.set_cr0(value),
            Register::CR2 => sregs.cr2 = value,
            Register::CR3 => sregs.cr3 = value,
            Register::CR4 => {
                let umip = if identify::has_umip(&self.state.cpuid) { CR4_UMIP } else { 0 };
                let xsave = if identify::has_xsave(&self.state.cpuid) { CR4_OSXSAVE } else { 0 };
                if value & !(CR4_FREE | umip | xsave) != 0 {
                    return Err(Fault::protection(0));
                }
                self.state.sregs.cr4 = value;
            }
            _ => return Err(Fault::Unknown),
        }
        Ok(())
    }

    /// Segments stay as they are when the mode changes, until they are loaded.
    fn set_cr0(&mut self, value: u64) -> Result<()> {
        let value = (value | ET) & CR0_BITS;
        let impossible = value & (NW | CD) == NW || value & (PG | PE) == PG;
        if impossible {
            return Err(Fault::protection(0));
        }
        self.state.sregs.cr0 = value;
        Ok(())
    }

    /// The number of a debug register, 0 to 7 without 4 and 5, which stand for 6 and 7 unless CR4 forbids it.
    fn debug_number(&mut self, register: Register) -> Result<usize> {
        let number = register as usize - Register::DR0 as usize;
        if matches!(number, 4 | 5) && self.state.sregs.cr4 & CR4_DE != 0 || number > 7 {
            return Err(Fault::invalid_opcode());
        }
        if self.state.debug_regs.dr7 & DR7_GUARD != 0 {
            self.state.debug_regs.dr6 |= DR6_GUARDED;
            self.state.debug_regs.dr7 &= !DR7_GUARD;
            return Err(Fault::Exception(Exception { vector: DEBUG, error: None }));
        }
        Ok(if matches!(number, 4 | 5) { number + 2 } else { number })
    }

    fn debug(&mut self, register: Register) -> Result<u64> {
        let number = self.debug_number(register)?;
        let debug = &self.state.debug_regs;
        Ok(match number {
            6 => debug.dr6,
            7 => debug.dr7,
            number => debug.db.get(number).copied().unwrap_or_default(),
        })
    }

    fn set_debug(&mut self, register: Register, value: u64) -> Result<()> {
        let number = self.debug_number(register)?;
        let debug = &mut self.state.debug_regs;
        match number {
            6 => debug.dr6 = value & DR6_BITS.0 | DR6_BITS.1,
            7 => debug.dr7 = value & DR7_BITS.0 | DR7_BITS.1,
            number => {
                if let Some(register) = debug.db.get_mut(number) {
                    *register = value;
                }
            }
        }
        Ok(())
    }
}

/// A register gets as much of CR0 as it has room for, memory 2 bytes.
fn smsw(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.check_umip()?;
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let value = exec.state.sregs.cr0 as u32;
    exec.set(place, width, value);
    Ok(())
}

/// PE can be set so, but not cleared.
fn lmsw(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    const PE_MP_EM_TS: u64 = 0xf;
    exec.need_cpl_0()?;
    let value = u64::from(exec.value(instruction, 0, 2)?);
    let cr0 = exec.state.sregs.cr0;
    exec.set_cr0(cr0 & !(PE_MP_EM_TS & !PE) | value & PE_MP_EM_TS)
}

fn clts(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    exec.state.sregs.cr0 &= !TS;
    Ok(())
}
