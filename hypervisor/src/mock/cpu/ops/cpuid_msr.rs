//! `cpuid`, MSRs, the time stamp and the performance counters.

use iced_x86::{Instruction, Mnemonic};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::super::exception::{Fault, Result};
use super::super::mode::{CR4_OSXSAVE, CR4_TSD, EFER_NXE};
use super::super::regs::{AX, BX, CX, DX};
use super::super::{Exec, Handler};

/// `IA32_APIC_BASE`: the local APIC is on.
const APIC_ENABLED: u64 = 1 << 11;
/// Leaf 1, EDX: there is a local APIC.
const FEATURE_APIC: u32 = 1 << 9;
/// Leaf 1, ECX: `xsave` was turned on in CR4.
const FEATURE_OSXSAVE: u32 = 1 << 27;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Cpuid => |exec, _| cpuid(exec),
        Mnemonic::Rdmsr => |exec, _| rdmsr(exec),
        Mnemonic::Wrmsr => |exec, _| wrmsr(exec),
        Mnemonic::Rdtsc => |exec, _| rdtsc(exec),
        Mnemonic::Rdtscp => |exec, _| rdtscp(exec),
        Mnemonic::Rdpid => rdpid,
        // There is no counter.
        Mnemonic::Rdpmc => |_, _| Err(Fault::protection(0)),
        _ => return None,
    };
    Some(handler)
}

fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    entries.iter().find(|entry| {
        let by_index = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        entry.function == function && (!by_index || entry.index == index)
    })
}

/// The leaf that is reported: beyond the last of its range, as on Intel's processors, that of the highest basic one.
fn reported(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    if let Some(exact) = leaf(entries, function, index) {
        return Some(exact);
    }
    let basic = leaf(entries, 0, 0)?;
    let range = match function {
        0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => function & 0x8000_0000,
    };
    if leaf(entries, range, 0).is_some_and(|first| function <= first.eax) {
        return None;
    }
    leaf(entries, basic.eax, index)
}

fn cpuid(exec: &mut Exec) -> Result<()> {
    let (function, index) = (exec.state.regs.low(AX, 4) as u32, exec.state.regs.low(CX, 4) as u32);
    let mut leaf = reported(&exec.state.cpuid, function, index).copied().unwrap_or_default();
    if leaf.function == 1 {
        let apic = exec.state.sregs.apic_base & APIC_ENABLED != 0;
        let xsave = exec.state.sregs.cr4 & CR4_OSXSAVE != 0;
        leaf.edx = if apic { leaf.edx } else { leaf.edx & !FEATURE_APIC };
        leaf.ecx = leaf.ecx & !FEATURE_OSXSAVE | if xsave { FEATURE_OSXSAVE } else { 0 };
    }
    for (register, value) in [(AX, leaf.eax), (BX, leaf.ebx), (CX, leaf.ecx), (DX, leaf.edx)] {
        exec.state.regs.set_low(register, 4, value.into());
    }
    Ok(())
}

impl Exec<'_> {
    fn set_dx_ax(&mut self, value: u64) {
        self.state.regs.set_low(AX, 4, value);
        self.state.regs.set_low(DX, 4, value >> 32);
    }

    /// An MSR; #GP(0) where there is no such one.
    fn msr(&self, index: u32) -> Result<u64> {
        self.state.msr(index, &self.bus.platform.irqs, self.bus.intake, true).ok_or(Fault::protection(0))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        let efer = self.state.sregs.efer;
        let set = self.state.set_msr(index, value, &self.bus.platform.irqs, self.bus.intake, true);
        set.ok_or(Fault::protection(0))?;
        if (efer ^ self.state.sregs.efer) & EFER_NXE != 0 {
            self.bus.tlb.flush_all();
        }
        self.state.refresh_mode();
        Ok(())
    }
}

fn rdmsr(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    let value = exec.msr(exec.state.regs.low(CX, 4) as u32)?;
    exec.set_dx_ax(value);
    Ok(())
}

fn wrmsr(exec: &mut Exec) -> Result<()> {
    exec.need_cpl_0()?;
    let regs = &exec.state.regs;
    exec.set_msr(regs.low(CX, 4) as u32, regs.low(DX, 4) << 32 | regs.low(AX, 4))
}

fn rdtsc(exec: &mut Exec) -> Result<()> {
    if exec.state.sregs.cr4 & CR4_TSD != 0 {
        exec.need_cpl_0()?;
    }
    let value = exec.bus.platform.irqs.tsc(exec.bus.intake);
    exec.set_dx_ax(value);
    Ok(())
}

fn rdtscp(exec: &mut Exec) -> Result<()> {
    rdtsc(exec)?;
    let value = exec.state.msrs.tsc_aux;
    exec.state.regs.set_low(CX, 4, value);
    Ok(())
}

fn rdpid(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let value = exec.state.msrs.tsc_aux;
    exec.state.regs.set(instruction.op0_register(), value);
    Ok(())
}
