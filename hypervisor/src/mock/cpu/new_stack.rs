//! The stack that a change of privilege takes from the TSS, or that an interrupt pushes its frame to.

use kvm_bindings::kvm_segment;

use super::Exec;
use super::descriptors::{RPL, TSS, TSS_BUSY};
use super::exception::{Fault, Result};
use super::regs::{SP, mask};
use super::segments::{is_canonical, null_stack_segment};
use super::tlb::Right;

/// A stack that is not in its registers yet.
pub(super) struct NewStack {
    pub(super) ss: kvm_segment,
    pub(super) pointer: u64,
    /// Bytes of the pointer that count.
    width: u32,
    right: Right,
    /// What the error code of #SS names: the selector, where the stack is another one.
    error: u16,
}

impl Exec<'_> {
    /// The stack of now, for code of `width` bytes: 8 where it is 64-bit code.
    pub(super) fn current_stack(&self, is_64_bit: bool) -> NewStack {
        let width = if is_64_bit { 8 } else { self.stack_width() };
        let pointer = self.state.regs.low(SP, width);
        NewStack { ss: self.state.sregs.ss, pointer, width, right: self.state.mode.write, error: 0 }
    }

    /// The stack that the TSS of protected mode has for a privilege level.
    pub(super) fn stack_of_level(&mut self, level: u8) -> Result<NewStack> {
        let tr = self.state.sregs.tr;
        let is_32_bit = matches!(tr.type_, TSS | TSS_BUSY);
        let (at, pointer_width) = if is_32_bit { (4 + 8 * u32::from(level), 4) } else { (2 + 4 * u32::from(level), 2) };
        if at + pointer_width + 1 > tr.limit {
            return Err(Fault::invalid_tss(tr.selector & !RPL));
        }
        let at = tr.base.wrapping_add(at.into());
        let pointer = self.load_system(at, pointer_width)?;
        let selector = self.load_system(at.wrapping_add(pointer_width.into()), 2)? as u16;
        let ss = self.stack_segment(selector, level, false, Fault::invalid_tss)?;
        let width = if ss.db != 0 { 4 } else { 2 };
        let right = if level == 3 { Right::USER_WRITE } else { Right::GUARDED_WRITE };
        Ok(NewStack { ss, pointer: pointer & mask(width), width, right, error: selector & !RPL })
    }

    /// The stack at this place of long mode's TSS: 1 to 3 for privilege levels, from 7 on by the numbers of gates.
    pub(super) fn stack_in_tss(&mut self, offset: u32, level: u8) -> Result<NewStack> {
        let tr = self.state.sregs.tr;
        if offset + 7 > tr.limit {
            return Err(Fault::invalid_tss(tr.selector & !RPL));
        }
        let pointer = self.load_system(tr.base.wrapping_add(offset.into()), 8)?;
        if !is_canonical(pointer) {
            return Err(Fault::stack(0));
        }
        let ss = if level == self.cpl() { self.state.sregs.ss } else { null_stack_segment(level) };
        let right = if level == 3 { Right::USER_WRITE } else { Right::GUARDED_WRITE };
        Ok(NewStack { ss, pointer, width: 8, right, error: 0 })
    }

    /// Pushes an item of `width` bytes.
    pub(super) fn push_on(&mut self, stack: &mut NewStack, value: u64, width: u32) -> Result<()> {
        let offset = stack.pointer.wrapping_sub(width.into()) & mask(stack.width);
        let error = Fault::stack(stack.error);
        let linear = if stack.width == 8 {
            let last = offset.wrapping_add(u64::from(width) - 1);
            if is_canonical(offset) && is_canonical(last) { offset } else { return Err(error) }
        } else {
            self.linear_in(&stack.ss, offset, width, true).ok_or(error)?
        };
        self.store_with(linear, width as usize, value & mask(width), stack.right)?;
        stack.pointer = offset;
        Ok(())
    }

    /// Makes it the stack.
    pub(super) fn take_stack(&mut self, stack: &NewStack) {
        self.state.sregs.ss = stack.ss;
        self.state.regs.set_kept(SP, stack.width, stack.pointer);
    }
}
