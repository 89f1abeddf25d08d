//! The MSRs of a vCPU: a table of what there is, what a register holds after reset and what it takes. Intel SDM volume
//! 4, and the kernel's `Documentation/virt/kvm/x86/msr.rst` for KVM's own.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use kvm_bindings::{kvm_cpuid_entry2, kvm_sregs};

use super::cpuid::{self, Feature};
use super::kvmclock::ClockPages;
use crate::mock::irq::irqchip::Irqchip;
use crate::mock::vcpu::event_inbox::EventInbox;

/// A row of the table.
struct Msr {
    indices: RangeInclusive<u32>,
    #[cfg_attr(not(test), allow(dead_code, reason = "the document's table has it"))]
    name: &'static str,
    place: Place,
    rule: Rule,
    reset: u64,
    /// The bit of CPUID without which the guest gets #GP. Where there is none, the guest has it always, as on KVM.
    offered_by: Option<Feature>,
}

/// Where a value is.
#[derive(Clone, Copy)]
enum Place {
    /// Among the values that nothing else reads.
    Kept,
    Field(fn(&Msrs) -> u64, fn(&mut Msrs) -> &mut u64),
    Tsc,
    TscAdjust,
    TscDeadline,
    ApicBase,
    Efer,
    FsBase,
    GsBase,
    SystemTime,
    WallClock,
}

/// What a register takes.
#[derive(Clone, Copy)]
enum Rule {
    Any,
    /// These bits; others are reserved.
    Bits(u64),
    /// These bits, until bit 0 locks it for the guest.
    Lock(u64),
    /// These bits; the second ones stay as they are.
    Partly(u64, u64),
    Canonical,
    /// The guest gets #GP. A value that is set from outside is refused too, but for the one that it has.
    ReadOnly,
    /// What the guest writes is ignored.
    Ignores,
    /// Eight memory types.
    Pat,
    /// Eight memory types that MTRRs have.
    FixedMtrr,
    /// Bases at even indices, masks at odd ones.
    VariableMtrr,
    MtrrDefault,
    ApicBase,
    Efer,
}

macro_rules! offered_by {
    () => {
        None
    };
    ($feature:ident) => {
        Some(cpuid::$feature)
    };
}

macro_rules! msrs {
    ($($indices:expr, $name:literal, $place:expr, $rule:expr, $reset:expr $(, $feature:ident)?;)*) => {
        const TABLE: &[Msr] = &[$(Msr {
            indices: $indices,
            name: $name,
            place: $place,
            rule: $rule,
            reset: $reset,
            offered_by: offered_by!($($feature)?),
        },)*];
    };
}

macro_rules! field {
    ($name:ident) => {
        Place::Field(|msrs| msrs.$name, |msrs| &mut msrs.$name)
    };
}

/// Low halves that hold anything; high halves that are reserved.
const LOW: u64 = 0xffff_ffff;
/// `IA32_PAT` after reset: Intel SDM volume 3, section 13.12.4.
const PAT: u64 = 0x0007_0406_0007_0406;
/// `IA32_MISC_ENABLE`: fast strings; no branch trace, no precise event sampling.
const FAST_STRINGS: u64 = 1;
const MISC_ENABLE_READ_ONLY: u64 = 1 << 7 | 1 << 11 | 1 << 12;
const MISC_ENABLE: u64 = FAST_STRINGS | 1 << 11 | 1 << 12;
/// `IA32_MTRRCAP`: 8 variable ranges, fixed ranges, write combining.
const MTRR_CAP: u64 = 0x508;
/// `IA32_BIOS_SIGN_ID`: revision 1 in the upper half, as KVM has it.
const MICROCODE: u64 = 1 << 32;

