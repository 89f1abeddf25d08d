//! Control registers, EFER, and the switch of modes (Intel SDM volume 3, sections 2.5 and 11.8.5).

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::exception::{Fault, Result};
use super::super::features::Features;
use super::super::mode::{
    CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_DE, CR4_FSGSBASE,
    CR4_MCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE, CR4_PAE, CR4_PCE, CR4_PCIDE, CR4_PGE, CR4_PSE, CR4_PVI, CR4_SMAP,
    CR4_SMEP, CR4_TSD, CR4_UMIP, CR4_VME, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE,
};
use super::super::operands::{Use, width};
use super::super::{Exec, Handler};
use super::debug_regs;

/// All bits of CR0 there are. KVM drops others.
pub(in crate::mock) const CR0_BITS: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
/// Bits of CR4 that need no leave of CPUID, as in KVM.
const CR4_FREE: u64 = CR4_VME
    | CR4_PVI
    | CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_MCE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT;
/// Bits of CR4 that CPUID offers.
const CR4_OFFERED: [(u64, u64); 6] = [
    (CR4_UMIP, Features::UMIP),
    (CR4_FSGSBASE, Features::FSGSBASE),
    (CR4_PCIDE, Features::PCID),
    (CR4_OSXSAVE, Features::XSAVE),
    (CR4_SMEP, Features::SMEP),
    (CR4_SMAP, Features::SMAP),
];
/// Bits of CR4 that change what translations mean.
const CR4_TRANSLATION: u64 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
/// CR3: with process-context identifiers, that nothing needs to be flushed.
const CR3_NO_FLUSH: u64 = 1 << 63;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Smsw => smsw,
        Mnemonic::Lmsw => lmsw,
        Mnemonic::Clts => |exec, _| clts(exec),
        Mnemonic::Clac => |exec, _| set_ac(exec, false),
        Mnemonic::Stac => |exec, _| set_ac(exec, true),
        _ => return None,
    };
    Some(handler)
}

/// Bits of CR4 that may be set.
pub(in crate::mock) fn cr4_bits(features: Features) -> u64 {
    CR4_OFFERED.iter().filter(|row| features.has(row.1)).fold(CR4_FREE, |bits, row| bits | row.0)
}

/// Bits of EFER that may be set.
pub(in crate::mock) fn efer_bits(features: Features) -> u64 {
    [(EFER_SCE, Features::SYSCALL), (EFER_LME | EFER_LMA, Features::LM), (EFER_NXE, Features::NX)]
        .iter()
        .filter(|row| features.has(row.1))
        .fold(0, |bits, row| bits | row.0)
}

/// Whether `mov` of this register is for here.
pub(super) fn is_special(register: Register) -> bool {
    register.is_cr() || register.is_dr()
}

/// `mov` to and from control and debug registers, 4 bytes always, in 64-bit code 8.
pub(super) fn mov(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let special = if is_special(to) { to } else { from };
    let is_known = special.is_dr()
        || matches!(special, Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4)
        || special == Register::CR8;
    if !is_known {
        return Err(Fault::invalid_opcode());
    }
    exec.need_cpl_0()?;
    if is_special(to) {
        let value = exec.state.regs.get(from);
        if to.is_cr() { exec.set_control(to, value) } else { debug_regs::set(exec, to, value) }
    } else {
        let value = if from.is_cr() { exec.control(from) } else { debug_regs::get(exec, from)? };
        exec.state.regs.set(to, value);
        Ok(())
    }
}

