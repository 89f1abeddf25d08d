//! What two runs of a user-mode program have to agree on.

use std::fmt::Debug;

use super::layout::{self, AREAS, FXSAVE, KERNEL, LAST_STATE, STATE_LEN};
use crate::differential::machine::Outcome;
use crate::differential::{Code, End};

/// IF and AC: this KVM leaves IF out of an exception's frame, and clears AC where its handler begins.
const NOT_KEPT: u32 = 1 << 9 | 1 << 18;

/// How `one` and `other` differ, a line each; nothing where they agree.
///
/// Exits, general, x87 and SSE registers, CR2, the privilege level and all memory must be the same. Flags without a meaning
/// are left out, also those that an exception has pushed.
pub fn differences(code: &Code, one: &Outcome, other: &Outcome) -> Vec<String> {
    let mut found = Found::default();
    found.compare("end", &one.end, &other.end);
    if one.exits != other.exits {
        let at = one.exits.iter().zip(&other.exits).take_while(|(a, b)| a == b).count();
        found.compare(&format!("exit {at}"), &one.exits.get(at), &other.exits.get(at));
    }
    if one.end != other.end {
        return found.0;
    }
    let ignored = if one.end == End::Done { code.undefined } else { NOT_KEPT | code.ever_undefined };
    if matches!(one.end, End::Done | End::Exception(_)) {
        registers(&mut found, one, other, ignored);
    }
    if matches!(one.end, End::Shutdown | End::RanAway) {
        return found.0;
    }
    let (mut mine, mut theirs) = (one.memory.clone(), other.memory.clone());
    let at = match one.end {
        End::Done => LAST_STATE,
        _ => FXSAVE,
    };
    let state = |memory: &mut Vec<u8>| -> Vec<u8> {
        mask_flags(memory, ignored);
        // What is compared register by register is not compared again.
        let at = layout::in_memfd(at).unwrap_or_default();
        let state = memory[at..][..STATE_LEN as usize].to_vec();
        memory[at..][..STATE_LEN as usize].fill(0);
        state
    };
    compare_states(&mut found, &state(&mut mine), &state(&mut theirs));
    for area in AREAS {
        let offset = layout::offset(&area);
        let bytes = mine[offset..].iter().zip(&theirs[offset..]).take(area.len as usize);
        for (address, (a, b)) in (area.start..).zip(bytes).filter(|(_, (a, b))| a != b).take(8) {
            found.compare(&format!("memory at {address:#x}"), a, b);
        }
    }
    found.0
}

/// Takes out the flags in an exception's frame.
fn mask_flags(memory: &mut [u8], ignored: u32) {
    let flags = layout::offset(&KERNEL) + 0x1000 - 24;
    for (byte, ignored) in memory[flags..].iter_mut().zip(ignored.to_le_bytes()) {
        *byte &= !ignored;
    }
}

/// Compares what `fxsave` has stored (Intel SDM volume 1, table 10-2), without what differs from processor to processor: where
/// the last x87 instruction and its operand were, and the mask of MXCSR.
fn compare_states(found: &mut Found, one: &[u8], other: &[u8]) {
    for (name, range) in [("fcw", 0..2), ("fsw", 2..4), ("tags", 4..5), ("mxcsr", 24..28)] {
        found.compare(name, &&one[range.clone()], &&other[range]);
    }
    for number in 0..8 {
        let at = 32 + 16 * number;
        found.compare(&format!("st{number}"), &&one[at..at + 10], &&other[at..at + 10]);
    }
    for number in 0..16 {
        let at = 160 + 16 * number;
        found.compare(&format!("xmm{number}"), &&one[at..at + 16], &&other[at..at + 16]);
    }
}

fn registers(found: &mut Found, one: &Outcome, other: &Outcome, ignored: u32) {
    macro_rules! compare {
        ($($of:ident: $($register:ident)*),*) => {
            $($(found.compare(stringify!($register), &one.$of.$register, &other.$of.$register);)*)*
        };
    }
    compare!(
        regs: rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip,
        sregs: cr2
    );
    let flags = |outcome: &Outcome| outcome.regs.rflags & !u64::from(ignored);
    found.compare("rflags", &flags(one), &flags(other));
    found.compare("cpl", &one.sregs.cs.dpl, &other.sregs.cs.dpl);
}

#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn compare<T: PartialEq + Debug>(&mut self, what: &str, one: &T, other: &T) {
        if one != other {
            self.0.push(format!("{what}: {one:x?}, but {other:x?}"));
        }
    }
}