msrs! {
    0x10..=0x10, "TSC", Place::Tsc, Rule::Any, 0;
    0x11..=0x11, "KVM_WALL_CLOCK (old)", Place::WallClock, Rule::Any, 0, KVM_CLOCK_OLD;
    0x12..=0x12, "KVM_SYSTEM_TIME (old)", Place::SystemTime, Rule::Any, 0, KVM_CLOCK_OLD;
    0x17..=0x17, "PLATFORM_ID", Place::Kept, Rule::ReadOnly, 0;
    0x1b..=0x1b, "APIC_BASE", Place::ApicBase, Rule::ApicBase, 0;
    0x3a..=0x3a, "FEATURE_CONTROL", Place::Kept, Rule::Lock(1), 0;
    0x3b..=0x3b, "TSC_ADJUST", Place::TscAdjust, Rule::Any, 0, TSC_ADJUST;
    0x8b..=0x8b, "BIOS_SIGN_ID", Place::Kept, Rule::Ignores, MICROCODE;
    0xce..=0xce, "PLATFORM_INFO", Place::Kept, Rule::ReadOnly, 0;
    0xfe..=0xfe, "MTRRCAP", Place::Kept, Rule::ReadOnly, MTRR_CAP;
    0x140..=0x140, "MISC_FEATURES_ENABLES", Place::Kept, Rule::Bits(0), 0;
    0x174..=0x174, "SYSENTER_CS", field!(sysenter_cs), Rule::Bits(LOW), 0;
    0x175..=0x175, "SYSENTER_ESP", field!(sysenter_esp), Rule::Canonical, 0;
    0x176..=0x176, "SYSENTER_EIP", field!(sysenter_eip), Rule::Canonical, 0;
    0x179..=0x179, "MCG_CAP", Place::Kept, Rule::ReadOnly, 0;
    0x17a..=0x17a, "MCG_STATUS", Place::Kept, Rule::Bits(7), 0;
    0x1a0..=0x1a0, "MISC_ENABLE", Place::Kept, Rule::Partly(FAST_STRINGS, MISC_ENABLE_READ_ONLY), MISC_ENABLE;
    0x200..=0x20f, "MTRR_PHYSBASE, MTRR_PHYSMASK", Place::Kept, Rule::VariableMtrr, 0;
    0x250..=0x250, "MTRR_FIX64K", Place::Kept, Rule::FixedMtrr, 0;
    0x258..=0x259, "MTRR_FIX16K", Place::Kept, Rule::FixedMtrr, 0;
    0x268..=0x26f, "MTRR_FIX4K", Place::Kept, Rule::FixedMtrr, 0;
    0x277..=0x277, "PAT", Place::Kept, Rule::Pat, PAT;
    0x2ff..=0x2ff, "MTRR_DEF_TYPE", Place::Kept, Rule::MtrrDefault, 0;
    0x6e0..=0x6e0, "TSC_DEADLINE", Place::TscDeadline, Rule::Any, 0, TSC_DEADLINE;
    0x4b56_4d00..=0x4b56_4d00, "KVM_WALL_CLOCK", Place::WallClock, Rule::Any, 0, KVM_CLOCK;
    0x4b56_4d01..=0x4b56_4d01, "KVM_SYSTEM_TIME", Place::SystemTime, Rule::Any, 0, KVM_CLOCK;
    0xc000_0080..=0xc000_0080, "EFER", Place::Efer, Rule::Efer, 0;
    0xc000_0081..=0xc000_0081, "STAR", field!(star), Rule::Any, 0;
    0xc000_0082..=0xc000_0082, "LSTAR", field!(lstar), Rule::Canonical, 0;
    0xc000_0083..=0xc000_0083, "CSTAR", field!(cstar), Rule::Canonical, 0;
    0xc000_0084..=0xc000_0084, "FMASK", field!(fmask), Rule::Bits(LOW), 0;
    0xc000_0100..=0xc000_0100, "FS_BASE", Place::FsBase, Rule::Canonical, 0;
    0xc000_0101..=0xc000_0101, "GS_BASE", Place::GsBase, Rule::Canonical, 0;
    0xc000_0102..=0xc000_0102, "KERNEL_GS_BASE", field!(kernel_gs_base), Rule::Canonical, 0;
    0xc000_0103..=0xc000_0103, "TSC_AUX", field!(tsc_aux), Rule::Bits(LOW), 0, RDTSCP;
}

