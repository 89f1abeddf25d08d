//! Task switches of protected mode (Intel SDM volume 3, section 8.3).
//!
//! What is wrong with the new task's segments is an exception of the new task, as the manual has it: the switch itself is
//! complete then.

use kvm_bindings::kvm_segment;

use super::super::Exec;
use super::super::descriptors::{Descriptor, LDT, RPL, TSS, TSS_16, TSS_16_BUSY, TSS_BUSY};
use super::super::exception::{Exception, Fault, Result};
use super::super::flags::{FIXED, NT, VM};
use super::super::mode::{CR0_PG, CR0_TS};
use super::super::segments::{Seg, null_segment, virtual_8086_segment};

/// What a switch is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Reason {
    Jump,
    Call,
    /// An interrupt or exception through a task gate, with its error code.
    Interrupt(Option<u16>),
    /// `iret` with NT.
    Return,
}

/// How a TSS is laid out: bytes of an item, and where what lies.
struct Layout {
    width: u32,
    /// CR3, of 32 bits only.
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    /// Segments: ES, CS, SS, DS, and with 32 bits FS and GS.
    count: usize,
    ldt: u64,
    /// The least limit.
    limit: u32,
}

const LAYOUT_16: Layout = Layout {
    width: 2,
    cr3: None,
    rip: 0xe,
    flags: 0x10,
    registers: 0x12,
    segments: 0x22,
    count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};
const LAYOUT_32: Layout = Layout {
    width: 4,
    cr3: Some(0x1c),
    rip: 0x20,
    flags: 0x24,
    registers: 0x28,
    segments: 0x48,
    count: 6,
    ldt: 0x60,
    limit: 0x67,
};
/// In a TSS of 32 bits: the bit that asks for #DB after the switch.
const TRAP: u64 = 0x64;
/// DR6: a switch to a task with that bit.
const DR6_TASK: u64 = 1 << 15;

const SEGMENTS: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

fn layout(kind: u8) -> &'static Layout {
    if matches!(kind, TSS | TSS_BUSY) { &LAYOUT_32 } else { &LAYOUT_16 }
}

