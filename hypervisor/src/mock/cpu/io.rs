//! Ports: `in` and `out`. Their string forms are with the strings.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::fault::{Fault, Result};
use super::flags::IOPL;
use super::operands::width;
use super::regs::{AX, DX};
use super::{Exec, Handler};

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::In => input,
        Mnemonic::Out => output,
        _ => return None,
    };
    Some(handler)
}

impl Exec<'_> {
    /// Whether code of this privilege may do I/O, and turn interrupts on and off.
    pub(super) fn has_io_privilege(&self) -> bool {
        u64::from(self.cpl()) <= (self.state.regs.rflags & IOPL) >> 12
    }

    /// #GP(0) where the guest may not touch these ports: less privileged code than IOPL says needs their bits clear in the
    /// TSS (Intel SDM volume 1, section 19.5.2).
    pub(super) fn check_port(&mut self, port: u16, width: u32) -> Result<()> {
        const MAP_BASE: u32 = 0x66;
        if self.has_io_privilege() {
            return Ok(());
        }
        let denied = Fault::protection(0);
        let tr = self.state.sregs.tr;
        let is_32_bit_tss = tr.unusable == 0 && tr.present != 0 && matches!(tr.type_, 9 | 11);
        if !is_32_bit_tss || tr.limit < MAP_BASE + 1 {
            return Err(denied);
        }
        let base = tr.base as u32;
        let map = self.load(base.wrapping_add(MAP_BASE), 2)?;
        let byte = map + u32::from(port / 8);
        // Two bytes are looked at always, so that a port's neighbours are seen.
        if byte + 1 > tr.limit {
            return Err(denied);
        }
        let bits = self.load(base.wrapping_add(byte), 2)? >> (port % 8);
        if bits & ((1 << width) - 1) == 0 { Ok(()) } else { Err(denied) }
    }
}

fn port(exec: &Exec, instruction: &Instruction, operand: u32) -> u16 {
    match instruction.op_kind(operand) {
        OpKind::Register => exec.state.regs.low(DX, 2) as u16,
        _ => instruction.immediate8().into(),
    }
}

fn input(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (port, width) = (port(exec, instruction, 1), width(instruction, 0));
    exec.check_port(port, width)?;
    let value = exec.bus.input(port, width)?;
    exec.state.regs.set_low(AX, width, value);
    Ok(())
}

fn output(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (port, width) = (port(exec, instruction, 0), width(instruction, 1));
    exec.check_port(port, width)?;
    let value = exec.state.regs.low(AX, width);
    exec.bus.output(port, width, value);
    Ok(())
}
