//! Where this KVM is known not to do what the processor's manual says about user mode, so that a difference is not the mock's.

use hypervisor::{AddressSpace, Direction};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::layout::{self, CODE, KERNEL};
use crate::differential::machine::Outcome;
use crate::differential::{End, Seen};

/// A behaviour of KVM's that the mock does not follow.
#[derive(Clone, Copy)]
pub struct Quirk {
    /// What to count it under.
    pub name: &'static str,
    /// Why it is KVM's.
    pub reason: &'static str,
    applies: fn(&Run) -> bool,
}

/// All there are.
pub const QUIRKS: [Quirk; 12] = [
    Quirk {
        name: "not-known-to-kvm",
        reason: "KVM's emulator makes the accesses that exit, and gives up on an instruction that it does not know",
        applies: |run| run.kvm.end == End::InternalError && run.last().is_some(),
    },
    Quirk {
        name: "gp-becomes-ud",
        reason: "this KVM gives its emulator what raised #GP or #SS, and raises #UD where that does not know the instruction",
        applies: |run| {
            run.kvm.end == End::Exception(6)
                && matches!(run.mock.end, End::Exception(12 | 13))
                && run.kvm.faulted() == run.mock.faulted()
        },
    },
    Quirk {
        name: "alignment-check-first",
        reason: "where an access is misaligned and a page of it is not there, the processor raises #AC; the manual has #PF first",
        applies: |run| {
            run.kvm.end == End::Exception(17)
                && run.mock.end == End::Exception(14)
                && run.kvm.faulted() == run.mock.faulted()
        },
    },
    Quirk {
        name: "emulated-without-alignment-check",
        reason: "KVM's emulator, which makes the accesses that exit, checks no alignment",
        applies: |run| {
            let (kvm, mock) = (&run.kvm.exits, &run.mock.exits);
            let before = mock.len().saturating_sub(1);
            run.mock.end == End::Exception(17) && kvm.len() >= mock.len() && kvm[..before] == mock[..before]
        },
    },
    Quirk {
        name: "port-read-ahead",
        reason: "KVM's emulator reads a port ahead for `rep ins`, also where what was read cannot be stored, and forgets a part of it \
                 where it is stored outside of RAM downwards",
        applies: |run| {
            let (kvm, mock) = (&run.kvm.exits, &run.mock.exits);
            let at = kvm.iter().zip(mock).take_while(|(kvm, mock)| kvm == mock).count();
            let is_read = |seen: Option<&Seen>| {
                seen.is_some_and(|seen| seen.space == AddressSpace::Pio && seen.direction == Direction::Read)
            };
            let inputs = |instruction: &Instruction| {
                matches!(instruction.mnemonic(), Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd)
            };
            (is_read(kvm.get(at)) || at > 0 && is_read(kvm.get(at - 1))) && run.executed(inputs)
        },
    },
    Quirk {
        name: "port-checked-before-count",
        reason: "KVM's emulator asks whether a port may be accessed also where the count of `rep ins` or `rep outs` is 0",
        applies: |run| {
            run.kvm.end == End::Exception(13)
                && run.mock.end != End::Exception(13)
                && run.at_fault().is_some_and(|last| last.has_rep_prefix() && last.is_string_instruction())
        },
    },
    Quirk {
        name: "enter-checks-alignment-at-its-end",
        reason: "the processor tries a write where `enter` leaves the stack pointer, and checks its alignment; the manual has it \
                 check the page alone",
        applies: |run| {
            run.kvm.end == End::Exception(17) && run.at_fault().is_some_and(|last| last.mnemonic() == Mnemonic::Enter)
        },
    },
    Quirk {
        name: "no-stack-no-processor",
        reason: "where RSP is not canonical, this KVM does not let the processor run on: its emulator gets all that follows, and \
                 raises #UD at what it does not know",
        applies: |run| {
            let stack = run.kvm.pushed(16);
            run.kvm.end == End::Exception(6) && (stack << 16) as i64 >> 16 != stack as i64
        },
    },
    Quirk {
        name: "single-step-over-exit",
        reason: "KVM's emulator, which makes the accesses that exit, reports a single step otherwise than the processor does",
        applies: |run| {
            let stepped = |outcome: &Outcome| outcome.end == End::Exception(1);
            (stepped(run.kvm) || stepped(run.mock)) && run.kvm.exits.len().max(run.mock.exits.len()) > 1
        },
    },
    Quirk {
        name: "masked-bytes-do-not-fault",
        reason: "CR2 is the first byte whose mask is set where `maskmovq` or `maskmovdqu` reaches into a page that is not there; the \
                 mock has the page's first",
        applies: |run| {
            let masked = [Mnemonic::Maskmovq, Mnemonic::Maskmovdqu];
            run.kvm.end == End::Exception(14) && run.at_fault().is_some_and(|last| masked.contains(&last.mnemonic()))
        },
    },
    Quirk {
        name: "no-repetitions-clear-upper-halves",
        reason: "Intel's processors clear the upper halves of RSI and RDI where `rep movs` or `rep stos` with 32-bit addresses \
                 has a count of 0",
        applies: |run| {
            run.executed(|instruction| {
                let narrow = instruction.op_kinds().any(|kind| matches!(kind, OpKind::MemoryESEDI));
                narrow && instruction.has_rep_prefix()
            }) && run.kvm.end == run.mock.end
        },
    },
    Quirk {
        name: "transition-before-fault",
        reason: "the processor has made the x87 registers those of MMX where an MMX instruction faults",
        applies: |run| {
            let mmx = |instruction: &Instruction| {
                (0..instruction.op_count()).any(|operand| instruction.op_register(operand).is_mm())
            };
            matches!(run.kvm.end, End::Exception(_))
                && run.kvm.end == run.mock.end
                && run.at_fault().is_some_and(|last| mmx(&last))
        },
    },
];

