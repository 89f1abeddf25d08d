//! Which instructions and modes CPUID offers to the guest.

use iced_x86::CpuidFeature;
use kvm_bindings::kvm_cpuid_entry2;

/// A register of a CPUID leaf.
#[derive(Clone, Copy)]
enum Place {
    Leaf1Ecx,
    Leaf1Edx,
    Leaf7Ebx,
    Leaf7Ecx,
    ExtendedEcx,
    ExtendedEdx,
}

/// What a vCPU's CPUID offers: one bit for each feature that the interpreter has a model of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Features {
    bits: u64,
    /// Bits of a physical address (`MAXPHYADDR`).
    physical_bits: u8,
}

macro_rules! features {
    ($($number:literal $name:ident: $place:ident $bit:literal $default:literal,)*) => {
        #[allow(dead_code, reason = "the table is whole, whichever of its rows are asked for")]
        impl Features {
            $(pub(in crate::mock) const $name: u64 = 1 << $number;)*
        }

        /// Feature, register of a leaf, bit there, and whether the processor before any `set_cpuid` has it.
        const TABLE: &[(u64, Place, u32, bool)] = &[$((Features::$name, Place::$place, $bit, $default),)*];
    };
}

// Intel SDM volume 2, "CPUID"; AMD's manual volume 3, appendix E, for the extended leaves.
features! {
    0 FPU: Leaf1Edx 0 true,
    1 VME: Leaf1Edx 1 false,
    2 DE: Leaf1Edx 2 true,
    3 PSE: Leaf1Edx 3 true,
    4 TSC: Leaf1Edx 4 true,
    5 MSR: Leaf1Edx 5 true,
    6 PAE: Leaf1Edx 6 true,
    7 CX8: Leaf1Edx 8 true,
    8 APIC: Leaf1Edx 9 true,
    9 SEP: Leaf1Edx 11 true,
    10 PGE: Leaf1Edx 13 true,
    11 CMOV: Leaf1Edx 15 true,
    12 PSE36: Leaf1Edx 17 true,
    13 CLFLUSH: Leaf1Edx 19 true,
    14 MMX: Leaf1Edx 23 true,
    15 FXSR: Leaf1Edx 24 true,
    16 SSE: Leaf1Edx 25 true,
    17 SSE2: Leaf1Edx 26 true,
    18 MCE: Leaf1Edx 7 true,
    20 SSE3: Leaf1Ecx 0 false,
    21 MONITOR: Leaf1Ecx 3 false,
    22 CX16: Leaf1Ecx 13 true,
    23 PCID: Leaf1Ecx 17 false,
    24 MOVBE: Leaf1Ecx 22 false,
    25 POPCNT: Leaf1Ecx 23 true,
    26 XSAVE: Leaf1Ecx 26 false,
    30 FSGSBASE: Leaf7Ebx 0 false,
    31 SMEP: Leaf7Ebx 7 false,
    32 INVPCID: Leaf7Ebx 10 false,
    33 SMAP: Leaf7Ebx 20 false,
    34 CLFLUSHOPT: Leaf7Ebx 23 false,
    35 UMIP: Leaf7Ecx 2 false,
    36 RDPID: Leaf7Ecx 22 false,
    40 LAHF64: ExtendedEcx 0 true,
    41 LZCNT: ExtendedEcx 5 false,
    50 SYSCALL: ExtendedEdx 11 true,
    51 NX: ExtendedEdx 20 true,
    52 PAGE1GB: ExtendedEdx 26 true,
    53 RDTSCP: ExtendedEdx 27 true,
    54 LM: ExtendedEdx 29 true,
}

/// `MAXPHYADDR` where leaf 0x80000008 does not say it (Intel SDM volume 3, section 5.1.4).
const LEAST_PHYSICAL_BITS: u8 = 36;
/// The most there can be.
const MOST_PHYSICAL_BITS: u8 = 52;

impl Default for Features {
    /// The processor before any `set_cpuid`.
    fn default() -> Self {
        let bits = TABLE.iter().filter(|row| row.3).fold(0, |bits, row| bits | row.0);
        Self { bits, physical_bits: 46 }
    }
}

