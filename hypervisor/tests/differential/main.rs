//! Generated programs run on KVM as they run on the mock. docs/mock-cpu.md says how the long run is started.

mod long;

use std::collections::BTreeSet;
use std::env;

use hypervisor::kvm::Kvm;
use iced_x86::{Code as Opcode, Mnemonic};
use test_utils::differential::found::{self, FOUND};
use test_utils::differential::{
    Campaign, End, LEFT_OUT, Machine, Mode, Op, Outcome, Picks, Program, QUIRKS, Report, Start, Unpaged, Why, codes,
    differences, explanation, is_integer,
};
use test_utils::kvm::{kvm_or_skip, skipped};

/// Programs of a short run.
const PROGRAMS: u64 = 2_000;
/// From this many on each opcode must have been executed often enough.
const MANY: u64 = 100_000;
/// How often that is.
const OFTEN: u64 = 1_000;
/// Programs that differ without an explanation, after which a run gives up.
const MOST_UNEXPLAINED: usize = 5;

fn kvm(test: &str) -> Option<Machine> {
    kvm_or_skip(test).map(|kvm: Kvm| Machine::new(&kvm))
}

/// `OUTBOARD_PROGRAMS` or `OUTBOARD_SEED`.
fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    let parsed = match value.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => value.parse(),
    };
    Some(parsed.unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

#[test]
fn generated_programs_agree() {
    let Some(kvm) = kvm("generated_programs_agree") else { return };
    let programs = number("OUTBOARD_PROGRAMS").unwrap_or(PROGRAMS);
    let seed = number("OUTBOARD_SEED").unwrap_or(1);
    let report = Campaign::new(Unpaged::new(kvm, Machine::mock())).run(seed, programs, MOST_UNEXPLAINED);
    check(&report);
}

/// Prints a report; fails where programs differ, where many meet a quirk, or where many programs have an opcode rarely.
fn check(report: &Report) {
    println!("{report}");
    assert!(report.unexplained.is_empty(), "{} programs differ", report.unexplained.len());
    assert!(report.skipped() * 100 <= report.programs, "more than 1 % of the programs meet a quirk");
    let rare: Vec<_> = report.rarest().into_iter().filter(|(_, count)| *count < OFTEN).collect();
    assert!(report.programs < MANY || rare.is_empty(), "executed too rarely: {rare:?}");
}

/// Does an instruction alone, with operands that are as simple as can be, and OF, which `into` looks for.
fn alone(machine: &mut Machine, mode: Mode, code: Opcode) -> Outcome {
    let start = Start { mode, registers: [0; 8], flags: 0x802, memory: 1 };
    let program = Program { start, ops: vec![Op { code, picks: Picks::default() }] };
    machine.run(&program.start, &program.code().bytes)
}

#[test]
fn kvm_does_not_know_what_is_left_out_for_that() {
    let Some(mut kvm) = kvm("kvm_does_not_know_what_is_left_out_for_that") else { return };
    if alone(&mut kvm, Mode::Real, Opcode::Daa).end != End::InternalError {
        skipped("kvm_does_not_know_what_is_left_out_for_that", &"this host's processor runs the guest's code itself");
        return;
    }
    for left_out in LEFT_OUT.iter().filter(|left_out| left_out.why == Why::UnknownToKvm) {
        let codes = Opcode::values().filter(|code| is_integer(*code));
        for code in codes.filter(|code| left_out.instructions.contains(&code.mnemonic())) {
            for mode in left_out.modes {
                assert_eq!(alone(&mut kvm, *mode, code).end, End::InternalError, "{code:?} in {mode:?}");
            }
        }
    }
}

/// Instructions of 64-bit code or of later processors, which the tests of long mode are for.
const ELSEWHERE: [&str; 42] = [
    "pause",
    "cdqe",
    "cqo",
    "movbe",
    "movnti",
    "movsxd",
    "cmpxchg16b",
    "popcnt",
    "popfq",
    "pushfq",
    "jrcxz",
    "iretq",
    "cmpsq",
    "lodsq",
    "movsq",
    "scasq",
    "stosq",
    "rdfsbase",
    "rdgsbase",
    "swapgs",
    "syscall",
    "sysenter",
    "sysexit",
    "sysexitq",
    "sysret",
    "sysretq",
    "wrfsbase",
    "wrgsbase",
    "clac",
    "stac",
    "invpcid",
    "monitor",
    "mwait",
    "rdpid",
    "rdpmc",
    "rdtscp",
    "clflush",
    "clflushopt",
    "lfence",
    "mfence",
    "reservednop",
    "sfence",
];

#[test]
fn what_the_mock_knows_is_generated_or_left_out_for_a_reason() {
    let documented = include_str!("../../../docs/mock-cpu.md").lines().skip_while(|line| *line != "## Instructions");
    let rows = documented.skip(1).take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| "));
    let known: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    assert!(known.len() > 100, "{known:?}");
    let name = |mnemonic: Mnemonic| format!("{mnemonic:?}").to_lowercase();
    let generated = [Mode::Real, Mode::Flat].into_iter().flat_map(codes).map(|code| name(code.mnemonic()));
    let left_out = LEFT_OUT.iter().flat_map(|left_out| left_out.instructions).map(|mnemonic| name(*mnemonic));
    let spoken_of: BTreeSet<String> = generated.chain(left_out).collect();
    let is_elsewhere = |known: &&&str| ELSEWHERE.contains(*known);
    let silent: Vec<_> =
        known.iter().filter(|known| !spoken_of.contains(**known)).filter(|known| !is_elsewhere(known)).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn each_quirk_is_documented_and_has_an_example() {
    let documentation = include_str!("../../../docs/mock-cpu.md");
    for quirk in QUIRKS {
        assert!(documentation.contains(&format!("| {} |", quirk.name)), "{}: {}", quirk.name, quirk.reason);
        let examples = FOUND.iter().filter(|found| found.quirk == Some(quirk.name));
        // The code of this one changes itself.
        assert!(quirk.name == "not-known-to-kvm" || examples.count() > 0, "{}", quirk.name);
    }
}

#[test]
fn what_was_found_stays_mended() {
    let mut mock = Machine::mock();
    for case in FOUND {
        let outcome = mock.run(&case.start(), &case.bytes());
        assert_eq!(found::told(&outcome), case.exits, "{}: {}", case.name, case.assembly);
    }
}

#[test]
fn what_was_found_agrees_with_kvm() {
    let Some(mut kvm) = kvm("what_was_found_agrees_with_kvm") else { return };
    let mut mock = Machine::mock();
    for case in FOUND {
        let (start, code) = (case.start(), case.bytes());
        let (theirs, ours) = (kvm.run(&start, &code), mock.run(&start, &code));
        let found = differences(&start, &code[..].into(), &theirs, &ours);
        let quirk = explanation(&start, &code, &theirs, &ours).map(|quirk| quirk.name);
        assert!(found.is_empty() || quirk == case.quirk, "{}: {quirk:?}, {found:#?}", case.name);
    }
}