/// A program that both ran.
struct Run<'a> {
    code: &'a [u8],
    kvm: &'a Outcome,
    mock: &'a Outcome,
}

impl Run<'_> {
    /// The instruction of the program that KVM stopped at.
    fn last(&self) -> Option<Instruction> {
        self.instruction(self.kvm.regs.rip)
    }

    /// The instruction that raised the exception that ended the program on KVM.
    fn at_fault(&self) -> Option<Instruction> {
        self.instruction(self.kvm.faulted())
    }

    fn instruction(&self, rip: u64) -> Option<Instruction> {
        let offset = usize::try_from(rip.checked_sub(CODE.start)?).ok()?;
        let mut decoder = Decoder::with_ip(64, self.code.get(offset..)?, rip, DecoderOptions::NONE);
        decoder.can_decode().then(|| decoder.decode())
    }

    /// Whether the program has such an instruction.
    fn executed(&self, is_so: impl Fn(&Instruction) -> bool) -> bool {
        Decoder::with_ip(64, self.code, CODE.start, DecoderOptions::NONE).iter().any(|instruction| is_so(&instruction))
    }
}

/// The quirk that explains what KVM did with a program, where the mock did otherwise.
pub fn explanation(code: &[u8], kvm: &Outcome, mock: &Outcome) -> Option<&'static Quirk> {
    let run = Run { code, kvm, mock };
    QUIRKS.iter().find(|quirk| (quirk.applies)(&run))
}

impl Outcome {
    /// Where the exception happened that ended the program: RIP in the frame on the stack of ring 0, below what every
    /// exception pushes.
    fn faulted(&self) -> u64 {
        self.pushed(40)
    }

    /// The word so many bytes below the top of the stack of ring 0: SS, RSP, RFLAGS, CS, RIP, from the top on.
    fn pushed(&self, below: usize) -> u64 {
        let at = layout::offset(&KERNEL) + 0x1000 - below;
        self.memory[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}
