//! Segments: how an offset becomes a linear address, and how a segment register is loaded (Intel SDM volume 3, chapters 3
//! and 6).

use iced_x86::Register;
use kvm_bindings::{kvm_segment, kvm_sregs};

use super::Exec;
use super::descriptors::{CODE, DOWN_OR_CONFORMING, RPL, WRITABLE_OR_READABLE};
use super::exception::{Fault, Result};
use super::mode::Mode;

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

/// A segment register after a null selector was loaded.
pub(super) fn null_segment(selector: u16) -> kvm_segment {
    kvm_segment { selector, unusable: 1, ..Default::default() }
}

/// SS without a descriptor, in 64-bit mode: it still says the privilege level.
pub(super) fn null_stack_segment(cpl: u8) -> kvm_segment {
    kvm_segment { dpl: cpl, ..null_segment(cpl.into()) }
}

/// A segment register of virtual 8086 mode.
pub(super) fn virtual_8086_segment(selector: u16) -> kvm_segment {
    kvm_segment {
        base: u64::from(selector) << 4,
        limit: 0xffff,
        selector,
        type_: 3,
        present: 1,
        dpl: 3,
        s: 1,
        ..Default::default()
    }
}

/// What a segment lets through without a closer look, for the [fast forms](super::fast) of instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mock) struct Window {
    pub(super) base: u64,
    /// Offsets below these can be read and written.
    pub(super) readable: u64,
    pub(super) writable: u64,
}

impl Window {
    /// Of a segment, which has a base in 64-bit mode if it is FS or GS.
    fn of(segment: &kvm_segment, has_base: bool, mode: &Mode) -> Self {
        let base = if mode.is_64_bit() && !has_base { 0 } else { segment.base };
        if mode.checks_alignment {
            return Self::default();
        }
        if mode.is_64_bit() {
            return Self { base, readable: u64::MAX, writable: u64::MAX };
        }
        let is_code = segment.type_ & CODE != 0;
        let may = segment.type_ & WRITABLE_OR_READABLE != 0;
        let grows_down = !is_code && segment.type_ & DOWN_OR_CONFORMING != 0;
        let end = match segment.limit {
            _ if segment.unusable != 0 || segment.present == 0 || grows_down => 0,
            // It has no end to be crossed.
            u32::MAX => 2 << 32,
            limit => u64::from(limit) + 1,
        };
        let readable = if !is_code || may { end } else { 0 };
        let writable = if may && !(is_code && mode.is_protected) { end } else { 0 };
        Self { base, readable, writable }
    }

    /// Of all segment registers, by their numbers.
    pub(in crate::mock) fn of_all(sregs: &kvm_sregs, mode: &Mode) -> [Self; 6] {
        let of = |segment| Self::of(segment, false, mode);
        let with_base = |segment| Self::of(segment, true, mode);
        [of(&sregs.es), of(&sregs.cs), of(&sregs.ss), of(&sregs.ds), with_base(&sregs.fs), with_base(&sregs.gs)]
    }
}

