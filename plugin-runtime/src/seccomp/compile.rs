//! From a policy to the program that the kernel runs at each system call.
//!
//! The kernel keeps, for each call, whether the program always allows it whatever the arguments, and does not run the
//! program for those. For the others the call is looked for by halving, so no call's place in a policy matters.

use syscalls::Sysno;

use super::bpf::{Builder, Instruction, Label, code};
use super::policy::{Comparison, Condition, Operator, Otherwise, Policy, Rule};

/// `SECCOMP_RET_ALLOW` of `linux/seccomp.h`.
pub(super) const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO`; the error number stands in the lower half.
pub(super) const ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_USER_NOTIF`: hold the caller, and ask the listener.
pub(super) const NOTIFY: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_LOG`: note the call in the kernel's log, and make it.
pub(super) const LOG: u32 = 0x7ffc_0000;
/// `SECCOMP_RET_KILL_PROCESS`: do not make the call, and end the process by `SIGSYS`.
pub(super) const KILL: u32 = 0x8000_0000;
/// `SECCOMP_RET_TRAP`: do not make the call, and send `SIGSYS`.
pub(super) const TRAP: u32 = 0x0003_0000;

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
pub(super) const X86_64: u32 = 0xc000_003e;
/// `__X32_SYSCALL_BIT` of `asm/unistd.h`: set in the numbers of another ABI of the same architecture.
pub(super) const X32_BIT: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data` of `linux/seccomp.h`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

/// The program for `policy`. What is no x86-64 call, or is not allowed, is answered with `violation`.
pub(super) fn compile(policy: &Policy, violation: u32) -> Vec<Instruction> {
    let mut program = Builder::default();
    let rules: Vec<_> = policy.rules.iter().collect();
    let search = search(&mut program, &rules, violation);
    let refused = program.ret(violation);
    let abi = program.branch(code::JUMP_IF_ANY_BIT, X32_BIT, refused, search);
    let number = program.load(NUMBER, abi);
    let refused = program.ret(violation);
    let architecture = program.branch(code::JUMP_IF_EQUAL, X86_64, number, refused);
    program.load(ARCHITECTURE, architecture);
    program.finish()
}

/// Finds the rule of the call whose number is loaded among `rules`, which are sorted, and follows it.
fn search(program: &mut Builder, rules: &[(&Sysno, &Rule)], violation: u32) -> Label {
    match rules {
        [] => program.ret(violation),
        [(call, rule)] => {
            let matching = self::rule(program, rule, violation);
            let other = program.ret(violation);
            program.branch(code::JUMP_IF_EQUAL, call.id() as u32, matching, other)
        }
        _ => {
            let (lower, upper) = rules.split_at(rules.len() / 2);
            let first_of_upper = upper[0].0.id() as u32;
            let upper = search(program, upper, violation);
            let lower = search(program, lower, violation);
            program.branch(code::JUMP_IF_GREATER_OR_EQUAL, first_of_upper, upper, lower)
        }
    }
}

fn rule(program: &mut Builder, rule: &Rule, violation: u32) -> Label {
    let otherwise = match rule.otherwise {
        Otherwise::Violation => violation,
        Otherwise::Errno(errno) => ERRNO | u32::from(errno),
    };
    // A rule without comparisons must not look at arguments, or the kernel could not keep its answer.
    if rule.allowed.iter().any(Vec::is_empty) {
        return program.ret(ALLOW);
    }
    condition(program, &rule.allowed, otherwise)
}

fn condition(program: &mut Builder, any_of: &Condition, otherwise: u32) -> Label {
    let mut failed = program.ret(otherwise);
    for all_of in any_of.iter().rev() {
        let mut next = program.ret(ALLOW);
        for one in all_of.iter().rev() {
            next = comparison(program, *one, next, failed);
        }
        failed = next;
    }
    failed
}

/// Goes to `yes` if the comparison holds, else to `no`. A word is 32 bits, so each half is compared by itself.
fn comparison(program: &mut Builder, comparison: Comparison, yes: Label, no: Label) -> Label {
    let Comparison { argument, operator, constant } = comparison;
    let low_offset = ARGUMENTS + 8 * u32::from(argument);
    let high_offset = low_offset + 4;
    let (low, high) = (constant as u32, (constant >> 32) as u32);
    match operator {
        Operator::Equal => {
            let same_low = program.branch(code::JUMP_IF_EQUAL, low, yes, no);
            let same_high = program.load(low_offset, same_low);
            let compare_high = program.branch(code::JUMP_IF_EQUAL, high, same_high, no);
            program.load(high_offset, compare_high)
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            let code =
                if operator == Operator::Greater { code::JUMP_IF_GREATER } else { code::JUMP_IF_GREATER_OR_EQUAL };
            let compare_low = program.branch(code, low, yes, no);
            let same_high = program.load(low_offset, compare_low);
            let not_greater = program.branch(code::JUMP_IF_EQUAL, high, same_high, no);
            let compare_high = program.branch(code::JUMP_IF_GREATER, high, yes, not_greater);
            program.load(high_offset, compare_high)
        }
        Operator::AnyBit => {
            let test_low = program.branch(code::JUMP_IF_ANY_BIT, low, yes, no);
            let none_in_high = program.load(low_offset, test_low);
            let test_high = program.branch(code::JUMP_IF_ANY_BIT, high, yes, none_in_high);
            program.load(high_offset, test_high)
        }
        Operator::NotEqual => opposite(program, Operator::Equal, comparison, yes, no),
        Operator::Less => opposite(program, Operator::GreaterOrEqual, comparison, yes, no),
        Operator::LessOrEqual => opposite(program, Operator::Greater, comparison, yes, no),
        Operator::NoOtherBit => {
            let others = Comparison { constant: !constant, ..comparison };
            opposite(program, Operator::AnyBit, others, yes, no)
        }
    }
}

