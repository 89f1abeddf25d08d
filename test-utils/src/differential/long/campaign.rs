//! User-mode programs on KVM and on the mock.

use hypervisor::mock::SoftVcpu;
use iced_x86::Code as Opcode;
use proptest::strategy::Strategy;

use super::machine::Machine;
use super::program::Program;
use super::{catalog, compare, quirks, strategy};
use crate::differential::{Op, Pair, Verdict};

/// Programs of user mode in 64-bit mode.
pub struct UserMode {
    kvm: Machine,
    mock: Machine<SoftVcpu>,
}

impl UserMode {
    /// Takes the two machines.
    pub fn new(kvm: Machine, mock: Machine<SoftVcpu>) -> Self {
        Self { kvm, mock }
    }
}

impl Pair for UserMode {
    type Program = Program;

    fn strategy() -> impl Strategy<Value = Program> {
        strategy::program()
    }

    fn ops(program: &mut Program) -> &mut Vec<Op> {
        &mut program.ops
    }

    fn judge(&mut self, program: &Program) -> Verdict {
        let code = program.code();
        let kvm = self.kvm.run(&program.start, &code.bytes);
        let (mock, executed) = self.mock.run_noting(&program.start, &code.bytes);
        let found = compare::differences(&code, &kvm, &mock);
        if found.is_empty() {
            return Verdict::Agreed(executed);
        }
        match quirks::explanation(&code.bytes, &kvm, &mock) {
            Some(quirk) => Verdict::Quirk(quirk.name),
            None => Verdict::Unexplained(found),
        }
    }

    fn generated() -> Vec<Opcode> {
        catalog::all()
    }
}
