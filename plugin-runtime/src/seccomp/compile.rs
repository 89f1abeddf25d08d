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
/// `SECCOMP_RET_TRAP`: do not make the call, and send `SIGSYS`.
pub(super) const TRAP: u32 = 0x0003_0000;

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
pub(super) const X86_64: u32 = 0xc000_003e;
/// `__X32_SYSCALL_BIT` of `asm/unistd.h`: set in the numbers of another ABI of the same architecture.
pub(super) const X32_BIT: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

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
