//! What a backend says of itself.

use kvm_bindings::{KVM_CAP_IRQCHIP, KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS, KVM_CAP_USER_MEMORY};

use super::*;

/// Any number may be asked for.
pub fn extensions_are_told(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    assert!(vm.check_extension(KVM_CAP_IRQCHIP) > 0);
    assert!(vm.check_extension(KVM_CAP_USER_MEMORY) > 0);
    for unknown in [100_000, u32::MAX] {
        assert_eq!(vm.check_extension(unknown), 0);
    }
}

/// As many as are recommended, at most, and their numbers.
pub fn there_may_be_a_few_vcpus_at_least(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let [recommended, most, numbers] =
        [KVM_CAP_NR_VCPUS, KVM_CAP_MAX_VCPUS, KVM_CAP_MAX_VCPU_ID].map(|number| vm.check_extension(number));
    assert!(0 < recommended && recommended <= most && most <= numbers, "{recommended}, {most}, {numbers}");
}

/// Leaf 0 says which is the highest.
pub fn cpuid_leaves_are_told_and_can_be_set(make: Make) {
    let program = Program::new();
    let Some(hypervisor) = make(&program) else { return };
    let supported = hypervisor.supported_cpuid().expect("supported_cpuid");
    assert!(supported.iter().any(|leaf| leaf.function == 0 && leaf.eax >= 1));
    assert!(supported.iter().any(|leaf| leaf.function == 1));
    assert!(!hypervisor.emulated_cpuid().expect("emulated_cpuid").is_empty());
    let mut vcpu = Guest::new(&*hypervisor, &program).vcpu;
    vcpu.set_cpuid(&supported).expect("set_cpuid");
    vcpu.set_cpuid(&[]).expect("set_cpuid");
    assert_eq!(errno(vcpu.set_cpuid(&vec![Default::default(); 257])), E2BIG);
}

/// The time-stamp counter among them.
pub fn the_msrs_are_listed_once_each(make: Make) {
    const TSC: u32 = 0x10;
    let program = Program::new();
    let Some(hypervisor) = make(&program) else { return };
    let indices = hypervisor.msr_indices().expect("msr_indices");
    assert!(indices.contains(&TSC));
    let mut sorted = indices.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), indices.len(), "none is listed twice");
}
