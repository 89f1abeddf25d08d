//! Stopping and continuing the parent, as programs do that were written for crosvm's plugin jail.
//!
//! There the plugin was process 1, its parent's number 0, and `kill(getppid(), SIGSTOP)` went to the plugin's own group, whose first
//! process takes no such signal from within: it did nothing, and succeeded. Here the parent is the jail's init, which no signal of the
//! plugin's may reach. So the call is not made, and succeeds; which costs nothing, whatever the policy says of `kill`.

use syscalls::Sysno;

use super::bpf::{Instruction, code};
use super::compile::{ARCHITECTURE, ARGUMENTS, ERRNO, NUMBER, X86_64};

/// The process id of the jail's init.
const INIT: u32 = 1;

/// What stands before a filter's program, and goes on to it with every other call. It looks at no argument of calls but `kill`, so the
/// kernel can still keep its answers for them. Process ids and signals are `int`s: what is in their upper halves means nothing.
pub(super) fn prologue() -> [Instruction; LENGTH as usize] {
    let load = |offset| Instruction { code: code::LOAD, if_true: 0, if_false: 0, value: offset };
    // The program begins after the last instruction.
    let must_be =
        |value: u32, at: u8| Instruction { code: code::JUMP_IF_EQUAL, if_true: 0, if_false: LENGTH - 1 - at, value };
    [
        load(ARCHITECTURE),
        must_be(X86_64, 1),
        load(NUMBER),
        must_be(Sysno::kill.id() as u32, 3),
        load(ARGUMENTS),
        must_be(INIT, 5),
        load(ARGUMENTS + 8),
        Instruction { code: code::JUMP_IF_EQUAL, if_true: 1, if_false: 0, value: libc::SIGSTOP as u32 },
        must_be(libc::SIGCONT as u32, 8),
        // Error number 0: success.
        Instruction { code: code::RETURN, if_true: 0, if_false: 0, value: ERRNO },
    ]
}

const LENGTH: u8 = 10;