/// All that there are.
pub(in crate::mock) fn indices() -> Vec<u32> {
    TABLE.iter().flat_map(|row| row.indices.clone()).collect()
}

fn find(index: u32) -> Option<&'static Msr> {
    TABLE.iter().find(|row| row.indices.contains(&index))
}

/// Those that are no segment register, control register, or part of the local APIC. What instructions use is a field.
#[derive(Default)]
pub(in crate::mock) struct Msrs {
    pub(in crate::mock) sysenter_cs: u64,
    pub(in crate::mock) sysenter_esp: u64,
    pub(in crate::mock) sysenter_eip: u64,
    pub(in crate::mock) star: u64,
    pub(in crate::mock) lstar: u64,
    pub(in crate::mock) cstar: u64,
    pub(in crate::mock) fmask: u64,
    pub(in crate::mock) kernel_gs_base: u64,
    pub(in crate::mock) tsc_aux: u64,
    tsc_adjust: u64,
    pub(in crate::mock) clock_pages: ClockPages,
    /// Values that were set and that nothing else reads; the others are as after reset.
    kept: BTreeMap<u32, u64>,
}

/// What an access to an MSR depends on, and who makes it.
#[derive(Clone, Copy)]
pub(in crate::mock) struct MsrAccess<'a> {
    pub(in crate::mock) cpuid: &'a [kvm_cpuid_entry2],
    pub(in crate::mock) irqs: &'a Irqchip,
    pub(in crate::mock) inbox: &'a EventInbox,
    /// The guest is held to what CPUID offers, and to what is read-only.
    pub(in crate::mock) by_guest: bool,
}

