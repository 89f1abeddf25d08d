//! Descriptors: what the tables of protected and long mode hold (Intel SDM volume 3, sections 3.4.5 and 3.5).

use kvm_bindings::{kvm_dtable, kvm_segment};

use super::Exec;
use super::exception::{Fault, Result};

/// A bit of a code or data segment's type: code.
pub(super) const CODE: u8 = 8;
/// Of data: expand-down; of code: conforming.
pub(super) const DOWN_OR_CONFORMING: u8 = 4;
/// Of data: writable; of code: readable.
pub(super) const WRITABLE_OR_READABLE: u8 = 2;
/// It was loaded once.
const ACCESSED: u8 = 1;
/// The bit of a TSS's type: its task runs.
const BUSY: u8 = 2;

/// The low bits of a selector: the privilege it asks for.
pub(super) const RPL: u16 = 3;
/// The bit of a selector that names the local table.
const LOCAL: u16 = 4;

/// Types of system descriptors and gates.
pub(super) const TSS_16: u8 = 1;
pub(super) const LDT: u8 = 2;
pub(super) const TSS_16_BUSY: u8 = 3;
pub(super) const CALL_GATE_16: u8 = 4;
pub(super) const TASK_GATE: u8 = 5;
pub(super) const INTERRUPT_GATE_16: u8 = 6;
pub(super) const TRAP_GATE_16: u8 = 7;
/// 32 bits; in long mode 64.
pub(super) const TSS: u8 = 9;
pub(super) const TSS_BUSY: u8 = 11;
pub(super) const CALL_GATE: u8 = 12;
pub(super) const INTERRUPT_GATE: u8 = 14;
pub(super) const TRAP_GATE: u8 = 15;

/// A descriptor in a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) bits: u64,
    /// The second half of a system descriptor or a gate of long mode; else 0.
    pub(super) high: u64,
    pub(super) selector: u16,
    /// Where it lies.
    address: u64,
}

impl Descriptor {
    /// A gate of the interrupt descriptor table.
    pub(super) fn gate(bits: u64, high: u64) -> Self {
        Self { bits, high, selector: 0, address: 0 }
    }

    fn bit(&self, bit: u32) -> u8 {
        (self.bits >> bit & 1) as u8
    }

    pub(super) fn kind(&self) -> u8 {
        (self.bits >> 40 & 0xf) as u8
    }

    /// A code or data segment, not one of the system's.
    pub(super) fn is_memory(&self) -> bool {
        self.bit(44) != 0
    }

    pub(super) fn dpl(&self) -> u8 {
        (self.bits >> 45 & 3) as u8
    }

    pub(super) fn is_present(&self) -> bool {
        self.bit(47) != 0
    }

    pub(super) fn is_code(&self) -> bool {
        self.is_memory() && self.kind() & CODE != 0
    }

    pub(super) fn is_conforming(&self) -> bool {
        self.kind() & DOWN_OR_CONFORMING != 0
    }

    /// Code of 64 bits, and code of 32 bits.
    pub(super) fn is_long(&self) -> bool {
        self.bit(53) != 0
    }

    pub(super) fn is_big(&self) -> bool {
        self.bit(54) != 0
    }

    pub(super) fn is_writable_data(&self) -> bool {
        self.is_memory() && self.kind() & (CODE | WRITABLE_OR_READABLE) == WRITABLE_OR_READABLE
    }

    /// Data, or code that may be read.
    pub(super) fn is_readable(&self) -> bool {
        self.is_memory() && self.kind() & (CODE | WRITABLE_OR_READABLE) != CODE
    }

