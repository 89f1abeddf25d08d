//! The mock conforms: where it executes guest code, and where it follows scripts.

use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Error, Exit, Hypervisor, ReadProblem, SynicWrite, Vcpu, VcpuId};
use test_utils::guest::Program;

mod guest_code {
    use super::*;

    fn mock(_case: &str, _program: &Program) -> Option<Box<dyn Hypervisor>> {
        Some(Box::new(Mock::guest_code()))
    }

    test_utils::conformance_tests!(mock);
}

mod script {
    use super::*;

    fn mock(_case: &str, program: &Program) -> Option<Box<dyn Hypervisor>> {
        Some(Box::new(Mock::new(program.script()?)))
    }

    test_utils::conformance_tests!(mock);
}

// No machine code of real mode makes Hyper-V's exits, so they are tried on the mock alone.

#[allow(clippy::expect_used, reason = "a test's helper fails the test by panicking")]
fn vcpu(steps: impl IntoIterator<Item = Step>) -> Box<dyn Vcpu> {
    let vm = Mock::new(Script::once(steps)).create_vm().expect("create_vm");
    vm.create_vcpu(VcpuId(0)).expect("create_vcpu")
}

#[test]
fn a_hyperv_call_is_answered_by_its_result() {
    let mut vcpu = vcpu([Step::HypervCall { input: 0x1_005c, params: [2, 3] }]);
    assert_eq!(vcpu.run().unwrap(), Exit::HypervCall { input: 0x1_005c, params: [2, 3] });
    assert!(matches!(vcpu.run(), Err(Error::Read { problem: ReadProblem::Unanswered, .. })));
    assert!(vcpu.answer(&[0; 4]).is_err());
    assert_eq!(vcpu.access_data(), [0; 0]);
    vcpu.answer(&0x0123_4567_89ab_cdef_u64.to_le_bytes()).unwrap();
    assert!(vcpu.set_regs(&vcpu.regs().unwrap()).is_err());
    assert_eq!(vcpu.commit().unwrap(), Exit::Interrupted);
    assert_eq!(vcpu.regs().unwrap().rax, 0x0123_4567_89ab_cdef);
}

#[test]
fn a_synic_exit_leaves_nothing_to_answer() {
    let exit = Exit::HypervSynic(SynicWrite { msr: 0x4000_0080, control: 1, evt_page: 0x5001, msg_page: 0x6001 });
    let mut vcpu = vcpu([Step::Exit(exit), Step::Exit(Exit::Shutdown)]);
    assert_eq!(vcpu.run().unwrap(), exit);
    assert!(vcpu.answer(&[0; 8]).is_err());
    assert_eq!(vcpu.run().unwrap(), Exit::Shutdown);
}
