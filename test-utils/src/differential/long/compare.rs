//! What two runs of a user-mode program have to agree on.

use std::fmt::Debug;

use super::layout::{self, AREAS, FXSAVE, KERNEL};
use crate::differential::machine::Outcome;
use crate::differential::{Code, End};

/// IF and IOPL: this KVM runs user mode with IF set and IOPL 0, whatever the registers say.
const NOT_KEPT: u32 = 0x3200;
/// Where MXCSR is in what `fxsave` stores (Intel SDM volume 1, table 10-2).
const MXCSR: u64 = FXSAVE + 24;

/// How `one` and `other` differ, a line each; nothing where they agree.
///
/// Exits, general, x87 and SSE registers, CR2, the privilege level and all memory must be the same. Flags without a meaning
/// are left out, also those that an exception has pushed. After the program's end MXCSR is where it stored it; after an
/// exception, where the handler did.
pub fn differences(code: &Code, one: &Outcome, other: &Outcome) -> Vec<String> {
    let mut found = Found::default();
    found.compare("end", &one.end, &other.end);
    if one.exits != other.exits {
        let at = one.exits.iter().zip(&other.exits).take_while(|(a, b)| a == b).count();
        found.compare(&format!("exit {at}"), &one.exits.get(at), &other.exits.get(at));
    }
    let ignored = NOT_KEPT | if one.end == End::Done { code.undefined } else { code.ever_undefined };
    if matches!(one.end, End::Done | End::Exception(_)) {
        registers(&mut found, one, other, ignored);
    }
    if matches!(one.end, End::Shutdown | End::RanAway) {
        return found.0;
    }
    let masked = |outcome: &Outcome| {
        let mut memory = outcome.memory.clone();
        mask(&mut memory, ignored);
        memory
    };
    let (mine, theirs) = (masked(one), masked(other));
    for area in AREAS {
        let offset = layout::offset(&area);
        let bytes = mine[offset..].iter().zip(&theirs[offset..]).take(area.len as usize);
        for (address, (a, b)) in (area.start..).zip(bytes).filter(|(_, (a, b))| a != b).take(8) {
            found.compare(&format!("memory at {address:#x}"), a, b);
        }
    }
    found.0
}

/// Takes out the flags in an exception's frame, and all that a handler has stored except MXCSR, which is compared as
/// registers are.
fn mask(memory: &mut [u8], ignored: u32) {
    let flags = layout::offset(&KERNEL) + 0x1000 - 24;
    for (byte, ignored) in memory[flags..].iter_mut().zip(ignored.to_le_bytes()) {
        *byte &= !ignored;
    }
    let (area, mxcsr) = (layout::offset(&KERNEL) + 0x1000, layout::offset(&KERNEL) + (MXCSR - KERNEL.start) as usize);
    for (at, byte) in memory.iter_mut().enumerate().take(area + 512).skip(area) {
        if !(mxcsr..mxcsr + 4).contains(&at) {
            *byte = 0;
        }
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
        sregs: cr2,
        fpu: fcw fsw ftwx
    );
    let flags = |outcome: &Outcome| outcome.regs.rflags & !u64::from(ignored);
    found.compare("rflags", &flags(one), &flags(other));
    found.compare("cpl", &one.sregs.cs.dpl, &other.sregs.cs.dpl);
    for (number, (a, b)) in one.fpu.xmm.iter().zip(&other.fpu.xmm).enumerate() {
        found.compare(&format!("xmm{number}"), &u128::from_le_bytes(*a), &u128::from_le_bytes(*b));
    }
    for (number, (a, b)) in one.fpu.fpr.iter().zip(&other.fpu.fpr).enumerate() {
        found.compare(&format!("st{number}"), &&a[..10], &&b[..10]);
    }
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
