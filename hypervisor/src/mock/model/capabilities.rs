//! What the mock says it can do.

use kvm_bindings::*;

use crate::mock::irq::routing::MAX_ROUTES;
use crate::mock::memory::MAX_SLOTS;

/// vCPUs, and numbers for them: the kernel's own limit on x86-64 (`CONFIG_KVM_MAX_NR_VCPUS`). A vCPU costs the mock
/// nothing but its thread, so as many are recommended.
const MAX_VCPUS: i32 = 1024;

/// A capability that is claimed.
struct Claim {
    number: u32,
    /// What `KVM_CHECK_EXTENSION` returns.
    value: i32,
    /// For its kind of vCPU alone.
    of: Vcpus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vcpus {
    Any,
    /// Those that follow a script, which makes Hyper-V's exits.
    Scripted,
}

const fn claim(number: u32) -> Claim {
    Claim { number, value: 1, of: Vcpus::Any }
}

const fn valued(number: u32, value: i32) -> Claim {
    Claim { number, value, of: Vcpus::Any }
}

const fn scripted(number: u32) -> Claim {
    Claim { number, value: 1, of: Vcpus::Scripted }
}

/// What is claimed is there, and what is not there is not claimed. Beside each is what has it.
const CLAIMS: &[Claim] = &[
    // The chips: model and `VmState`.
    claim(KVM_CAP_IRQCHIP),
    claim(KVM_CAP_PIT2),
    claim(KVM_CAP_PIT_STATE2),
    // vCPU: `hlt` waits within a run; `VcpuState` has the rest.
    claim(KVM_CAP_HLT),
    claim(KVM_CAP_EXT_CPUID),
    claim(KVM_CAP_EXT_EMUL_CPUID),
    claim(KVM_CAP_MP_STATE),
    claim(KVM_CAP_VCPU_EVENTS),
    claim(KVM_CAP_DEBUGREGS),
    claim(KVM_CAP_XCRS),
    // The call is there; which capabilities it enables depends on the vCPU.
    claim(KVM_CAP_ENABLE_CAP),
    claim(KVM_CAP_IMMEDIATE_EXIT),
    claim(KVM_CAP_INTERNAL_ERROR_DATA),
    valued(KVM_CAP_NR_VCPUS, MAX_VCPUS),
    valued(KVM_CAP_MAX_VCPUS, MAX_VCPUS),
    valued(KVM_CAP_MAX_VCPU_ID, MAX_VCPUS),
    // Memory: slots come and go, side by side, and what the plugin changes in its mapping is seen.
    claim(KVM_CAP_USER_MEMORY),
    claim(KVM_CAP_READONLY_MEM),
    claim(KVM_CAP_SYNC_MMU),
    claim(KVM_CAP_DESTROY_MEMORY_REGION_WORKS),
    claim(KVM_CAP_JOIN_MEMORY_REGIONS_WORKS),
    claim(KVM_CAP_SET_IDENTITY_MAP_ADDR),
    valued(KVM_CAP_NR_MEMSLOTS, MAX_SLOTS as i32),
    // Interrupts: routes, irqfds with resample events.
    valued(KVM_CAP_IRQ_ROUTING, MAX_ROUTES as i32),
    claim(KVM_CAP_IRQFD),
    claim(KVM_CAP_IRQFD_RESAMPLE),
    // Writes that do not exit.
    claim(KVM_CAP_IOEVENTFD),
    claim(KVM_CAP_IOEVENTFD_ANY_LENGTH),
    valued(KVM_CAP_COALESCED_MMIO, KVM_COALESCED_MMIO_PAGE_OFFSET as i32),
    claim(KVM_CAP_COALESCED_PIO),
    // Time: kvmclock's MSRs; the flags that its state has; the local APIC timer's deadline mode.
    claim(KVM_CAP_CLOCKSOURCE),
    valued(KVM_CAP_ADJUST_CLOCK, KVM_CLOCK_TSC_STABLE as i32),
    claim(KVM_CAP_TSC_DEADLINE_TIMER),
    // This call, of a VM.
    claim(KVM_CAP_CHECK_EXTENSION_VM),
    // Guest code that speaks Hyper-V gets #GP.
    scripted(KVM_CAP_HYPERV),
    scripted(KVM_CAP_HYPERV_CPUID),
    scripted(KVM_CAP_HYPERV_SYNIC),
    scripted(KVM_CAP_HYPERV_SYNIC2),
];

/// `KVM_CHECK_EXTENSION` for a VM whose vCPUs follow scripts or execute guest code: 0 for all that there is no model
/// of.
pub(in crate::mock) fn check(number: u32, is_scripted: bool) -> i32 {
    let found = CLAIMS.iter().find(|claim| claim.number == number);
    found.filter(|claim| is_scripted || claim.of == Vcpus::Any).map_or(0, |claim| claim.value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_capability_is_claimed_once_and_the_others_are_not() {
        let numbers: BTreeSet<_> = CLAIMS.iter().map(|claim| claim.number).collect();
        assert_eq!(numbers.len(), CLAIMS.len());
        for number in 0..1000 {
            assert_eq!(check(number, true) != 0, numbers.contains(&number), "{number}");
        }
        assert_eq!(check(u32::MAX, true), 0);
    }

    /// What the mock has no model of, and why a plugin could believe otherwise.
    #[test]
    fn what_is_not_there_is_not_claimed() {
        for (number, reason) in [
            (KVM_CAP_HYPERV, "MSRs from 0x40000000 on are #GP"),
            (KVM_CAP_HYPERV_SYNIC, "wrmsr 0x40000080 is #GP"),
            (KVM_CAP_HYPERV_SYNIC2, "wrmsr 0x40000080 is #GP"),
            (KVM_CAP_HYPERV_CPUID, "there is no Hyper-V CPUID"),
            (KVM_CAP_HYPERV_TIME, "there is no reference TSC page"),
            (KVM_CAP_XSAVE, "the backend has no KVM_GET_XSAVE"),
            (KVM_CAP_SET_GUEST_DEBUG, "the backend has no KVM_SET_GUEST_DEBUG"),
            (KVM_CAP_USER_NMI, "the backend has no KVM_NMI"),
            (KVM_CAP_SIGNAL_MSI, "the backend has no KVM_SIGNAL_MSI"),
            (KVM_CAP_TSC_CONTROL, "the frequency of the time-stamp counter is fixed"),
            (KVM_CAP_GET_TSC_KHZ, "the backend has no KVM_GET_TSC_KHZ"),
            (KVM_CAP_MCE, "there are no banks"),
            (KVM_CAP_SPLIT_IRQCHIP, "the chips are the mock's"),
            (KVM_CAP_X2APIC_API, "there is no x2APIC"),
            (KVM_CAP_SYNC_REGS, "registers are asked for"),
            (KVM_CAP_X86_SMM, "there is no system management mode"),
            (KVM_CAP_EXIT_ON_EMULATION_FAILURE, "a failure always exits"),
        ] {
            assert_eq!(check(number, false), 0, "{number}: {reason}");
        }
    }
}
