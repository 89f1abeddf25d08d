//! Generated user-mode programs in 64-bit mode run on the host's processor as they run on the mock.

use hypervisor::kvm::Kvm;
use test_utils::differential::long::found::FOUND;
use test_utils::differential::long::{FORMS_LEFT_OUT, LEFT_OUT, Machine, QUIRKS, UserMode, differences};
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

#[test]
fn what_was_found_in_long_mode_agrees_with_kvm() {
    let Some(mut kvm) = kvm("what_was_found_in_long_mode_agrees_with_kvm") else { return };
    let mut mock = Machine::mock();
    for found in FOUND {
        let (start, code) = (found.start(), found.bytes());
        let differ = differences(&code[..].into(), &kvm.run(&start, &code), &mock.run(&start, &code));
        assert!(differ.is_empty(), "{}: {}: {differ:#?}", found.name, found.assembly);
    }
}

#[test]
fn quirks_of_user_mode_are_documented() {
    let documentation = include_str!("../../../docs/mock-cpu.md");
    for quirk in QUIRKS {
        assert!(documentation.contains(&format!("| {} |", quirk.name)), "{}: {}", quirk.name, quirk.reason);
    }
    let mnemonics = LEFT_OUT.iter().flat_map(|(mnemonics, _)| *mnemonics).map(|mnemonic| format!("{mnemonic:?}"));
    for name in mnemonics.chain(FORMS_LEFT_OUT.iter().map(|(code, _)| format!("{:?}", code.mnemonic()))) {
        assert!(documentation.contains(&format!("`{}`", name.to_lowercase())), "{name}");
    }
}
