//! The processor of the mock, as CPUID describes it: `docs/mock-cpu.md` has the table.
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

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// A bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Feature {
    pub(in crate::mock) name: &'static str,
    leaf: u32,
    register: Register,
    bit: u32,
    /// Whether a vCPU has it before any `set_cpuid`.
    is_default: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

const EXTENDED: u32 = 0x8000_0001;
const POWER: u32 = 0x8000_0007;
/// KVM's features (`Documentation/virt/kvm/x86/cpuid.rst` of the kernel).
const KVM_FEATURES: u32 = 0x4000_0001;

macro_rules! is_default {
    (default) => {
        true
    };
    (optional) => {
        false
    };
}

macro_rules! features {
    ($($constant:ident $name:literal: $leaf:tt $register:ident $bit:literal $default:ident,)*) => {
        $(
            #[allow(dead_code, reason = "the table is whole, also where nothing asks for a row")]
            pub(in crate::mock) const $constant: Feature = Feature {
                name: $name,
                leaf: $leaf,
                register: Register::$register,
                bit: $bit,
                is_default: is_default!($default),
            };
        )*

        /// What the processor has, by leaf and bit.
        pub(in crate::mock) const SUPPORTED: &[Feature] = &[$($constant,)*];
    };
}

// Intel SDM volume 2, "CPUID": x86-64-v1, and what the names say beyond it.
features! {
    CX16 "cx16": 1 Ecx 13 default,
    PCID "pcid": 1 Ecx 17 optional,
    MOVBE "movbe": 1 Ecx 22 optional,
    POPCNT "popcnt": 1 Ecx 23 default,
    TSC_DEADLINE "tsc-deadline": 1 Ecx 24 default,
    HYPERVISOR "hypervisor": 1 Ecx 31 default,
    FPU "fpu": 1 Edx 0 default,
    VME "vme": 1 Edx 1 optional,
    DE "de": 1 Edx 2 default,
    PSE "pse": 1 Edx 3 default,
    TSC "tsc": 1 Edx 4 default,
    MSR "msr": 1 Edx 5 default,
    PAE "pae": 1 Edx 6 default,
    MCE "mce": 1 Edx 7 default,
    CX8 "cx8": 1 Edx 8 default,
    APIC "apic": 1 Edx 9 default,
    SEP "sep": 1 Edx 11 default,
    MTRR "mtrr": 1 Edx 12 default,
    PGE "pge": 1 Edx 13 default,
    MCA "mca": 1 Edx 14 default,
    CMOV "cmov": 1 Edx 15 default,
    PAT "pat": 1 Edx 16 default,
    PSE36 "pse36": 1 Edx 17 default,
    CLFLUSH "clflush": 1 Edx 19 default,
    MMX "mmx": 1 Edx 23 default,
    FXSR "fxsr": 1 Edx 24 default,
    SSE "sse": 1 Edx 25 default,
    SSE2 "sse2": 1 Edx 26 default,
    FSGSBASE "fsgsbase": 7 Ebx 0 optional,
    TSC_ADJUST "tsc-adjust": 7 Ebx 1 default,
    SMEP "smep": 7 Ebx 7 optional,
    INVPCID "invpcid": 7 Ebx 10 optional,
    SMAP "smap": 7 Ebx 20 optional,
    UMIP "umip": 7 Ecx 2 optional,
    KVM_CLOCK_OLD "kvmclock (old MSRs)": KVM_FEATURES Eax 0 default,
    KVM_CLOCK "kvmclock": KVM_FEATURES Eax 3 default,
    KVM_CLOCK_STABLE "kvmclock is stable": KVM_FEATURES Eax 24 default,
    LAHF64 "lahf in 64-bit mode": EXTENDED Ecx 0 default,
    SYSCALL "syscall": EXTENDED Edx 11 default,
    NX "nx": EXTENDED Edx 20 default,
    PAGE_1G "1 GiB pages": EXTENDED Edx 26 default,
    RDTSCP "rdtscp": EXTENDED Edx 27 default,
    LONG_MODE "long mode": EXTENDED Edx 29 default,
    INVARIANT_TSC "invariant TSC": POWER Edx 8 default,
}

/// Family 6, model 15, stepping 1.
const SIGNATURE: u32 = 0x6f1;
/// Leaf 1, EBX: `clflush` works on 64 bytes, one logical processor.
const CLFLUSH_AND_COUNT: u32 = 8 << 8 | 1 << 16;
/// The frequency of the time-stamp counter and of the local APIC's timer, in hertz.
const FREQUENCY: u32 = 1_000_000_000;
/// The same in megahertz.
const MEGAHERTZ: u32 = 1000;
/// The last basic leaf: the processor's frequency.
const LAST_BASIC: u32 = 0x16;
const LAST_EXTENDED: u32 = 0x8000_0008;
/// Bits of a physical address.
const PHYSICAL_BITS: u32 = 46;
/// Bits of a linear address.
const LINEAR_BITS: u32 = 48;