fn opposite(program: &mut Builder, operator: Operator, of: Comparison, yes: Label, no: Label) -> Label {
    comparison(program, Comparison { operator, ..of }, no, yes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::interpreter::{Call, meaning, run};
    use super::*;

    const VIOLATION: u32 = TRAP;

    /// Values that are likely to be the same, to differ in one half only, or by one.
    fn value() -> impl Strategy<Value = u64> {
        let half = || prop_oneof![Just(0), Just(1), Just(2), Just(u32::MAX - 1), Just(u32::MAX), any::<u32>()];
        (half(), half()).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low))
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        let operator = prop::sample::select(vec![
            Operator::Equal,
            Operator::NotEqual,
            Operator::Less,
            Operator::LessOrEqual,
            Operator::Greater,
            Operator::GreaterOrEqual,
            Operator::AnyBit,
            Operator::NoOtherBit,
        ]);
        (0..6_u8, operator, value()).prop_map(|(argument, operator, constant)| Comparison {
            argument,
            operator,
            constant,
        })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let otherwise = prop_oneof![Just(Otherwise::Violation), (1..4096_u16).prop_map(Otherwise::Errno)];
        let condition = prop::collection::vec(prop::collection::vec(comparison(), 0..4), 0..4);
        (condition, otherwise).prop_map(|(allowed, otherwise)| Rule { allowed, otherwise })
    }

    fn call_name() -> impl Strategy<Value = Sysno> {
        prop::sample::select(Sysno::iter().collect::<Vec<_>>())
    }

    fn policy() -> impl Strategy<Value = Policy> {
        prop::collection::btree_map(call_name(), rule(), 0..20).prop_map(|rules| Policy { rules })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_program_answers_as_its_policy_says(
            policy in policy(),
            calls in prop::collection::vec((any::<prop::sample::Index>(), prop::array::uniform6(value())), 20),
            stray in any::<u32>(),
        ) {
            let program = compile(&policy, VIOLATION);
            let numbers: Vec<_> = policy.rules.keys().map(|call| call.id() as u32).chain([stray]).collect();
            for (index, arguments) in calls {
                let mut call = Call::new(*index.get(&numbers), arguments);
                prop_assert_eq!(run(&program, &call), meaning(&policy, &call, VIOLATION), "{:?}", call);
                call.number |= X32_BIT;
                prop_assert_eq!(run(&program, &call), VIOLATION);
            }
        }
    }

    #[test]
    fn calls_of_another_architecture_are_violations() {
        let policy = Policy { rules: BTreeMap::from([(Sysno::read, Rule::always())]) };
        let program = compile(&policy, VIOLATION);
        let native = Call::new(0, [0; 6]);
        assert_eq!(run(&program, &native), ALLOW);
        assert_eq!(run(&program, &Call { architecture: 0x4000_0003, ..native }), VIOLATION);
    }

    #[test]
    fn a_rule_longer_than_a_jump_reaches_is_compiled_right() {
        let equal = |constant| vec![Comparison { argument: 3, operator: Operator::Equal, constant }];
        let long = Rule { allowed: (0..500).map(|n| equal(n << 20)).collect(), otherwise: Otherwise::Errno(7) };
        // All comparisons of one list fail to the same place, far behind.
        let not_equal = |constant| Comparison { argument: 2, operator: Operator::NotEqual, constant };
        let deep = Rule { allowed: vec![(0..300).map(not_equal).collect()], otherwise: Otherwise::Violation };
        let rules = BTreeMap::from([(Sysno::read, long.clone()), (Sysno::write, deep), (Sysno::open, long)]);
        let policy = Policy { rules };
        let program = compile(&policy, VIOLATION);
        for number in 0..4 {
            for value in (0..520).map(|n| n << 20).chain(0..320) {
                let call = Call::new(number, [0, 0, value, value, 0, 0]);
                assert_eq!(run(&program, &call), meaning(&policy, &call, VIOLATION), "{call:?}");
            }
        }
    }
}