impl MsrAccess<'_> {
    /// The row of an MSR that may be touched.
    fn row(&self, index: u32) -> Option<&'static Msr> {
        let is_offered = |feature: &Feature| !self.by_guest || feature.is_offered(self.cpuid);
        find(index).filter(|row| row.offered_by.as_ref().is_none_or(is_offered))
    }

    /// The value of one; `None` where there is no such MSR.
    pub(in crate::mock) fn get(&self, index: u32, msrs: &Msrs, sregs: &kvm_sregs) -> Option<u64> {
        let row = self.row(index)?;
        Some(self.value(index, row, msrs, sregs))
    }

    fn value(&self, index: u32, row: &Msr, msrs: &Msrs, sregs: &kvm_sregs) -> u64 {
        match row.place {
            Place::Kept => msrs.kept.get(&index).copied().unwrap_or(row.reset),
            Place::Field(get, _) => get(msrs),
            Place::Tsc => self.irqs.tsc(self.inbox),
            Place::TscAdjust => msrs.tsc_adjust,
            Place::TscDeadline => self.inbox.tsc_deadline(),
            Place::ApicBase => sregs.apic_base,
            Place::Efer => sregs.efer,
            Place::FsBase => sregs.fs.base,
            Place::GsBase => sregs.gs.base,
            Place::SystemTime => msrs.clock_pages.system_time(),
            Place::WallClock => msrs.clock_pages.wall_clock(),
        }
    }

    /// Sets one; `None` where there is no such MSR or it does not take the value.
    pub(in crate::mock) fn set(&self, index: u32, value: u64, msrs: &mut Msrs, sregs: &mut kvm_sregs) -> Option<()> {
        let row = self.row(index)?;
        let before = self.value(index, row, msrs, sregs);
        let value = self.checked(index, row, before, value, sregs)?;
        match row.place {
            Place::Kept => _ = msrs.kept.insert(index, value),
            Place::Field(_, field) => *field(msrs) = value,
            Place::Tsc | Place::TscAdjust => self.move_tsc(value.wrapping_sub(before), msrs),
            Place::TscDeadline => self.irqs.set_tsc_deadline(self.inbox, value),
            Place::ApicBase => {
                sregs.apic_base = value;
                self.inbox.set_base(value);
            }
            Place::Efer => sregs.efer = value,
            Place::FsBase => sregs.fs.base = value,
            Place::GsBase => sregs.gs.base = value,
            Place::SystemTime => {
                msrs.clock_pages.set_system_time(value);
                self.inbox.end_batch();
            }
            Place::WallClock => {
                msrs.clock_pages.set_wall_clock(value);
                self.inbox.end_batch();
            }
        }
        Some(())
    }

    /// The time-stamp counter and its adjustment move by the same (Intel SDM volume 3, section 19.17.3).
    fn move_tsc(&self, by: u64, msrs: &mut Msrs) {
        msrs.tsc_adjust = msrs.tsc_adjust.wrapping_add(by);
        self.irqs.set_tsc_offset(self.inbox, self.inbox.tsc_offset().wrapping_add(by));
    }

    /// What a register comes to hold; `None` where it does not take the value.
    fn checked(&self, index: u32, row: &Msr, before: u64, value: u64, sregs: &kvm_sregs) -> Option<u64> {
        let is_valid = match row.rule {
            Rule::Any => true,
            Rule::Bits(bits) => value & !bits == 0,
            Rule::Lock(bits) => value & !bits == 0 && (!self.by_guest || before & 1 == 0),
            Rule::Partly(bits, kept) => {
                return (value & !(bits | kept) == 0).then_some(value & bits | before & kept);
            }
            Rule::Canonical => is_canonical(value),
            Rule::ReadOnly => !self.by_guest && value == before,
            Rule::Ignores if self.by_guest => return Some(before),
            Rule::Ignores => true,
            Rule::Pat => value.to_le_bytes().into_iter().all(is_pat_type),
            Rule::FixedMtrr => value.to_le_bytes().into_iter().all(is_mtrr_type),
            Rule::VariableMtrr if index & 1 == 0 => {
                let address = cpuid::physical_mask(self.cpuid) & !0xfff;
                is_mtrr_type(value as u8) && value & !(address | 0xff) == 0
            }
            Rule::VariableMtrr => value & !(cpuid::physical_mask(self.cpuid) & !0xfff | 1 << 11) == 0,
            Rule::MtrrDefault => is_mtrr_type(value as u8) && value & !0xcff == 0,
            Rule::ApicBase => {
                const FLAGS: u64 = 1 << 11 | 1 << 8;
                value & !(cpuid::physical_mask(self.cpuid) & !0xfff | FLAGS) == 0
            }
            Rule::Efer => return self.checked_efer(before, value, sregs),
        };
        is_valid.then_some(value)
    }

    /// Bits that are offered; the long mode is not turned on or off while pages are. LMA is the processor's own.
    fn checked_efer(&self, before: u64, value: u64, sregs: &kvm_sregs) -> Option<u64> {
        const LME: u64 = 1 << 8;
        const LMA: u64 = 1 << 10;
        const PAGING: u64 = 1 << 31;
        let bits = [(cpuid::SYSCALL, 1), (cpuid::LONG_MODE, LME), (cpuid::NX, 1 << 11)];
        let has = |feature: Feature| !self.by_guest || feature.is_offered(self.cpuid);
        let offered = bits.into_iter().filter(|(feature, _)| has(*feature)).fold(LMA, |bits, (_, bit)| bits | bit);
        let changes_mode = self.by_guest && sregs.cr0 & PAGING != 0 && (before ^ value) & LME != 0;
        (value & !offered == 0 && !changes_mode).then_some(value & !LMA | before & LMA)
    }
}

/// Uncacheable, write combining, write through, write protected, write back.
fn is_mtrr_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Those, and uncached.
fn is_pat_type(kind: u8) -> bool {
    is_mtrr_type(kind) || kind == 7
}

/// Whether bits 63 to 47 are all the same.
fn is_canonical(address: u64) -> bool {
    matches!(address as i64 >> 47, 0 | -1)
}

#[cfg(test)]
mod tests;
