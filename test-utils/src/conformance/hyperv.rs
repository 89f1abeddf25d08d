//! Hyper-V, where the backend has it.

use hypervisor::{Capability, Vm};
use kvm_bindings::KVM_CAP_HYPERV_CPUID;

use super::*;
use crate::kvm::skipped;

fn lacks(vm: &dyn Vm, capability: u32, case: &str) -> bool {
    let lacks = vm.check_extension(capability) <= 0;
    if lacks {
        skipped(case, &format!("the backend lacks capability {capability}"));
    }
    lacks
}

/// The first leaf names the highest, and all lie in between.
pub fn hyperv_leaves_lie_together(make: Make) {
    let Guest { vm, vcpu, .. } = guest!(make, Program::new());
    if lacks(&*vm, KVM_CAP_HYPERV_CPUID, "hyperv_leaves_lie_together") {
        return;
    }
    let leaves = vcpu.hyperv_cpuid().expect("hyperv_cpuid");
    let first = leaves.first().expect("a leaf");
    assert_eq!(first.function, 0x4000_0000);
    assert!(leaves.iter().any(|leaf| leaf.function == 0x4000_0001 && leaf.eax == u32::from_le_bytes(*b"Hv#1")));
}

/// Both kinds of the interrupt controller.
pub fn the_hyperv_interrupt_controller_is_turned_on(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new());
    for capability in [Capability::HypervSynic, Capability::HypervSynic2] {
        if !lacks(&*vm, capability.number(), "the_hyperv_interrupt_controller_is_turned_on") {
            vcpu.enable_capability(capability).expect("enable_capability");
        }
    }
}

/// The kernel's errno comes through.
pub fn a_capability_that_is_lacking_is_refused(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new());
    if vm.check_extension(Capability::HypervSynic.number()) <= 0 {
        assert_eq!(errno(vcpu.enable_capability(Capability::HypervSynic)), EINVAL);
    }
}