impl Exec<'_> {
    fn control(&self, register: Register) -> u64 {
        let sregs = &self.state.sregs;
        match register {
            Register::CR0 => sregs.cr0,
            Register::CR2 => sregs.cr2,
            Register::CR3 => sregs.cr3,
            Register::CR4 => sregs.cr4,
            _ => self.bus.intake.task_priority().into(),
        }
    }

    fn set_control(&mut self, register: Register, value: u64) -> Result<()> {
        match register {
            Register::CR0 => return self.set_cr0(value),
            Register::CR2 => self.state.sregs.cr2 = value,
            Register::CR3 => return self.set_cr3(value),
            Register::CR4 => return self.set_cr4(value),
            _ if value > 0xf => return Err(Fault::protection(0)),
            _ => self.bus.intake.set_task_priority(value as u8),
        }
        Ok(())
    }

    /// Segments stay as they are when the mode changes, until they are loaded.
    fn set_cr0(&mut self, value: u64) -> Result<()> {
        let sregs = &self.state.sregs;
        let (old, cr4, efer) = (sregs.cr0, sregs.cr4, sregs.efer);
        if value >> 32 != 0 {
            return Err(Fault::protection(0));
        }
        let value = (value | CR0_ET) & CR0_BITS;
        let impossible = value & (CR0_NW | CR0_CD) == CR0_NW || value & (CR0_PG | CR0_PE) == CR0_PG;
        let (begins, ends) = (value & !old & CR0_PG != 0, old & !value & CR0_PG != 0);
        let begins_long = begins && efer & EFER_LME != 0;
        let cannot_begin = begins_long && (cr4 & CR4_PAE == 0 || sregs.cs.l != 0);
        let cannot_end = ends && (self.is_64_bit() || cr4 & CR4_PCIDE != 0);
        if impossible || cannot_begin || cannot_end {
            return Err(Fault::protection(0));
        }
        if begins && !begins_long && cr4 & CR4_PAE != 0 {
            self.load_pdptrs(self.state.sregs.cr3)?;
        }
        let sregs = &mut self.state.sregs;
        sregs.cr0 = value;
        if begins_long {
            sregs.efer |= EFER_LMA;
        } else if ends {
            sregs.efer &= !EFER_LMA;
        }
        if (old ^ value) & (CR0_PG | CR0_WP | CR0_PE) != 0 {
            self.bus.tlb.flush_all();
        }
        self.state.refresh_mode();
        Ok(())
    }

    pub(in super::super) fn set_cr3(&mut self, value: u64) -> Result<()> {
        let sregs = &self.state.sregs;
        if self.state.mode.is_long {
            let no_flush = if sregs.cr4 & CR4_PCIDE != 0 { CR3_NO_FLUSH } else { 0 };
            let value = value & !no_flush;
            if value & !self.state.features.physical_mask() != 0 {
                return Err(Fault::protection(0));
            }
            self.state.sregs.cr3 = value;
        } else {
            if self.state.mode.is_paged && sregs.cr4 & CR4_PAE != 0 {
                self.load_pdptrs(value)?;
            }
            self.state.sregs.cr3 = value;
        }
        // Without identifiers in its entries the TLB has nothing that might stay.
        self.bus.tlb.flush();
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Result<()> {
        let sregs = &self.state.sregs;
        let (old, cr3) = (sregs.cr4, sregs.cr3);
        let begins_pcid = value & !old & CR4_PCIDE != 0;
        let is_long = self.state.mode.is_long;
        if value & !cr4_bits(self.state.features) != 0
            || is_long && value & CR4_PAE == 0
            || begins_pcid && (!is_long || cr3 & 0xfff != 0)
        {
            return Err(Fault::protection(0));
        }
        let loads_pdptrs = self.state.mode.is_paged && !is_long && value & CR4_PAE != 0;
        if loads_pdptrs && (old ^ value) & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) != 0 {
            self.load_pdptrs(cr3)?;
        }
        self.state.sregs.cr4 = value;
        if (old ^ value) & CR4_TRANSLATION != 0 {
            self.bus.tlb.flush_all();
        }
        self.state.refresh_mode();
        Ok(())
    }
}

/// A register gets as much of CR0 as it has room for, memory 2 bytes.
fn smsw(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    exec.check_umip()?;
    let width = width(instruction, 0);
    let place = exec.place(instruction, 0, width, Use::Write)?;
    let value = exec.state.sregs.cr0;
    exec.set(place, width, value)
}

/// PE can be set so, but not cleared.
fn lmsw(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    const PE_MP_EM_TS: u64 = 0xf;
    exec.need_cpl_0()?;
    let value = exec.value(instruction, 0, 2)?;
    let cr0 = exec.state.sregs.cr0;
    exec.set_cr0(cr0 & !(PE_MP_EM_TS & !CR0_PE) | value & PE_MP_EM_TS)
}

fn clts(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    exec.state.sregs.cr0 &= !CR0_TS;
    Ok(())
}

/// `clac` and `stac` are #UD, not #GP, for other privilege levels than 0.
fn set_ac(exec: &mut Exec, on: bool) -> Result<()> {
    if exec.cpl() != 0 {
        return Err(Fault::invalid_opcode());
    }
    exec.state.regs.put(super::super::flags::AC, on);
    exec.state.refresh_mode();
    Ok(())
}
