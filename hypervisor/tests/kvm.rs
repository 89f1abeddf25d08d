//! KVM conforms, where this machine has it.

use hypervisor::Hypervisor;
use test_utils::guest::Program;
use test_utils::kvm::kvm_or_skip;

fn kvm(case: &str, _program: &Program) -> Option<Box<dyn Hypervisor>> {
    Some(Box::new(kvm_or_skip(&format!("kvm::{case}"))?))
}

test_utils::conformance_tests!(kvm);
