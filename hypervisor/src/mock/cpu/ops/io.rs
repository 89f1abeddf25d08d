//! Ports: `in` and `out`. Their string forms are with the strings.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::descriptors::{TSS, TSS_BUSY};
use super::super::exception::{Fault, Result};
use super::super::operands::width;
use super::super::regs::{AX, DX};
use super::super::{Exec, Handler};
use super::debug_regs::Watched;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::In => input,
        Mnemonic::Out => output,
        _ => return None,
    };
    Some(handler)
}

impl Exec<'_> {
    /// Whether code of this privilege may do I/O, and turn interrupts on and off.
    pub(in super::super) fn has_io_privilege(&self) -> bool {
        self.cpl() <= self.iopl()
    }

    /// #GP(0) where the guest may not touch these ports: less privileged code than IOPL says, and virtual 8086 mode, need
    /// their bits clear in the TSS (Intel SDM volume 1, section 19.5.2).
    pub(in super::super) fn check_port(&mut self, port: u16, width: u32) -> Result<()> {
        if self.state.mode.has_breakpoints {
            self.watch(port.into(), width.into(), Watched::Port);
        }
        if self.has_io_privilege() && !self.state.mode.is_virtual_8086 {
            return Ok(());
        }
        self.check_port_map(port, width)
    }

    fn check_port_map(&mut self, port: u16, width: u32) -> Result<()> {
        const MAP_BASE: u32 = 0x66;
        let denied = Fault::protection(0);
        let tr = self.state.sregs.tr;
        let has_map = tr.unusable == 0 && tr.present != 0 && matches!(tr.type_, TSS | TSS_BUSY);
        if !has_map || tr.limit < MAP_BASE + 1 {
            return Err(denied);
        }
        let map = self.load_system(tr.base.wrapping_add(MAP_BASE.into()), 2)?;
        let byte = map + u64::from(port / 8);
        // Two bytes are read always, so that a port's neighbours are seen.
        if byte + 1 > tr.limit.into() {
            return Err(denied);
        }
        let bits = self.load_system(tr.base.wrapping_add(byte), 2)? >> (port % 8);
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
    exec.state.regs.set_low(AX, width, value.into());
    Ok(())
}

fn output(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let (port, width) = (port(exec, instruction, 0), width(instruction, 1));
    exec.check_port(port, width)?;
    let value = exec.state.regs.low(AX, width);
    exec.bus.output(port, width, value as u32);
    Ok(())
}
