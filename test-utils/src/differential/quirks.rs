//! Where this KVM is known not to do what the processor's manual says, so that a difference is none of the mock's.

use hypervisor::{AddressSpace, Direction};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

use super::catalog::{LEFT_OUT, Why};
use super::drive::{End, Seen};
use super::layout::{AREAS, windows};
use super::machine::Outcome;
use super::program::{Mode, Start};

const ZF: u32 = 1 << 6;
const SF: u32 = 1 << 7;
const DF: u32 = 1 << 10;

/// A way of KVM's that the mock does not follow.
#[derive(Clone, Copy)]
pub struct Quirk {
    /// What to count it under.
    pub name: &'static str,
    /// Why it is KVM's.
    pub reason: &'static str,
    /// Whether it is at work in what KVM did.
    applies: fn(&Run) -> bool,
}

/// All there are.
pub const QUIRKS: [Quirk; 10] = [
    Quirk {
        name: "int-above-0x7f",
        reason: "KVM's emulator takes the vector of `int` as signed: it looks for the vectors from 0x80 below the table \
                 and does so for ever",
        applies: |run| {
            let at_int = |last: &Instruction| last.mnemonic() == Mnemonic::Int && last.immediate8() >= 0x80;
            run.start.mode == Mode::Real && run.kvm.end == End::RanAway && run.last().as_ref().is_some_and(at_int)
        },
    },
    Quirk {
        name: "tables-outside-of-ram",
        reason: "KVM's emulator reaches descriptors and what lgdt, lidt, sgdt and sidt have as operands in RAM only; \
                 elsewhere it tries for ever",
        applies: |run| run.kvm.end == End::RanAway && run.last().as_ref().is_some_and(reaches_tables),
    },
    Quirk {
        name: "read-before-a-write-is-refused",
        reason: "KVM's emulator asks whether a segment can be written only after it has read what is to be changed",
        applies: |run| {
            let (kvm, mock) = (&run.kvm.exits, &run.mock.exits);
            let is_read = |seen: &Seen| seen.direction == Direction::Read;
            // Where the exception cannot be delivered, no exit of its handler follows.
            let (before, fault) = match run.kvm.end {
                End::Exception(_) => mock.split_at(mock.len().saturating_sub(1)),
                End::Shutdown => mock.split_at(mock.len()),
                _ => return false,
            };
            let more = kvm.strip_prefix(before).and_then(|more| more.strip_suffix(fault));
            more.is_some_and(|reads| !reads.is_empty() && reads.iter().all(is_read))
        },
    },
    Quirk {
        name: "sldt-and-str-read",
        reason: "KVM's emulator reads the memory that `sldt` and `str` are to write",
        applies: |run| {
            let mut pairs = run.kvm.exits.iter().zip(&run.mock.exits);
            run.code_has(|i| matches!(i.mnemonic(), Mnemonic::Sldt | Mnemonic::Str))
                && pairs.find(|(kvm, mock)| kvm != mock).is_some_and(|(kvm, mock)| {
                    kvm.direction == Direction::Read
                        && mock.direction == Direction::Write
                        && kvm.address == mock.address
                        && kvm.space == mock.space
                })
        },
    },
    Quirk {
        name: "frame-outside-of-ram",
        reason: "KVM cannot push an exception's frame to where an access exits: it shuts the guest down, or begins the \
                 instruction again",
        applies: |run| {
            let frame = run.mock.regs.rsp + run.mock.sregs.ss.base;
            let in_ram =
                AREAS.iter().any(|area| !area.read_only && (area.start..area.start + area.len - 16).contains(&frame));
            matches!(run.mock.end, End::Exception(_)) && !in_ram
        },
    },
    Quirk {
        name: "far-jump-beyond-the-limit",
        reason: "KVM's emulator gives up on the guest, without an exception, where a far jump goes beyond the segment's limit",
        applies: |run| {
            run.kvm.end == End::InternalError
                && run.mock.end == End::Exception(13)
                && run.faulted().as_ref().is_some_and(is_far)
        },
    },
    Quirk {
        name: "last-of-several-writes",
        reason: "of an instruction's several writes to where an access exits, only the last exits on KVM",
        applies: |run| {
            let mut kvm = run.kvm.exits.iter().peekable();
            let mock = &run.mock.exits;
            let lost = |at: usize| {
                let is_write = |seen: &Seen| seen.space == AddressSpace::Mmio && seen.direction == Direction::Write;
                matches!(mock.get(at..at + 2), Some([a, b]) if is_write(a) && is_write(b) && a.regs == b.regs)
            };
            let as_known = (0..mock.len()).all(|at| kvm.next_if_eq(&&mock[at]).is_some() || lost(at));
            as_known && kvm.next().is_none() && run.kvm.end == run.mock.end
        },
    },
    Quirk {
        name: "several-pops-begin-again",
        reason: "each read of an instruction that pops several times and exits for it moves the stack pointer on once more on KVM",
        applies: |run| {
            let pops = |instruction: &Instruction| {
                use Mnemonic::{Iret, Iretd, Popa, Popad, Retf};
                matches!(instruction.mnemonic(), Popa | Popad | Retf | Iret | Iretd)
            };
            let is_read = |seen: &Seen| seen.space == AddressSpace::Mmio && seen.direction == Direction::Read;
            let mut pairs = run.kvm.exits.iter().zip(&run.mock.exits);
            run.code_has(pops)
                && pairs.find(|(kvm, mock)| kvm != mock).is_some_and(|(kvm, mock)| is_read(kvm) && is_read(mock))
        },
    },
    Quirk {
        name: "not-known-to-kvm",
        reason: "the program has changed itself into something that is no instruction for KVM's emulator, which gives up on the \
                 guest instead of raising an exception",
        applies: |run| {
            run.kvm.end == End::InternalError
                && (run.mock.end == End::Exception(6) || run.last().is_some_and(|last| is_unknown(last.mnemonic())))
        },
    },
    Quirk {
        name: "read-ahead-lost",
        reason: "KVM's emulator reads a port ahead for a `rep ins` that goes down; where what was read is stored outside of \
                 RAM, all but the first item is forgotten and read again",
        applies: |run| {
            let read_ahead = |seen: &Seen| seen.space == AddressSpace::Pio && seen.count > 1;
            run.kvm.exits.windows(2).any(|pair| {
                read_ahead(&pair[0]) && pair[1].space == AddressSpace::Mmio && pair[1].direction == Direction::Write
            }) && run.code_has(|instruction| {
                matches!(instruction.mnemonic(), Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd)
            }) && run.kvm.exits != run.mock.exits
                && run.goes_down()
        },
    },
];

