//! Segments: how an offset becomes an address, and how a segment register is loaded (Intel SDM volume 3, chapters 3, 5).

use iced_x86::Register;
use kvm_bindings::{kvm_dtable, kvm_segment};

use super::Exec;
use super::fault::{Fault, Result};

/// A segment register, by its number in machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl Seg {
    /// By its name; what is no segment register is DS, which is never asked for.
    pub(super) fn named(register: Register) -> Self {
        match register {
            Register::ES => Self::Es,
            Register::CS => Self::Cs,
            Register::SS => Self::Ss,
            Register::FS => Self::Fs,
            Register::GS => Self::Gs,
            _ => Self::Ds,
        }
    }
}

/// A bit of a code or data segment's type: code.
const CODE: u8 = 8;
/// Of data: expand-down; of code: conforming.
const DOWN_OR_CONFORMING: u8 = 4;
/// Of data: writable; of code: readable.
const WRITABLE_OR_READABLE: u8 = 2;
/// It was loaded once.
const ACCESSED: u8 = 1;

/// The low bits of a selector: the privilege it asks for.
pub(super) const RPL: u16 = 3;
/// The bit of a selector that names the local table.
const LOCAL: u16 = 4;

/// What a segment register is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// A jump or a call.
    Jump,
    /// A far return or `iret`.
    Return,
    /// An interrupt or an exception.
    Interrupt,
}

/// A segment descriptor in a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) bits: u64,
    pub(super) selector: u16,
    /// Where it lies.
    address: u32,
}

impl Descriptor {
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