/// XCR0's bits for x87 and SSE.
const XCR0: u32 = 0b11;

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    let mut entry = kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() };
    for feature in SUPPORTED.iter().filter(|feature| feature.leaf == function) {
        *feature.register.of_mut(&mut entry) |= 1 << feature.bit;
    }
    entry
}

/// A leaf that has an index.
fn indexed(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..leaf(function, registers) }
}

/// A leaf that is a name of 12 characters behind a number; `order` says which words of it are EBX, ECX, EDX.
fn named(function: u32, eax: u32, name: &[u8; 12], order: [usize; 3]) -> kvm_cpuid_entry2 {
    let (words, _) = name.as_chunks::<4>();
    let word = |index: usize| words.get(index).copied().map_or(0, u32::from_le_bytes);
    let [ebx, ecx, edx] = order.map(word);
    leaf(function, [eax, ebx, ecx, edx])
}

/// The three leaves with the processor's name.
fn brand() -> impl Iterator<Item = kvm_cpuid_entry2> {
    const NAME: &[u8; 48] = b"Outboard mock processor                        \0";
    let (words, _) = NAME.as_chunks::<4>();
    let word = |index: usize| words.get(index).copied().map_or(0, u32::from_le_bytes);
    [(0x8000_0002, 0), (0x8000_0003, 4), (0x8000_0004, 8)]
        .into_iter()
        .map(move |(function, first)| leaf(function, [0, 1, 2, 3].map(|register: usize| word(register | first))))
}

/// All that a vCPU can offer. Before any `set_cpuid` it has most of that, see [`Feature`].
pub(in crate::mock) fn supported() -> Vec<kvm_cpuid_entry2> {
    let basic = [
        named(0, LAST_BASIC, b"GenuineIntel", [0, 2, 1]),
        leaf(1, [SIGNATURE, CLFLUSH_AND_COUNT, 0, 0]),
        // To be asked for once; no caches are described, here or in leaf 4.
        leaf(2, [1, 0, 0, 0]),
        indexed(4, 0, [0; 4]),
        indexed(7, 0, [0; 4]),
        // The counter is the crystal's clock times 1 / 1.
        leaf(0x15, [1, 1, FREQUENCY, 0]),
        leaf(0x16, [MEGAHERTZ, MEGAHERTZ, MEGAHERTZ, 0]),
        named(0x4000_0000, KVM_FEATURES, b"KVMKVMKVM\0\0\0", [0, 1, 2]),
        leaf(KVM_FEATURES, [0; 4]),
        leaf(0x8000_0000, [LAST_EXTENDED, 0, 0, 0]),
        leaf(EXTENDED, [0; 4]),
    ];
    let last = [leaf(POWER, [0; 4]), leaf(LAST_EXTENDED, [LINEAR_BITS << 8 | PHYSICAL_BITS, 0, 0, 0])];
    basic.into_iter().chain(brand()).chain(last).collect()
}

/// Nothing is emulated: the one leaf that says so.
pub(in crate::mock) fn emulated() -> Vec<kvm_cpuid_entry2> {
    vec![leaf(0, [0; 4])]
}

/// Hyper-V, for vCPUs that follow a script: its name, its interface, and that there are hypercalls and a SynIC
/// (HV_PARTITION_PRIVILEGE_MASK in Microsoft's Hypervisor Top Level Functional Specification, section 2.4).
pub(in crate::mock) fn hyperv() -> Vec<kvm_cpuid_entry2> {
    const HYPERCALLS_AND_SYNIC: u32 = 1 << 5 | 1 << 2;
    let plain = |function, eax| kvm_cpuid_entry2 { function, eax, ..Default::default() };
    vec![
        named(0x4000_0000, 0x4000_0003, b"OutboardMock", [0, 1, 2]),
        plain(0x4000_0001, u32::from_le_bytes(*b"Hv#1")),
        plain(0x4000_0003, HYPERCALLS_AND_SYNIC),
    ]
}

impl Register {
    fn of(self, entry: &kvm_cpuid_entry2) -> u32 {
        match self {
            Self::Eax => entry.eax,
            Self::Ebx => entry.ebx,
            Self::Ecx => entry.ecx,
            Self::Edx => entry.edx,
        }
    }

    fn of_mut(self, entry: &mut kvm_cpuid_entry2) -> &mut u32 {
        match self {
            Self::Eax => &mut entry.eax,
            Self::Ebx => &mut entry.ebx,
            Self::Ecx => &mut entry.ecx,
            Self::Edx => &mut entry.edx,
        }
    }
}

impl Feature {
    /// Whether these leaves offer it; without any, whether the processor has it.
    pub(in crate::mock) fn is_offered(self, entries: &[kvm_cpuid_entry2]) -> bool {
        if entries.is_empty() {
            return self.is_default;
        }
        let entry = entries.iter().find(|entry| entry.function == self.leaf && entry.index == 0);
        entry.is_some_and(|entry| self.register.of(entry) >> self.bit & 1 == 1)
    }
}

