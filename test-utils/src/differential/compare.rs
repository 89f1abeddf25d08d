//! What two runs of a program have to agree on.

use std::fmt::Debug;

use kvm_bindings::{kvm_segment, kvm_sregs};

use super::Mode;
use super::assemble::Code;
use super::drive::End;
use super::layout::AREAS;
use super::machine::Outcome;
use super::program::Start;
use super::quirks;

/// How `one` and `other` differ, a line each; nothing where they agree.
///
/// Exits, general, segment, control and debug registers and all memory must be the same. Flags without a meaning are left
/// out, also those that an exception has pushed. Where the backend gave up, the registers are left out; after a triple fault
/// memory too, where a frame may have been pushed in part.
pub fn differences(start: &Start, code: &Code, one: &Outcome, other: &Outcome) -> Vec<String> {
    let mut found = Found::default();
    found.compare("end", &one.end, &other.end);
    if one.exits != other.exits {
        let at = one.exits.iter().zip(&other.exits).take_while(|(a, b)| a == b).count();
        found.compare(&format!("exit {at}"), &one.exits.get(at), &other.exits.get(at));
    }
    let ignored = match one.end {
        End::Done => code.undefined,
        _ if start.mode == Mode::Real => code.ever_undefined,
        _ => code.ever_undefined | quirks::WRONG_IN_A_HANDLER,
    };
    if matches!(one.end, End::Done | End::Exception(_)) {
        registers(&mut found, one, other, ignored);
    }
    if one.end == End::Shutdown {
        return found.0;
    }
    let (mut mine, mut theirs) = (one.memory.clone(), other.memory.clone());
    if let End::Exception(vector) = one.end {
        let frame = frame_flags(start.mode, vector, one.regs.rsp + one.sregs.ss.base);
        for memory in [&mut mine, &mut theirs] {
            if let Some(flags) = frame.and_then(|at| memory.get_mut(at..at + 2)) {
                for (byte, ignored) in flags.iter_mut().zip(ignored.to_le_bytes()) {
                    *byte &= !ignored;
                }
            }
        }
    }
    for area in AREAS {
        let bytes = mine[area.offset()..].iter().zip(&theirs[area.offset()..]).take(area.len as usize);
        for (address, (a, b)) in (area.start..).zip(bytes).filter(|(_, (a, b))| a != b).take(8) {
            found.compare(&format!("memory at {address:#x}"), a, b);
        }
    }
    found.0
}

/// Where the low half of the flags lies that an exception has pushed, in the memfd. `frame` is where the stack's
/// pointer points to.
fn frame_flags(mode: Mode, vector: u16, frame: u64) -> Option<usize> {
    // Intel SDM volume 3, table 7-1: which exceptions have an error code.
    let error = matches!(vector, 8 | 10..=14 | 17);
    let above = match mode {
        Mode::Real => 4,
        _ if error => 12,
        _ => 8,
    };
    let linear = frame + above;
    let area = AREAS.iter().find(|area| (area.start..area.start + area.len).contains(&linear))?;
    Some(area.offset() + (linear - area.start) as usize)
}

fn registers(found: &mut Found, one: &Outcome, other: &Outcome, ignored: u32) {
    macro_rules! compare {
        ($($of:ident: $($register:ident)*),*) => {
            $($(found.compare(stringify!($register), &one.$of.$register, &other.$of.$register);)*)*
        };
    }
    compare!(regs: rax rbx rcx rdx rsi rdi rsp rbp rip, sregs: gdt idt cr0 cr2 cr3 cr4 efer, debug_regs: db dr6 dr7);
    let flags = |outcome: &Outcome| outcome.regs.rflags & !u64::from(ignored);
    found.compare("rflags", &flags(one), &flags(other));
    let segments =
        |sregs: &kvm_sregs| [sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss, sregs.ldt, sregs.tr];
    let names = ["cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr"];
    for (name, (a, b)) in names.iter().zip(segments(&one.sregs).iter().zip(&segments(&other.sregs))) {
        found.compare(name, &comparable(a), &comparable(b));
    }
}

/// A segment that cannot be used has nothing but its selector.
fn comparable(segment: &kvm_segment) -> kvm_segment {
    if segment.unusable != 0 || segment.present == 0 {
        kvm_segment { selector: segment.selector, unusable: 1, ..Default::default() }
    } else {
        kvm_segment { padding: 0, ..*segment }
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