impl Features {
    /// What these leaves offer; of none, the default.
    pub(in crate::mock) fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        if entries.is_empty() {
            return Self::default();
        }
        let leaf = |function| entries.iter().find(|entry| entry.function == function && entry.index == 0);
        let register = |place| match place {
            Place::Leaf1Ecx => leaf(1).map(|leaf| leaf.ecx),
            Place::Leaf1Edx => leaf(1).map(|leaf| leaf.edx),
            Place::Leaf7Ebx => leaf(7).map(|leaf| leaf.ebx),
            Place::Leaf7Ecx => leaf(7).map(|leaf| leaf.ecx),
            Place::ExtendedEcx => leaf(0x8000_0001).map(|leaf| leaf.ecx),
            Place::ExtendedEdx => leaf(0x8000_0001).map(|leaf| leaf.edx),
        };
        let offers = |place, bit: u32| register(place).is_some_and(|bits| bits >> bit & 1 != 0);
        let bits = TABLE.iter().filter(|row| offers(row.1, row.2)).fold(0, |bits, row| bits | row.0);
        let physical = leaf(0x8000_0008).map_or(0, |leaf| leaf.eax as u8);
        let physical_bits = match physical {
            0 => LEAST_PHYSICAL_BITS,
            bits => bits.clamp(32, MOST_PHYSICAL_BITS),
        };
        Self { bits, physical_bits }
    }

    /// Whether all of these are offered.
    #[inline]
    pub(in crate::mock) fn has(self, features: u64) -> bool {
        self.bits & features == features
    }

    /// The bits of a physical address that there are.
    pub(in crate::mock) fn physical_mask(self) -> u64 {
        (1 << self.physical_bits) - 1
    }

    /// Whether an instruction that needs what iced names so is there.
    pub(super) fn allows(self, needed: CpuidFeature) -> bool {
        use CpuidFeature as F;
        let bit = match needed {
            F::INTEL8086 | F::INTEL8086_ONLY | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => 0,
            F::MULTIBYTENOP | F::PAUSE | F::CPUID | F::CET_IBT | F::CET_SS | F::RDPMC | F::UDBG | F::SMM => 0,
            // A processor without an x87 unit has no `fwait` either, but one that takes it as a no-op is as good.
            F::FPU | F::FPU287 | F::FPU387 => Self::FPU,
            F::CX8 => Self::CX8,
            F::CMPXCHG16B => Self::CX16,
            F::CMOV => Self::CMOV,
            F::CLFSH => Self::CLFLUSH,
            F::CLFLUSHOPT => Self::CLFLUSHOPT,
            F::FXSR => Self::FXSR,
            F::MMX => Self::MMX,
            F::SSE => Self::SSE,
            F::SSE2 => Self::SSE2,
            F::SSE3 => Self::SSE3,
            F::MSR => Self::MSR,
            F::TSC => Self::TSC,
            F::RDTSCP => Self::RDTSCP,
            F::SEP => Self::SEP,
            F::SYSCALL => Self::SYSCALL,
            F::MONITOR => Self::MONITOR,
            F::MOVBE => Self::MOVBE,
            F::POPCNT => Self::POPCNT,
            F::LZCNT => Self::LZCNT,
            F::FSGSBASE => Self::FSGSBASE,
            F::INVPCID => Self::INVPCID,
            F::SMAP => Self::SMAP,
            F::XSAVE => Self::XSAVE,
            F::RDPID => Self::RDPID,
            _ => return false,
        };
        self.has(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_has_a_bit_of_its_own() {
        let all = TABLE.iter().fold(0_u64, |bits, row| {
            assert_eq!(bits & row.0, 0, "{:#x}", row.0);
            bits | row.0
        });
        assert_eq!(all.count_ones() as usize, TABLE.len());
    }

    #[test]
    fn cpuid_supports_what_the_default_processor_has() {
        let supported = Features::of(&crate::mock::model::cpuid::supported());
        assert!(supported.has(Features::default().bits));
        assert_eq!(supported.physical_bits, Features::default().physical_bits);
    }

    #[test]
    fn leaves_decide_what_is_offered() {
        let leaf1 = kvm_cpuid_entry2 { function: 1, edx: 1 << 26, ..Default::default() };
        let features = Features::of(&[leaf1]);
        assert!(features.has(Features::SSE2) && !features.has(Features::SSE) && !features.allows(CpuidFeature::AVX));
        assert!(Features::of(&[]).has(Features::LM | Features::NX | Features::CX16));
        assert_eq!(features.physical_mask(), 0xf_ffff_ffff);
    }
}