/// The bits of a physical address by these leaves: 36 where they do not say it (Intel SDM volume 3, section 5.1.4).
pub(in crate::mock) fn physical_mask(entries: &[kvm_cpuid_entry2]) -> u64 {
    const LEAST: u32 = 36;
    const MOST: u32 = 52;
    let told = entries.iter().find(|entry| entry.function == LAST_EXTENDED).map_or(LEAST, |entry| entry.eax & 0xff);
    let bits = if entries.is_empty() { PHYSICAL_BITS } else { told };
    !(u64::MAX << bits.clamp(32, MOST))
}

/// Whether KVM takes such leaves: linear addresses have 48 or 57 bits where they are told at all.
pub(in crate::mock) fn is_valid(entries: &[kvm_cpuid_entry2]) -> bool {
    let addresses = entries.iter().find(|entry| entry.function == LAST_EXTENDED);
    addresses.is_none_or(|entry| matches!(entry.eax >> 8 & 0xff, 0 | 48 | 57))
}

/// The bits of XCR0 that these leaves allow; x87 always is.
pub(in crate::mock) fn allowed_xcr0(entries: &[kvm_cpuid_entry2]) -> u64 {
    let xsave = entries.iter().find(|entry| (entry.function, entry.index) == (0xd, 0));
    xsave.map_or(0, |entry| u64::from(entry.edx) << 32 | u64::from(entry.eax)) & u64::from(XCR0) | 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use super::*;
    use crate::mock::cpu::Features;

    /// The document with the tables.
    const DOCUMENT: &str = include_str!("../../../../docs/mock-cpu.md");

    /// The rows of one of two tables, as the document should have them.
    fn rows(is_default: bool) -> String {
        let name = |register: Register| format!("{register:?}").to_lowercase();
        let mut places = BTreeMap::<_, Vec<_>>::new();
        for feature in SUPPORTED.iter().filter(|feature| feature.is_default == is_default) {
            places.entry((feature.leaf, name(feature.register))).or_default().push(feature.name);
        }
        let mut rows = String::new();
        for ((leaf, register), names) in places {
            writeln!(rows, "| {leaf:#x} | {register} | {} |", names.join(", ")).unwrap();
        }
        rows
    }

    #[test]
    fn the_document_names_the_features_that_are_offered() {
        for is_default in [true, false] {
            let rows = rows(is_default);
            assert!(DOCUMENT.contains(&rows), "a table in docs/mock-cpu.md should be\n{rows}");
        }
    }

    #[test]
    fn the_interpreter_has_the_features_of_the_default_and_of_what_is_supported() {
        let supported = supported();
        let default: Vec<_> = [1, 7, EXTENDED, LAST_EXTENDED].into_iter().map(default_leaf).collect();
        assert_eq!(Features::of(&default), Features::default());
        for (name, feature, bit) in [
            ("fsgsbase", FSGSBASE, Features::FSGSBASE),
            ("invpcid", INVPCID, Features::INVPCID),
            ("movbe", MOVBE, Features::MOVBE),
            ("pcid", PCID, Features::PCID),
            ("smap", SMAP, Features::SMAP),
            ("smep", SMEP, Features::SMEP),
            ("umip", UMIP, Features::UMIP),
            ("vme", VME, Features::VME),
        ] {
            assert!(Features::of(&supported).has(bit) && feature.is_offered(&supported), "{name}");
            assert!(!Features::default().has(bit) && !feature.is_offered(&[]), "{name}");
        }
        assert_eq!(physical_mask(&[]), physical_mask(&supported));
        assert!(!XSAVE.is_offered(&supported) && !XSAVE.is_offered(&[]));
    }

    const XSAVE: Feature = Feature { name: "xsave", leaf: 1, register: Register::Ecx, bit: 26, is_default: false };

    /// A leaf with the features of the default alone.
    fn default_leaf(function: u32) -> kvm_cpuid_entry2 {
        let supported = supported();
        let mut leaf = *supported.iter().find(|leaf| leaf.function == function).unwrap();
        for feature in SUPPORTED.iter().filter(|feature| feature.leaf == function && !feature.is_default) {
            *feature.register.of_mut(&mut leaf) &= !(1 << feature.bit);
        }
        leaf
    }

    #[test]
    fn the_highest_leaves_are_the_last_ones() {
        let supported = supported();
        for first in [0, 0x4000_0000, 0x8000_0000] {
            let range = supported.iter().filter(|entry| entry.function & 0xf000_0000 == first);
            let highest = range.map(|entry| entry.function).max().unwrap();
            let told = supported.iter().find(|entry| entry.function == first).unwrap().eax;
            assert_eq!(told, highest, "{first:#x}");
        }
    }

    #[test]
    fn a_physical_address_has_the_bits_that_are_told() {
        let leaf = |eax| [kvm_cpuid_entry2 { function: LAST_EXTENDED, eax, ..Default::default() }];
        assert_eq!(physical_mask(&leaf(40)), 0xff_ffff_ffff);
        assert_eq!(physical_mask(&[kvm_cpuid_entry2::default()]), 0xf_ffff_ffff);
    }
}
