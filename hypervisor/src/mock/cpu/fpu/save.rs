//! `fxsave`, `xsave` and their counterparts, and MXCSR by itself.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::super::exception::{Fault, Result};
use super::super::mode::CR4_OSXSAVE;
use super::super::operands::Use;
use super::super::{Exec, Handler};
use super::check::{Unit, ready};
use super::images::{self, FXSAVE, MXCSR, XMM};
use crate::mock::cpuid;

/// Components of XCR0: x87, and XMM registers with MXCSR.
const X87: u64 = 1;
const SSE: u64 = 1 << 1;
/// Where x87's part of an image ends, which MXCSR lies in.
const ST: usize = 32;
/// Bytes of the header of an `xsave` area.
const HEADER: usize = 64;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match mnemonic {
        Ldmxcsr => ldmxcsr,
        Stmxcsr => stmxcsr,
        Fxsave | Fxsave64 => fxsave,
        Fxrstor | Fxrstor64 => fxrstor,
        Xsave | Xsave64 => xsave,
        Xrstor | Xrstor64 => xrstor,
        Xgetbv => xgetbv,
        Xsetbv => xsetbv,
        _ => return None,
    };
    Some(handler)
}

fn ldmxcsr(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::Sse)?;
    let linear = exec.wide_address(instruction, 4, 1, Use::Read)?;
    let mut bytes = [0; 4];
    exec.load_bytes(linear, &mut bytes)?;
    set_mxcsr(exec, u32::from_le_bytes(bytes))
}

fn stmxcsr(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::Sse)?;
    let linear = exec.wide_address(instruction, 4, 1, Use::Write)?;
    let mxcsr = exec.state.fpu.mxcsr();
    exec.store_bytes(linear, &mxcsr.to_le_bytes())?;
    Ok(())
}

fn set_mxcsr(exec: &mut Exec, mxcsr: u32) -> Result<()> {
    if exec.state.fpu.set_mxcsr(mxcsr) { Ok(()) } else { Err(Fault::protection(0)) }
}

/// Whether pointers have 64 bits.
fn is_wide(instruction: &Instruction) -> bool {
    use Code::{Fxrstor64_m512byte, Fxsave64_m512byte, Xrstor64_mem, Xsave64_mem};
    matches!(instruction.code(), Fxsave64_m512byte | Fxrstor64_m512byte | Xsave64_mem | Xrstor64_mem)
}

/// The XMM registers that code in this mode has.
fn xmm_count(exec: &Exec) -> usize {
    if exec.is_64_bit() { 16 } else { 8 }
}

fn fxsave(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::Save)?;
    let linear = exec.wide_address(instruction, FXSAVE, 16, Use::Write)?;
    let (image, len) = images::fxsave(&exec.state.fpu, is_wide(instruction), xmm_count(exec));
    exec.store_bytes(linear, image.get(..len).unwrap_or_default())?;
    Ok(())
}

fn fxrstor(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::Save)?;
    let linear = exec.wide_address(instruction, FXSAVE, 16, Use::Read)?;
    let mut image = [0; FXSAVE];
    exec.load_bytes(linear, &mut image)?;
    set_mxcsr(exec, images::fxsave_mxcsr(&image))?;
    let count = xmm_count(exec);
    images::set_fxsave_x87(&mut exec.state.fpu, &image, is_wide(instruction));
    images::set_fxsave_xmm(&mut exec.state.fpu, &image, count);
    Ok(())
}

/// Checks that `xsave` and its like are there, and returns the components that an instruction asks for of those that are enabled.
fn components(exec: &Exec) -> Result<u64> {
    if exec.state.sregs.cr4 & CR4_OSXSAVE == 0 {
        return Err(Fault::invalid_opcode());
    }
    let (high, low) = (exec.state.regs.get(Register::EDX), exec.state.regs.get(Register::EAX));
    Ok((high << 32 | low) & exec.state.xcr0)
}

/// The standard form. All components count as in use.
fn xsave(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let components = components(exec)?;
    ready(exec, Unit::XSave)?;
    let linear = exec.wide_address(instruction, FXSAVE + HEADER, 64, Use::Write)?;
    let mut present = [0; 8];
    let header = linear.wrapping_add(FXSAVE as u64);
    exec.load_bytes(header, &mut present)?;
    let present = u64::from_le_bytes(present) | components;
    let (image, len) = images::fxsave(&exec.state.fpu, is_wide(instruction), xmm_count(exec));
    let parts = [(X87, 0..MXCSR), (SSE, MXCSR..ST), (X87, ST..XMM), (SSE, XMM..len)];
    for (_, part) in parts.into_iter().filter(|(component, _)| components & component != 0) {
        let at = linear.wrapping_add(part.start as u64);
        exec.store_bytes(at, image.get(part).unwrap_or_default())?;
    }
    exec.store_bytes(header, &present.to_le_bytes())?;
    Ok(())
}

/// The standard form. A component that is not in the area begins as after reset.
fn xrstor(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let components = components(exec)?;
    ready(exec, Unit::XSave)?;
    let linear = exec.wide_address(instruction, FXSAVE + HEADER, 64, Use::Read)?;
    let (mut image, mut header) = ([0; FXSAVE], [0; HEADER]);
    exec.load_bytes(linear, &mut image)?;
    exec.load_bytes(linear.wrapping_add(FXSAVE as u64), &mut header)?;
    let present = header.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let reserved = header.iter().skip(8).any(|&byte| byte != 0);
    if reserved || present & !exec.state.xcr0 != 0 {
        return Err(Fault::protection(0));
    }
    if components & SSE != 0 {
        set_mxcsr(exec, images::fxsave_mxcsr(&image))?;
        let count = xmm_count(exec);
        let area = if present & SSE != 0 { image } else { [0; FXSAVE] };
        images::set_fxsave_xmm(&mut exec.state.fpu, &area, count);
    }
    if components & X87 != 0 {
        if present & X87 != 0 {
            images::set_fxsave_x87(&mut exec.state.fpu, &image, is_wide(instruction));
        } else {
            exec.state.fpu.reset_x87();
        }
    }
    Ok(())
}

fn xgetbv(exec: &mut Exec, _: &Instruction) -> Result<()> {
    components(exec)?;
    if exec.state.regs.get(Register::ECX) != 0 {
        return Err(Fault::protection(0));
    }
    let value = exec.state.xcr0;
    exec.set_vector(Register::EAX, value.into());
    exec.set_vector(Register::EDX, (value >> 32).into());
    Ok(())
}

fn xsetbv(exec: &mut Exec, _: &Instruction) -> Result<()> {
    components(exec)?;
    let regs = &exec.state.regs;
    let value = regs.get(Register::EDX) << 32 | regs.get(Register::EAX);
    let allowed = cpuid::allowed_xcr0(&exec.state.cpuid);
    let is_valid = value & X87 != 0 && value & !allowed == 0;
    if exec.cpl() != 0 || regs.get(Register::ECX) != 0 || !is_valid {
        return Err(Fault::protection(0));
    }
    exec.state.xcr0 = value;
    Ok(())
}