fn is_unknown(mnemonic: Mnemonic) -> bool {
    LEFT_OUT.iter().any(|left_out| left_out.why == Why::UnknownToKvm && left_out.instructions.contains(&mnemonic))
}

fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || instruction.mnemonic() == Mnemonic::Retf
}

/// Instructions that load a segment register, in protected mode through a table, or a table's own register.
fn reaches_tables(instruction: &Instruction) -> bool {
    let to_segment = instruction.op0_register().is_segment_register();
    to_segment
        || is_far(instruction)
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Lgdt
                | Mnemonic::Lidt
                | Mnemonic::Sgdt
                | Mnemonic::Sidt
                | Mnemonic::Lldt
                | Mnemonic::Ltr
                | Mnemonic::Les
                | Mnemonic::Lds
                | Mnemonic::Lss
                | Mnemonic::Lfs
                | Mnemonic::Lgs
                | Mnemonic::Iret
                | Mnemonic::Iretd
        )
}

/// AC, which KVM clears on this host when it begins the handler of an exception in protected mode.
pub(super) const WRONG_IN_A_HANDLER: u32 = 1 << 18;

/// The flags that KVM's emulator gets wrong, which it takes from all of the accumulator and not from AL.
pub(super) fn wrong_flags(instruction: &Instruction) -> u32 {
    match instruction.mnemonic() {
        Mnemonic::Aad | Mnemonic::Aam => SF | ZF,
        _ => 0,
    }
}

/// A program that both ran.
struct Run<'a> {
    mock: &'a Outcome,
    start: &'a Start,
    code: &'a [u8],
    kvm: &'a Outcome,
}

impl Run<'_> {
    /// Whether an instruction of the program is so.
    fn code_has(&self, is_so: impl Fn(&Instruction) -> bool) -> bool {
        Decoder::new(self.start.mode.bits(), self.code, DecoderOptions::NONE)
            .iter()
            .any(|instruction| is_so(&instruction))
    }

    /// Whether strings may go down.
    fn goes_down(&self) -> bool {
        self.start.flags & DF != 0
            || self.code_has(|i| {
                matches!(
                    i.mnemonic(),
                    Mnemonic::Std | Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Iret | Mnemonic::Iretd
                )
            })
    }

    /// The instruction at RIP, as it lies in memory at the end.
    fn last(&self) -> Option<Instruction> {
        self.instruction(self.kvm, self.kvm.regs.rip.wrapping_add(self.kvm.sregs.cs.base))
    }

    /// The instruction that a frame on the mock's stack goes back to, behind an error code in protected mode.
    fn faulted(&self) -> Option<Instruction> {
        let (above, bytes) = if self.start.mode == Mode::Real { (0, 2) } else { (4, 4) };
        let frame = self.mock.regs.rsp + self.mock.sregs.ss.base + above;
        let ip = (0..bytes)
            .rev()
            .try_fold(0, |ip, byte| Some(ip << 8 | u64::from(*self.mock.memory.get(in_memfd(frame + byte)?)?)))?;
        self.instruction(self.mock, ip + u64::from(windows(self.start.mode).code.base))
    }

    fn instruction(&self, outcome: &Outcome, linear: u64) -> Option<Instruction> {
        let code = outcome.memory.get(in_memfd(linear)?..)?;
        Some(Decoder::new(self.start.mode.bits(), code, DecoderOptions::NONE).decode())
    }
}

/// Where a byte of RAM lies in the memfd.
fn in_memfd(address: u64) -> Option<usize> {
    let area = AREAS.iter().find(|area| (area.start..area.start + area.len).contains(&address))?;
    Some(area.offset() + (address - area.start) as usize)
}

/// The quirk that explains what KVM did with a program, where the mock did otherwise.
pub fn explanation(start: &Start, code: &[u8], kvm: &Outcome, mock: &Outcome) -> Option<&'static Quirk> {
    let run = Run { start, code, kvm, mock };
    QUIRKS.iter().find(|quirk| (quirk.applies)(&run))
}
