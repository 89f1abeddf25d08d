//! Generated user-mode programs in 64-bit mode run on the host's processor as they run on the mock.

use hypervisor::kvm::Kvm;
use test_utils::differential::long::{Machine, UserMode};
use test_utils::differential::{Campaign, End};
use test_utils::kvm::{kvm_or_skip, skipped};

use super::{MOST_UNEXPLAINED, PROGRAMS, check, number};

/// KVM, where it runs 64-bit ring 3 at all.
fn kvm(test: &str) -> Option<Machine> {
    let mut machine = kvm_or_skip(test).map(|kvm: Kvm| Machine::new(&kvm))?;
    let program = Campaign::<UserMode>::program(0, 0);
    if matches!(machine.run(&program.start, &[]).end, End::Exception(_)) {
        return Some(machine);
    }
    skipped(test, &"this host does not run 64-bit user mode");
    None
}

#[test]
fn long_mode_programs_agree() {
    let Some(kvm) = kvm("long_mode_programs_agree") else { return };
    let programs = number("OUTBOARD_PROGRAMS").unwrap_or(PROGRAMS);
    let seed = number("OUTBOARD_SEED").unwrap_or(1);
    check(&Campaign::new(UserMode::new(kvm, Machine::mock())).run(seed, programs, MOST_UNEXPLAINED));
}