    /// As a segment register holds it.
    #[inline]
    pub(super) fn segment(&self) -> kvm_segment {
        kvm_segment {
            base: self.bits >> 16 & 0xff_ffff | self.bits >> 32 & 0xff00_0000,
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

/// A segment register after a null selector was loaded.
fn null(selector: u16) -> kvm_segment {
    kvm_segment { selector, unusable: 1, ..Default::default() }
}

impl Exec<'_> {
    pub(super) fn segment(&self, which: Seg) -> &kvm_segment {
        let sregs = &self.state.sregs;
        match which {
            Seg::Es => &sregs.es,
            Seg::Cs => &sregs.cs,
            Seg::Ss => &sregs.ss,
            Seg::Ds => &sregs.ds,
            Seg::Fs => &sregs.fs,
            Seg::Gs => &sregs.gs,
        }
    }

    pub(super) fn set_segment(&mut self, which: Seg, segment: kvm_segment) {
        let sregs = &mut self.state.sregs;
        *match which {
            Seg::Es => &mut sregs.es,
            Seg::Cs => &mut sregs.cs,
            Seg::Ss => &mut sregs.ss,
            Seg::Ds => &mut sregs.ds,
            Seg::Fs => &mut sregs.fs,
            Seg::Gs => &mut sregs.gs,
        } = segment;
    }

    /// Protected mode.
    #[inline]
    pub(super) fn is_protected(&self) -> bool {
        self.state.sregs.cr0 & super::control::PE != 0
    }

    /// The current privilege level.
    pub(super) fn cpl(&self) -> u8 {
        if self.is_protected() { self.state.sregs.ss.dpl } else { 0 }
    }

    /// #GP(0) unless the processor is at its most privileged.
    pub(super) fn need_cpl_0(&self) -> Result<()> {
        if self.cpl() == 0 { Ok(()) } else { Err(Fault::protection(0)) }
    }

    /// The linear address of `size` bytes at `offset` of a segment, which must allow the access.
    #[inline]
    pub(super) fn linear(&self, which: Seg, offset: u32, size: u32, write: bool) -> Result<u32> {
        let error = if which == Seg::Ss { Fault::stack(0) } else { Fault::protection(0) };
        self.linear_in(self.segment(which), offset, size, write).ok_or(error)
    }

    /// The same for a segment that is in no register yet. `None` where it does not allow the access.
    #[inline]
    pub(super) fn linear_in(&self, segment: &kvm_segment, offset: u32, size: u32, write: bool) -> Option<u32> {
        let is_code = segment.type_ & CODE != 0;
        let may = segment.type_ & WRITABLE_OR_READABLE != 0;
        let denied = if write { !may || is_code && self.is_protected() } else { !may && is_code };
        let last = offset.checked_add(size - 1);
        let inside = if !is_code && segment.type_ & DOWN_OR_CONFORMING != 0 {
            let top = if segment.db != 0 { u32::MAX } else { 0xffff };
            offset > segment.limit && last.is_some_and(|last| last <= top)
        } else {
            // A segment of 4 GiB has no end to be crossed.
            offset <= segment.limit && (segment.limit == u32::MAX || last.is_some_and(|last| last <= segment.limit))
        };
        let usable = segment.unusable == 0 && segment.present != 0;
        (usable && !denied && inside).then(|| (segment.base as u32).wrapping_add(offset))
    }

    /// Where the instruction pointer may go: within the code segment.
    #[inline]
    pub(super) fn check_target(&self, target: u32) -> Result<()> {
        if target <= self.state.sregs.cs.limit { Ok(()) } else { Err(Fault::protection(0)) }
    }

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
        let offset = u32::from(selector & !(LOCAL | RPL));
        if offset + 7 > table.limit.into() {
            return Ok(None);
        }
        let address = (table.base as u32).wrapping_add(offset);
        let bits = self.bus.load(address, 8)?;
        Ok(Some(Descriptor { bits, selector, address }))
    }

    /// The same, where its lack is #GP that names it.
    pub(super) fn need_descriptor(&mut self, selector: u16) -> Result<Descriptor> {
        self.descriptor(selector)?.ok_or(Fault::protection(selector & !RPL))
    }

    /// Marks a code or data segment as accessed in its table.
    pub(super) fn mark_accessed(&mut self, descriptor: &mut Descriptor) {
        if descriptor.is_memory() && descriptor.kind() & ACCESSED == 0 {
            descriptor.bits |= u64::from(ACCESSED) << 40;
            self.bus.store(descriptor.address.wrapping_add(5), 1, descriptor.bits >> 40);
        }
    }

    /// Marks a TSS as busy in its table.
    pub(super) fn mark_busy(&mut self, descriptor: &mut Descriptor) {
        descriptor.bits |= 2 << 40;
        self.bus.store(descriptor.address.wrapping_add(5), 1, descriptor.bits >> 40);
    }

    /// What a data or stack segment register is to become for a selector. The register is left as it is.
    pub(super) fn data_segment(&mut self, which: Seg, selector: u16) -> Result<kvm_segment> {
        if !self.is_protected() {
            // Limit and rights stay, which is what makes an "unreal" segment.
            let base = u64::from(selector) << 4;
            return Ok(kvm_segment { selector, base, present: 1, unusable: 0, ..*self.segment(which) });
        }
        let (rpl, cpl) = ((selector & RPL) as u8, self.cpl());
        if selector & !RPL == 0 {
            return if which == Seg::Ss { Err(Fault::protection(0)) } else { Ok(null(selector)) };
        }
        let mut descriptor = self.need_descriptor(selector)?;
        let dpl = descriptor.dpl();
        let allowed = match which {
            Seg::Ss => rpl == cpl && dpl == cpl && descriptor.is_writable_data(),
            _ => {
                let guarded = !(descriptor.is_code() && descriptor.is_conforming());
                descriptor.is_readable() && !(guarded && (rpl > dpl || cpl > dpl))
            }
        };
        if !allowed {
            return Err(Fault::protection(descriptor.error()));
        }
        if !descriptor.is_present() {
            let error = descriptor.error();
            return Err(if which == Seg::Ss { Fault::stack(error) } else { Fault::not_present(error) });
        }
        self.mark_accessed(&mut descriptor);
        Ok(descriptor.segment())
    }

    /// What CS is to become for a far transfer to a selector, at the privilege level of now.
    pub(super) fn code_segment(&mut self, selector: u16, transfer: Transfer) -> Result<kvm_segment> {
        if !self.is_protected() {
            return Ok(kvm_segment { selector, base: u64::from(selector) << 4, ..self.state.sregs.cs });
        }
        if selector & !RPL == 0 {
            return Err(Fault::protection(0));
        }
        let mut descriptor = self.need_descriptor(selector)?;
        let (rpl, dpl, cpl) = ((selector & RPL) as u8, descriptor.dpl(), self.cpl());
        if !descriptor.is_memory() {
            // A gate or a TSS for a jump or a call is known, but not here.
            let is_gate = matches!(descriptor.kind(), 1 | 4 | 5 | 9 | 12);
            return Err(if is_gate && transfer == Transfer::Jump {
                Fault::Unknown
            } else {
                Fault::protection(descriptor.error())
            });
        }
        let allowed = descriptor.is_code()
            && match transfer {
                Transfer::Jump if descriptor.is_conforming() => dpl <= cpl,
                Transfer::Jump => rpl <= cpl && dpl == cpl,
                Transfer::Return if descriptor.is_conforming() => rpl >= cpl && dpl <= rpl,
                Transfer::Return => rpl >= cpl && dpl == rpl,
                Transfer::Interrupt => dpl <= cpl,
            };
        if !allowed {
            return Err(Fault::protection(descriptor.error()));
        }
        let inner = matches!(transfer, Transfer::Interrupt) && !descriptor.is_conforming() && dpl < cpl;
        let outer = transfer == Transfer::Return && rpl > cpl;
        if !descriptor.is_present() {
            return Err(Fault::not_present(descriptor.error()));
        }
        if inner || outer {
            return Err(Fault::Unknown);
        }
        self.mark_accessed(&mut descriptor);
        Ok(kvm_segment { selector: selector & !RPL | u16::from(cpl), ..descriptor.segment() })
    }
}