/// Whether bits 63 to 47 are all the same.
#[inline]
pub(super) fn is_canonical(address: u64) -> bool {
    matches!(address as i64 >> 47, 0 | -1)
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
        self.state.refresh_mode();
    }

    /// Segments come from descriptor tables.
    #[inline]
    pub(super) fn is_protected(&self) -> bool {
        self.state.mode.is_protected
    }

    #[inline]
    pub(super) fn is_64_bit(&self) -> bool {
        self.state.mode.is_64_bit()
    }

    /// The current privilege level.
    #[inline]
    pub(super) fn cpl(&self) -> u8 {
        self.state.mode.cpl
    }

    /// #GP(0) unless the processor is at its most privileged.
    pub(super) fn need_cpl_0(&self) -> Result<()> {
        if self.cpl() == 0 { Ok(()) } else { Err(Fault::protection(0)) }
    }

    /// #UD in real and virtual 8086 mode.
    pub(super) fn need_protected_mode(&self) -> Result<()> {
        if self.is_protected() { Ok(()) } else { Err(Fault::invalid_opcode()) }
    }

    /// The linear address of `size` bytes at `offset` of a segment, which must allow the access.
    #[inline]
    pub(super) fn linear(&self, which: Seg, offset: u64, size: u32, write: bool) -> Result<u64> {
        let linear = if self.is_64_bit() {
            let base = if matches!(which, Seg::Fs | Seg::Gs) { self.segment(which).base } else { 0 };
            let linear = base.wrapping_add(offset);
            let last = linear.wrapping_add(u64::from(size) - 1);
            (is_canonical(linear) && is_canonical(last)).then_some(linear)
        } else {
            self.linear_in(self.segment(which), offset, size, write)
        };
        let error = || if which == Seg::Ss { Fault::stack(0) } else { Fault::protection(0) };
        linear.ok_or_else(error)
    }

    /// The same outside of 64-bit mode for a segment that is in no register yet. `None` where it does not allow the access.
    #[inline]
    pub(super) fn linear_in(&self, segment: &kvm_segment, offset: u64, size: u32, write: bool) -> Option<u64> {
        let is_code = segment.type_ & CODE != 0;
        let may = segment.type_ & WRITABLE_OR_READABLE != 0;
        let denied = if write { !may || is_code && self.is_protected() } else { !may && is_code };
        let (limit, last) = (u64::from(segment.limit), offset + u64::from(size) - 1);
        let inside = if !is_code && segment.type_ & DOWN_OR_CONFORMING != 0 {
            let top = if segment.db != 0 { u32::MAX.into() } else { 0xffff };
            offset > limit && last <= top
        } else {
            // A segment of 4 GiB has no end to be crossed.
            offset <= limit && (segment.limit == u32::MAX || last <= limit)
        };
        let usable = segment.unusable == 0 && segment.present != 0;
        (usable && !denied && inside).then(|| segment.base.wrapping_add(offset) & u64::from(u32::MAX))
    }

    /// Where the instruction pointer may go: within the code segment, in 64-bit mode to canonical addresses.
    #[inline]
    pub(super) fn check_target(&self, target: u64) -> Result<()> {
        let allowed = if self.is_64_bit() { is_canonical(target) } else { target <= self.state.sregs.cs.limit.into() };
        if allowed { Ok(()) } else { Err(Fault::protection(0)) }
    }

    /// What a data or stack segment register is to become for a selector. The register is left as it is.
    pub(super) fn data_segment(&mut self, which: Seg, selector: u16) -> Result<kvm_segment> {
        if self.state.mode.is_virtual_8086 {
            return Ok(virtual_8086_segment(selector));
        }
        if !self.is_protected() {
            // Limit and rights stay, which is what makes an "unreal" segment.
            let base = u64::from(selector) << 4;
            return Ok(kvm_segment { selector, base, present: 1, unusable: 0, ..*self.segment(which) });
        }
        let cpl = self.cpl();
        if which == Seg::Ss {
            return self.stack_segment(selector, cpl, self.is_64_bit() && cpl < 3, Fault::protection);
        }
        if selector & !RPL == 0 {
            return Ok(null_segment(selector));
        }
        let mut descriptor = self.need_descriptor(selector)?;
        let (rpl, dpl) = ((selector & RPL) as u8, descriptor.dpl());
        let guarded = !(descriptor.is_code() && descriptor.is_conforming());
        if !descriptor.is_readable() || guarded && (rpl > dpl || cpl > dpl) {
            return Err(Fault::protection(descriptor.error()));
        }
        if !descriptor.is_present() {
            return Err(Fault::not_present(descriptor.error()));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment())
    }

    /// What SS is to become for a selector at this privilege level. It may be null for 64-bit code that is no user's. Where
    /// the selector is wrong, `wrong` says how.
    pub(super) fn stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
        may_be_null: bool,
        wrong: fn(u16) -> Fault,
    ) -> Result<kvm_segment> {
        if selector & !RPL == 0 {
            let allowed = may_be_null && (selector & RPL) as u8 == cpl;
            return if allowed { Ok(null_stack_segment(cpl)) } else { Err(wrong(0)) };
        }
        let error = selector & !RPL;
        let mut descriptor = self.descriptor(selector)?.ok_or(wrong(error))?;
        if (selector & RPL) as u8 != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return Err(wrong(error));
        }
        if !descriptor.is_present() {
            return Err(Fault::stack(error));
        }
        self.mark_accessed(&mut descriptor)?;
        Ok(descriptor.segment())
    }
}
