//! What the mock's processor says it can do: the least that makes sense.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, EDX: FPU, TSC, MSR, CX8, APIC, CMOV, FXSR, SSE, SSE2. Of the FPU and of SSE there are the registers alone.
const FEATURES: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;
/// Leaf 1, ECX: XSAVE.
const XSAVE: u32 = 1 << 26;
/// XCR0's bits for x87 and SSE.
const XCR0: u32 = 0b11;
/// Bytes of an XSAVE area with these two: legacy area and header.
const XSAVE_BYTES: u32 = 576;
/// Bits of physical addresses, and of virtual ones above them.
const ADDRESS_BITS: u32 = 48 << 8 | 46;

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

/// A leaf that is a name of 12 characters behind a number; `order` says which words of it are EBX, ECX, EDX.
fn named(function: u32, eax: u32, name: &[u8; 12], order: [usize; 3]) -> kvm_cpuid_entry2 {
    let (words, _) = name.as_chunks::<4>();
    let word = |index: usize| words.get(index).copied().map_or(0, u32::from_le_bytes);
    let [ebx, ecx, edx] = order.map(word);
    leaf(function, [eax, ebx, ecx, edx])
}

/// Everything.
pub(in crate::mock) fn supported() -> Vec<kvm_cpuid_entry2> {
    let xsave = leaf(0xd, [XCR0, XSAVE_BYTES, XSAVE_BYTES, 0]);
    vec![
        named(0, 0xd, b"OutboardMock", [0, 2, 1]),
        leaf(1, [crate::mock::reset::SIGNATURE as u32, 0, XSAVE, FEATURES]),
        kvm_cpuid_entry2 { flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..xsave },
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]),
    ]
}

/// Nothing is emulated: the one leaf that says so.
pub(in crate::mock) fn emulated() -> Vec<kvm_cpuid_entry2> {
    vec![leaf(0, [0; 4])]
}

/// Hyper-V: its name, its interface, and that there are hypercalls and a SynIC (HV_PARTITION_PRIVILEGE_MASK in
/// Microsoft's Hypervisor Top Level Functional Specification, section 2.4).
pub(in crate::mock) fn hyperv() -> Vec<kvm_cpuid_entry2> {
    const HYPERCALLS_AND_SYNIC: u32 = 1 << 5 | 1 << 2;
    vec![
        named(0x4000_0000, 0x4000_0003, b"OutboardMock", [0, 1, 2]),
        leaf(0x4000_0001, [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0]),
        leaf(0x4000_0003, [HYPERCALLS_AND_SYNIC, 0, 0, 0]),
    ]
}

/// Whether KVM takes such leaves: linear addresses have 48 or 57 bits where they are told at all.
pub(in crate::mock) fn is_valid(entries: &[kvm_cpuid_entry2]) -> bool {
    let addresses = entries.iter().find(|entry| entry.function == 0x8000_0008);
    addresses.is_none_or(|entry| matches!(entry.eax >> 8 & 0xff, 0 | 48 | 57))
}

/// The bits of XCR0 that these leaves allow; x87 always is.
pub(in crate::mock) fn allowed_xcr0(entries: &[kvm_cpuid_entry2]) -> u64 {
    let xsave = entries.iter().find(|entry| (entry.function, entry.index) == (0xd, 0));
    xsave.map_or(0, |entry| u64::from(entry.edx) << 32 | u64::from(entry.eax)) & u64::from(XCR0) | 1
}
