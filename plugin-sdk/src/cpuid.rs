//! CPUID entries between the protocol's form and the kernel's.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use plugin_proto::messages::CpuidEntry;

/// Of the kernel's flags, the protocol carries whether the index counts.
pub(crate) fn to_wire(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        function: entry.function,
        has_index: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        index: entry.index,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        ..Default::default()
    }
}

/// An index that does not count is 0.
pub(crate) fn from_wire(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
    let (flags, index) = if entry.has_index { (KVM_CPUID_FLAG_SIGNIFCANT_INDEX, entry.index) } else { (0, 0) };
    kvm_cpuid_entry2 {
        function: entry.function,
        index,
        flags,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        ..Default::default()
    }
}
