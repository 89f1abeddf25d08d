//! A backend that is not this project's is checked by one macro: here one around the mock, made of public API alone, as a
//! crate outside would have it.

use hypervisor::Hypervisor;
use hypervisor::mock::Mock;
use test_utils::Program;
use test_utils::faults::{Faults, Faulty};

/// What the suite asks for: a backend whose vCPUs run `program`, which lies in their memory; or `None` where this machine
/// does not have it, told by [`skipped`](test_utils::kvm::skipped).
fn third(_case: &str, _program: &Program) -> Option<Box<dyn Hypervisor>> {
    Some(Box::new(Faulty::new(Mock::guest_code(), &Faults::none())))
}

test_utils::conformance_tests!(third);