    /// The limit in bytes.
    pub(super) fn limit(&self) -> u32 {
        let limit = (self.bits & 0xffff | self.bits >> 32 & 0xf_0000) as u32;
        if self.bit(55) != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The error code that names it.
    pub(super) fn error(&self) -> u16 {
        self.selector & !RPL
    }

    /// Of a gate: where it leads to.
    pub(super) fn gate_selector(&self) -> u16 {
        (self.bits >> 16) as u16
    }

    /// Of a gate of 16 bits: where in the segment it leads to.
    pub(super) fn gate_offset_16(&self) -> u64 {
        self.bits & 0xffff
    }

    /// Of any other gate.
    pub(super) fn gate_offset(&self) -> u64 {
        self.bits & 0xffff | self.bits >> 32 & 0xffff_0000 | self.high << 32
    }

    /// Of a call gate: how many parameters it copies.
    pub(super) fn gate_parameters(&self) -> u64 {
        self.bits >> 32 & 0x1f
    }

    /// Of a gate of long mode: which of the TSS's stacks it takes whatever the privilege; 0 for none.
    pub(super) fn gate_stack(&self) -> u64 {
        self.bits >> 32 & 7
    }

    /// As a segment register holds it.
    #[inline]
    pub(super) fn segment(&self) -> kvm_segment {
        kvm_segment {
            base: self.bits >> 16 & 0xff_ffff | self.bits >> 32 & 0xff00_0000 | self.high << 32,
            limit: self.limit(),
            selector: self.selector,
            type_: self.kind(),
            present: self.bit(47),
            dpl: self.dpl(),
            db: self.bit(54),
            s: self.bit(44),
            l: self.bit(53),
            g: self.bit(55),
            avl: self.bit(52),
            unusable: 1 - self.bit(47),
            padding: 0,
        }
    }
}

impl Exec<'_> {
    /// The descriptor that a selector names; `None` where its table has none.
    pub(super) fn descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>> {
        let sregs = &self.state.sregs;
        let table = if selector & LOCAL == 0 {
            sregs.gdt
        } else if sregs.ldt.unusable != 0 || sregs.ldt.present == 0 || sregs.ldt.selector & !RPL == 0 {
            return Ok(None);
        } else {
            let limit = sregs.ldt.limit.min(0xffff) as u16;
            kvm_dtable { base: sregs.ldt.base, limit, ..Default::default() }
        };
        let offset = selector & !(LOCAL | RPL);
        if u32::from(offset) + 7 > table.limit.into() {
            return Ok(None);
        }
        let address = table.base.wrapping_add(offset.into());
        let bits = self.load_system(address, 8)?;
        let descriptor = Descriptor { bits, high: 0, selector, address };
        if descriptor.is_memory() || !self.state.mode.is_long || matches!(descriptor.kind(), 0 | TASK_GATE) {
            return Ok(Some(descriptor));
        }
        if u32::from(offset) + 15 > table.limit.into() {
            return Ok(None);
        }
        let high = self.load_system(address.wrapping_add(8), 8)?;
        // The type in the second half must be 0.
        if high >> 40 & 0x1f != 0 {
            return Err(Fault::protection(selector & !RPL));
        }
        Ok(Some(Descriptor { high: high & 0xffff_ffff, ..descriptor }))
    }

    /// The same, where its lack is #GP that names it.
    pub(super) fn need_descriptor(&mut self, selector: u16) -> Result<Descriptor> {
        self.descriptor(selector)?.ok_or(Fault::protection(selector & !RPL))
    }

    /// Marks a code or data segment as accessed in its table.
    pub(super) fn mark_accessed(&mut self, descriptor: &mut Descriptor) -> Result<()> {
        if descriptor.is_memory() && descriptor.kind() & ACCESSED == 0 {
            descriptor.bits |= u64::from(ACCESSED) << 40;
            self.store_system(descriptor.address.wrapping_add(5), 1, descriptor.bits >> 40)?;
        }
        Ok(())
    }

    /// Marks a TSS as busy in its table.
    pub(super) fn mark_busy(&mut self, descriptor: &mut Descriptor) -> Result<()> {
        descriptor.bits |= u64::from(BUSY) << 40;
        self.store_system(descriptor.address.wrapping_add(5), 1, descriptor.bits >> 40)
    }

    /// Marks the TSS of this selector in the GDT as not busy.
    pub(super) fn mark_free(&mut self, selector: u16) -> Result<()> {
        let address = self.state.sregs.gdt.base.wrapping_add(u64::from(selector & !7)).wrapping_add(5);
        let byte = self.load_system(address, 1)?;
        self.store_system(address, 1, byte & !u64::from(BUSY))
    }
}
