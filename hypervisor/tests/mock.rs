//! The mock conforms.

use hypervisor::Hypervisor;
use hypervisor::mock::Mock;
use test_utils::guest::Program;

fn mock(_case: &str, program: &Program) -> Option<Box<dyn Hypervisor>> {
    Some(Box::new(Mock::new(program.script())))
}

test_utils::conformance_tests!(mock);