impl Exec<'_> {
    /// Switches to the task whose TSS a selector names.
    pub(in super::super) fn switch_task(&mut self, selector: u16, reason: Reason) -> Result<()> {
        let wrong = if reason == Reason::Return { Fault::invalid_tss } else { Fault::protection };
        let error = selector & !RPL;
        if selector & 4 != 0 || error == 0 {
            return Err(wrong(error));
        }
        let mut new = self.descriptor(selector)?.ok_or(wrong(error))?;
        let expected = if reason == Reason::Return { [TSS_16_BUSY, TSS_BUSY] } else { [TSS_16, TSS] };
        if new.is_memory() || !expected.contains(&new.kind()) {
            return Err(wrong(error));
        }
        if !new.is_present() {
            return Err(Fault::not_present(error));
        }
        if new.limit() < layout(new.kind()).limit {
            return Err(Fault::invalid_tss(error));
        }
        let old = self.state.sregs.tr;
        self.save_task(&old, reason)?;
        if matches!(reason, Reason::Jump | Reason::Return) {
            self.mark_free(old.selector)?;
        }
        if reason != Reason::Return {
            self.mark_busy(&mut new)?;
        }
        let is_nested = matches!(reason, Reason::Call | Reason::Interrupt(_));
        let base = new.segment().base;
        if is_nested {
            self.store_system(base, 2, old.selector.into())?;
        }
        self.load_task(&new, is_nested, reason)
    }

    /// Writes the registers to the TSS of the task that ends.
    fn save_task(&mut self, tr: &kvm_segment, reason: Reason) -> Result<()> {
        let layout = layout(tr.type_);
        let regs = self.state.regs;
        let flags = if reason == Reason::Return { regs.rflags & !NT } else { regs.rflags };
        let at = |offset: u64| tr.base.wrapping_add(offset);
        self.store_system(at(layout.rip), layout.width, regs.rip)?;
        self.store_system(at(layout.flags), layout.width, flags)?;
        for number in 0..8 {
            let place = at(layout.registers + number as u64 * u64::from(layout.width));
            self.store_system(place, layout.width, regs.full(number))?;
        }
        for (index, seg) in (0..).zip(SEGMENTS).take(layout.count) {
            let selector = self.segment(seg).selector;
            self.store_system(at(layout.segments + index * u64::from(layout.width)), 2, selector.into())?;
        }
        Ok(())
    }

    /// Takes the registers from the TSS of the task that begins.
    fn load_task(&mut self, new: &Descriptor, is_nested: bool, reason: Reason) -> Result<()> {
        let layout = layout(new.kind());
        let base = new.segment().base;
        let at = |offset: u64| base.wrapping_add(offset);
        let cr3 = match layout.cr3 {
            Some(offset) => Some(self.load_system(at(offset), 4)?),
            None => None,
        };
        let rip = self.load_system(at(layout.rip), layout.width)?;
        let flags = self.load_system(at(layout.flags), layout.width)?;
        let mut registers = [0; 8];
        for (index, register) in (0..).zip(&mut registers) {
            *register = self.load_system(at(layout.registers + index * u64::from(layout.width)), layout.width)?;
        }
        let mut selectors = [0; 6];
        for (index, selector) in (0..).zip(&mut selectors).take(layout.count) {
            *selector = self.load_system(at(layout.segments + index * u64::from(layout.width)), 2)? as u16;
        }
        let ldt = self.load_system(at(layout.ldt), 2)? as u16;
        let traps = layout.width == 4 && self.load_system(at(TRAP), 2)? & 1 != 0;

        if let Some(cr3) = cr3
            && self.state.sregs.cr0 & CR0_PG != 0
        {
            self.set_cr3(cr3)?;
        }
        let sregs = &mut self.state.sregs;
        sregs.tr = new.segment();
        // The type in the register is that of a busy one.
        sregs.tr.type_ |= TSS_16_BUSY & !TSS_16;
        sregs.cr0 |= CR0_TS;
        self.state.debug_regs.dr7 &= !0x155;
        let flags = if is_nested { flags | NT } else { flags };
        self.state.regs.rflags = flags & 0x3f_7fd5 | FIXED;
        self.state.regs.rip = rip;
        for (number, value) in registers.into_iter().enumerate() {
            let value = if layout.width == 2 { value | 0xffff_0000 } else { value };
            self.state.regs.set_low(number, 4, value);
        }
        self.state.sregs.ldt = null_segment(ldt);
        // Until it is loaded, a segment register has its selector and nothing else.
        for (seg, selector) in SEGMENTS.into_iter().zip(selectors) {
            let dpl =
                if matches!(seg, Seg::Ss | Seg::Cs) { selectors.get(1).map_or(0, |cs| (cs & RPL) as u8) } else { 0 };
            self.set_segment(seg, kvm_segment { dpl, ..null_segment(selector) });
        }
        let result = self.load_task_segments(ldt, &selectors);
        let result = match (result, reason) {
            (Ok(()), Reason::Interrupt(Some(error))) => self.push(error.into(), layout.width),
            (result, _) => result,
        };
        match result {
            Ok(()) if traps => self.after = Some(Exception::debug(DR6_TASK)),
            Ok(()) => {}
            Err(Fault::Exception(exception)) => self.after = Some(exception),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Loads what the selectors of a new task name.
    fn load_task_segments(&mut self, ldt: u16, selectors: &[u16; 6]) -> Result<()> {
        if ldt & !RPL != 0 {
            let wrong = Fault::invalid_tss(ldt & !RPL);
            let descriptor = if ldt & 4 == 0 { self.descriptor(ldt)? } else { None };
            let is_ldt = |descriptor: &Descriptor| {
                !descriptor.is_memory() && descriptor.kind() == LDT && descriptor.is_present()
            };
            self.state.sregs.ldt = descriptor.filter(is_ldt).ok_or(wrong)?.segment();
        }
        let &[es, cs, ss, ds, fs, gs] = selectors;
        if self.state.regs.has(VM) {
            for (seg, selector) in SEGMENTS.into_iter().zip(*selectors) {
                self.set_segment(seg, virtual_8086_segment(selector));
            }
            return Ok(());
        }
        let code = self.task_code_segment(cs)?;
        let cpl = (cs & RPL) as u8;
        let stack = self.stack_segment(ss, cpl, false, Fault::invalid_tss)?;
        self.set_segment(Seg::Ss, stack);
        self.set_segment(Seg::Cs, code);
        for (seg, selector) in [(Seg::Es, es), (Seg::Ds, ds), (Seg::Fs, fs), (Seg::Gs, gs)] {
            let segment = self.data_segment(seg, selector).map_err(as_invalid_tss)?;
            self.set_segment(seg, segment);
        }
        self.check_target(self.state.regs.rip)
    }

    fn task_code_segment(&mut self, selector: u16) -> Result<kvm_segment> {
        let error = selector & !RPL;
        if error == 0 {
            return Err(Fault::invalid_tss(0));
        }
        let descriptor = self.descriptor(selector)?.ok_or(Fault::invalid_tss(error))?;
        let (rpl, dpl) = ((selector & RPL) as u8, descriptor.dpl());
        let allowed = if descriptor.is_conforming() { dpl <= rpl } else { dpl == rpl };
        if !descriptor.is_code() || !allowed {
            return Err(Fault::invalid_tss(error));
        }
        self.code_segment(descriptor, rpl)
    }
}

/// A data segment that is wrong is so for the TSS that names it.
fn as_invalid_tss(fault: Fault) -> Fault {
    match fault {
        Fault::Exception(Exception { vector: super::super::exception::PROTECTION, error: Some(error), .. }) => {
            Fault::invalid_tss(error)
        }
        fault => fault,
    }
}
