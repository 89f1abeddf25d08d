//! What the kernel does with a program, for tests, and what it should.

use super::bpf::{Instruction, code};
use super::compile::{ALLOW, ERRNO, X32_BIT, X86_64};
use super::policy::{Otherwise, Policy};

/// A system call, as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    pub(super) fn new(number: u32, arguments: [u64; 6]) -> Self {
        Self { number, architecture: X86_64, arguments }
    }

    /// The word at `offset` of `struct seccomp_data`.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
            _ => panic!("nothing is read at offset {offset}"),
        }
    }
}

/// What `program` returns for `call`. It panics on what the kernel's check of programs would refuse.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut next, mut loaded) = (0, 0);
    loop {
        let Instruction { code, if_true, if_false, value } = program[next];
        next += 1;
        let holds = match code {
            code::LOAD => {
                loaded = call.word(value);
                continue;
            }
            code::JUMP => {
                next += value as usize;
                continue;
            }
            code::RETURN => return value,
            code::JUMP_IF_EQUAL => loaded == value,
            code::JUMP_IF_GREATER => loaded > value,
            code::JUMP_IF_GREATER_OR_EQUAL => loaded >= value,
            code::JUMP_IF_ANY_BIT => loaded & value != 0,
            _ => panic!("no such instruction: {code:#x}"),
        };
        next += usize::from(if holds { if_true } else { if_false });
    }
}

/// The policy's own meaning, read off its text.
pub(super) fn meaning(policy: &Policy, call: &Call, violation: u32) -> u32 {
    let of_this_abi = call.architecture == X86_64 && call.number & X32_BIT == 0;
    let rule = policy.rules.iter().find(|(name, _)| name.id() as u32 == call.number);
    let Some((_, rule)) = rule.filter(|_| of_this_abi) else { return violation };
    match rule.otherwise {
        _ if rule.allowed.iter().any(|all_of| all_of.iter().all(|one| one.holds(&call.arguments))) => ALLOW,
        Otherwise::Violation => violation,
        Otherwise::Errno(errno) => ERRNO | u32::from(errno),
    }
}
