//! How an interrupt or an exception gets its handler (Intel SDM volume 3, chapter 7 and sections 22.1.4 and 22.3).

use kvm_bindings::kvm_segment;

use super::Exec;
use super::descriptors::{Descriptor, INTERRUPT_GATE, INTERRUPT_GATE_16, RPL, TASK_GATE, TRAP_GATE, TRAP_GATE_16};
use super::exception::{Exception, Fault, INVALID_TSS, PROTECTION, Result};
use super::flags::{AC, IF, IOPL, NT, RF, TF, VIF, VM};
use super::mode::{CR0_PE, CR4_VME};
use super::new_stack::NewStack;
use super::ops::task_switch::Reason;
use super::segments::{Seg, null_segment};

/// Where an interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An instruction for it, which needs the gate's permission.
    Software,
    /// `int1`, which needs none.
    Privileged,
    /// An exception, or an interrupt from outside.
    Hardware,
}

/// Where a gate leads to, for what it is to push.
struct Handler {
    code: kvm_segment,
    offset: u64,
    /// Bytes of an item of the frame.
    width: u32,
    masks: bool,
}

impl Exec<'_> {
    /// Begins the handler of an interrupt or an exception. RIP is what the handler is to return to.
    pub(super) fn interrupt(&mut self, what: Exception, source: Source) -> Result<()> {
        if self.state.sregs.cr0 & CR0_PE == 0 {
            return self.interrupt_by_vector_table(what.vector, self.state.sregs.idt.base, true);
        }
        let delivered = self.interrupt_by_gate(what, source);
        // Error codes say that it was not the program that asked for this (EXT).
        delivered.map_err(|fault| match fault {
            Fault::Exception(Exception { vector: vector @ INVALID_TSS..=PROTECTION, error: Some(error), .. })
                if source == Source::Hardware =>
            {
                Fault::Exception(Exception::new(vector, Some(error | 1)))
            }
            fault => fault,
        })
    }

    /// `int` of virtual 8086 mode: with CR4.VME the TSS's map says which vectors the program handles by itself (Intel SDM
    /// volume 3, section 22.3.3).
    pub(super) fn interrupt_in_virtual_8086(&mut self, what: Exception) -> Result<()> {
        let has_privilege = self.state.regs.has(IOPL) && self.state.regs.rflags & IOPL == IOPL;
        if self.state.sregs.cr4 & CR4_VME != 0 && !self.is_redirected(what.vector)? {
            return self.interrupt_by_vector_table(what.vector, 0, has_privilege);
        }
        if !has_privilege {
            return Err(Fault::protection(0));
        }
        self.interrupt(what, Source::Software)
    }

    /// Whether the map before the TSS's map of ports sends a vector to protected mode.
    fn is_redirected(&mut self, vector: u8) -> Result<bool> {
        let tr = self.state.sregs.tr;
        let ports = self.load_system(tr.base.wrapping_add(0x66), 2)?;
        let byte = ports.wrapping_sub(32).wrapping_add(u64::from(vector / 8));
        if ports < 32 || byte > tr.limit.into() {
            return Err(Fault::protection(0));
        }
        let map = self.load_system(tr.base.wrapping_add(byte), 1)?;
        Ok(map >> (vector % 8) & 1 != 0)
    }

    /// Real mode, and `int` within virtual 8086 mode: Intel SDM volume 3, section 22.1.4.
    fn interrupt_by_vector_table(&mut self, vector: u8, table: u64, has_privilege: bool) -> Result<()> {
        let entry = u64::from(vector) * 4;
        if !self.state.mode.is_virtual_8086 && entry + 3 > self.state.sregs.idt.limit.into() {
            return Err(Fault::protection(0));
        }
        let (mut flags, cs, back) = (self.state.regs.rflags, self.state.sregs.cs.selector, self.state.regs.rip);
        if !has_privilege {
            let virtual_if = if self.state.regs.has(VIF) { IF } else { 0 };
            flags = flags & !IF | virtual_if | IOPL;
        }
        self.push(flags, 2)?;
        self.push(cs.into(), 2)?;
        self.push(back, 2)?;
        let linear = table.wrapping_add(entry);
        let (offset, selector) = if self.state.mode.is_virtual_8086 {
            (self.load(linear, 2)?, self.load(linear.wrapping_add(2), 2)?)
        } else {
            (self.load_system(linear, 2)?, self.load_system(linear.wrapping_add(2), 2)?)
        };
        self.go_far(self.real_code_segment(selector as u16), offset)?;
        let masked = if has_privilege { IF } else { VIF };
        self.state.regs.put(masked | TF | AC | RF, false);
        Ok(())
    }

    /// Protected and long mode: Intel SDM volume 3, sections 7.12.1 and 7.14.
    fn interrupt_by_gate(&mut self, what: Exception, source: Source) -> Result<()> {
        let is_long = self.state.mode.is_long;
        let idt = self.state.sregs.idt;
        let size = if is_long { 16 } else { 8 };
        let entry = u32::from(what.vector) * size;
        // The vector as an index of 8 bytes each, and the bit that says it is one of the IDT.
        let error = (u16::from(what.vector) * 8) | 2;
        if entry + size - 1 > idt.limit.into() {
            return Err(Fault::protection(error));
        }
        let at = idt.base.wrapping_add(entry.into());
        let bits = self.load_system(at, 8)?;
        let high = if is_long { self.load_system(at.wrapping_add(8), 8)? } else { 0 };
        let gate = Descriptor::gate(bits, high & 0xffff_ffff);
        let (width, masks) = match gate.kind() {
            _ if gate.is_memory() => return Err(Fault::protection(error)),
            INTERRUPT_GATE_16 if !is_long => (2, true),
            TRAP_GATE_16 if !is_long => (2, false),
            TASK_GATE if !is_long => (0, false),
            INTERRUPT_GATE => (if is_long { 8 } else { 4 }, true),
            TRAP_GATE => (if is_long { 8 } else { 4 }, false),
            _ => return Err(Fault::protection(error)),
        };
        if source == Source::Software && gate.dpl() < self.cpl() {
            return Err(Fault::protection(error));
        }
        if !gate.is_present() {
            return Err(Fault::not_present(error));
        }
        if width == 0 {
            return self.switch_task(gate.gate_selector(), Reason::Interrupt(what.error));
        }
        let selector = gate.gate_selector();
        if selector & !RPL == 0 {
            return Err(Fault::protection(0));
        }
        let descriptor = self.need_descriptor(selector)?;
        let wrong = Fault::protection(descriptor.error());
        let (dpl, cpl) = (descriptor.dpl(), self.cpl());
        let is_inner = !descriptor.is_conforming() && dpl < cpl;
        let is_wrong_size = is_long && (!descriptor.is_long() || descriptor.is_big());
        let leaves_8086_wrongly = self.state.mode.is_virtual_8086 && (!is_inner || dpl != 0);
        if !descriptor.is_code() || dpl > cpl || is_wrong_size || leaves_8086_wrongly {
            return Err(wrong);
        }
        let level = if is_inner { dpl } else { cpl };
        let offset = if width == 2 { gate.gate_offset_16() } else { gate.gate_offset() };
        let code = self.code_segment(descriptor, level)?;
        let handler = Handler { code, offset, width, masks };
        if is_long {
            let mut stack = match gate.gate_stack() {
                0 if is_inner => self.stack_in_tss(4 + 8 * u32::from(level), level)?,
                0 => self.current_stack(true),
                number => self.stack_in_tss(0x1c + 8 * number as u32, level)?,
            };
            stack.pointer &= !0xf;
            return self.enter_handler(&handler, stack, true, what.error);
        }
        let stack = if is_inner { self.stack_of_level(level)? } else { self.current_stack(false) };
        self.enter_handler(&handler, stack, is_inner, what.error)
    }

    /// Pushes the frame of a handler, and begins it.
    fn enter_handler(
        &mut self,
        handler: &Handler,
        mut stack: NewStack,
        with_stack: bool,
        error: Option<u16>,
    ) -> Result<()> {
        let width = handler.width;
        let sregs = &self.state.sregs;
        let (flags, cs, ss, back) = (self.state.regs.rflags, sregs.cs.selector, sregs.ss.selector, self.state.regs.rip);
        let old = if self.state.mode.is_long && self.is_64_bit() {
            self.state.regs.full(super::regs::SP)
        } else {
            self.state.regs.low(super::regs::SP, 4)
        };
        let leaves_8086 = self.state.mode.is_virtual_8086;
        if leaves_8086 {
            for selector in [sregs.gs.selector, sregs.fs.selector, sregs.ds.selector, sregs.es.selector] {
                self.push_on(&mut stack, selector.into(), width)?;
            }
        }
        if with_stack {
            self.push_on(&mut stack, ss.into(), width)?;
            self.push_on(&mut stack, old, width)?;
        }
        self.push_on(&mut stack, flags, width)?;
        self.push_on(&mut stack, cs.into(), width)?;
        self.push_on(&mut stack, back, width)?;
        if let Some(error) = error {
            self.push_on(&mut stack, error.into(), width)?;
        }
        self.state.regs.put(TF | NT | RF | VM, false);
        if handler.masks {
            self.state.regs.put(IF, false);
        }
        if leaves_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.set_segment(seg, null_segment(0));
            }
        }
        self.take_stack(&stack);
        self.go_far(handler.code, handler.offset)
    }
}
