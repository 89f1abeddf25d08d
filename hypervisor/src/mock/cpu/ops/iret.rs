//! `iret` in all its forms (Intel SDM volume 2, "IRET").

use iced_x86::{Instruction, Mnemonic};

use super::super::descriptors::RPL;
use super::super::exception::{Fault, Result};
use super::super::flags::{self, IF, IOPL, NT, RF, TF, VIF, VIP, VM};
use super::super::mode::CR4_VME;
use super::super::regs::{SP, mask};
use super::super::segments::{Seg, virtual_8086_segment};
use super::super::{Exec, Handler};
use super::far_transfer::{enter_outer, pop_outer_stack, return_segment};
use super::stack;
use super::task_switch::Reason;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    match mnemonic {
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => Some(iret),
        _ => None,
    }
}

/// Ends an interrupt; afterwards the next NMI may come.
fn iret(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let width = stack::width(instruction);
    if exec.state.mode.is_virtual_8086 {
        from_virtual_8086(exec, width)?;
    } else if exec.is_protected() {
        in_protected_mode(exec, width)?;
    } else {
        let offset = exec.pop(width)?;
        let selector = exec.pop(width)? as u16;
        let flags = exec.pop(width)?;
        exec.go_far(exec.real_code_segment(selector), offset)?;
        set_flags(exec, flags, exec.settable_flags() | RF, width);
    }
    exec.state.events.nmi.masked = 0;
    Ok(())
}

fn set_flags(exec: &mut Exec, flags: u64, which: u64, width: u32) {
    exec.state.regs.replace(which & mask(width), flags);
    exec.state.regs.rflags |= flags::FIXED;
    exec.state.refresh_mode();
}

fn from_virtual_8086(exec: &mut Exec, width: u32) -> Result<()> {
    let has_privilege = exec.iopl() == 3;
    if !has_privilege && (width != 2 || exec.state.sregs.cr4 & CR4_VME == 0) {
        return Err(Fault::protection(0));
    }
    let offset = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    let flags = exec.pop(width)?;
    let segment = virtual_8086_segment(selector);
    let which = stack::FREE_FLAGS | RF;
    if has_privilege {
        exec.go_far(segment, offset)?;
        set_flags(exec, flags, which | IF, width);
        return Ok(());
    }
    if flags & IF != 0 && exec.state.regs.has(VIP) || flags & TF != 0 {
        return Err(Fault::protection(0));
    }
    exec.go_far(segment, offset)?;
    set_flags(exec, flags, which, width);
    exec.state.regs.put(VIF, flags & IF != 0);
    Ok(())
}

fn in_protected_mode(exec: &mut Exec, width: u32) -> Result<()> {
    let is_long = exec.state.mode.is_long;
    if exec.state.regs.has(NT) {
        return if is_long { Err(Fault::protection(0)) } else { exec.return_to_task() };
    }
    let (is_64_bit, cpl) = (exec.is_64_bit(), exec.cpl());
    let offset = exec.pop(width)?;
    let selector = exec.pop(width)? as u16;
    let flags = exec.pop(width)?;
    if flags & VM != 0 && cpl == 0 && !is_long && width == 4 {
        return to_virtual_8086(exec, offset, selector, flags);
    }
    let segment = return_segment(exec, selector)?;
    let rpl = (selector & RPL) as u8;
    let privileged = if cpl == 0 { VIF | VIP } else { 0 };
    let which = exec.settable_flags() | RF | privileged;
    if is_64_bit || rpl > cpl {
        let outer = pop_outer_stack(exec, width, &segment, rpl)?;
        exec.go_far(segment, offset)?;
        enter_outer(exec, &outer);
    } else {
        exec.go_far(segment, offset)?;
    }
    set_flags(exec, flags, which, width);
    Ok(())
}

fn to_virtual_8086(exec: &mut Exec, offset: u64, selector: u16, flags: u64) -> Result<()> {
    let pointer = exec.pop(4)?;
    let mut selectors = [0; 5];
    for selector in &mut selectors {
        *selector = exec.pop(4)? as u16;
    }
    if offset > 0xffff {
        return Err(Fault::protection(0));
    }
    exec.state.regs.rflags = flags & (stack::FREE_FLAGS | IF | IOPL | RF | VM | VIF | VIP) | flags::FIXED;
    let segs = [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs];
    for (seg, selector) in segs.into_iter().zip(selectors) {
        exec.set_segment(seg, virtual_8086_segment(selector));
    }
    exec.set_segment(Seg::Cs, virtual_8086_segment(selector));
    exec.state.regs.set_low(SP, 4, pointer);
    exec.state.regs.rip = offset;
    Ok(())
}

impl Exec<'_> {
    /// Returns to the task that the TSS's link names.
    fn return_to_task(&mut self) -> Result<()> {
        let link = self.load_system(self.state.sregs.tr.base, 2)? as u16;
        self.switch_task(link, Reason::Return)
    }
}
