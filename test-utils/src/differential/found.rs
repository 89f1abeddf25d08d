//! Programs in which mock and KVM once differed, and what they do: kept so that they stay fixed.

use hypervisor::Direction;

use super::drive::Seen;
use super::machine::Outcome;
use super::program::{Mode, Start};

/// A program that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What it shows.
    pub name: &'static str,
    /// Its mode.
    pub mode: Mode,
    /// EAX, ECX, EDX, EBX, none, EBP, ESI, EDI.
    pub registers: [u32; 8],
    /// EFLAGS.
    pub flags: u32,
    /// The code, as assembly and as bytes in hexadecimal.
    pub assembly: &'static str,
    /// See there.
    pub code: &'static str,
    /// What the exits are, in the form of [`told`].
    pub exits: &'static [&'static str],
    /// The quirk by which KVM does otherwise, on hosts where it emulates these modes.
    pub quirk: Option<&'static str>,
}

const DF: u32 = 0x400;

/// All of them. Each ends by `out 0xf0, al`, or in the handler of an exception, which writes to the port of its vector.
pub const FOUND: [Found; 16] = [
    Found {
        name: "a repeated input is stored outside of RAM eight bytes at a time",
        mode: Mode::Real,
        registers: [0, 10, 0x200, 0, 0, 0, 0, 0x2000],
        flags: 2,
        assembly: "rep insb",
        code: "f3 6c",
        exits: &[
            "port read 0x200 1x10",
            "mmio write 0x12000 8x1 c1 5c 02 89 ec 2d 0a 91",
            "mmio write 0x12008 2x1 67 ec",
            "port write 0xf0 1x1 00",
        ],
        quirk: None,
    },
    Found {
        name: "a repeated input upwards reads as many items as there are bytes above it in the page",
        mode: Mode::Real,
        registers: [0, 10, 0x200, 0, 0, 0, 0, 0x1ff9],
        flags: 2,
        assembly: "rep insw",
        code: "f3 6d",
        exits: &[
            "port read 0x200 2x7",
            "mmio write 0x12000 7x1 91 67 ec 8e 65 a1 8d",
            "port read 0x200 2x3",
            "mmio write 0x12007 6x1 5e 55 32 fb ee a2",
            "port write 0xf0 1x1 00",
        ],
        quirk: None,
    },
    Found {
        name: "a repeated input downwards reads as many items as there are bytes below it in the page",
        mode: Mode::Real,
        registers: [0, 6, 0x200, 0, 0, 0, 0, 0x1003],
        flags: DF | 2,
        assembly: "rep insw",
        code: "f3 6d",
        exits: &["port read 0x200 2x3", "port read 0x200 2x3", "port write 0xf0 1x1 00"],
        quirk: None,
    },
    Found {
        name: "a fault in a repeated comparison leaves the flags as they were before the first",
        mode: Mode::Real,
        registers: [0, 3, 0, 0, 0, 0, 0, 0],
        flags: DF | 2,
        assembly: "addr32 repne scasb; the second is beyond the segment",
        code: "67 f2 ae",
        exits: &["port write 0xd 1x1 00"],
        quirk: None,
    },
    Found {
        name: "a far pointer outside of RAM is read at once",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "les ax, [0x2000]",
        code: "c4 06 00 20",
        exits: &["mmio read 0x12000 4x1", "port write 0xf0 1x1 c1"],
        quirk: None,
    },
    Found {
        name: "a repeated move over itself goes on as it was fetched",
        mode: Mode::Flat,
        registers: [0, 2, 0, 0, 0, 0, 0x8006, 0x8000],
        flags: 2,
        assembly: "rep movsb; mov al, cl; jmp $+4; nop; nop",
        code: "f3 a4 88 c8 eb 02 90 90",
        exits: &["port write 0xf0 1x1 00"],
        quirk: None,
    },
    Found {
        name: "a move's source faults before its destination",
        mode: Mode::Segmented,
        registers: [0, 0, 0, 0, 0, 0, 0x3_0000, 0x1_0000],
        flags: 2,
        assembly: "movsb es:[edi], ss:[esi]",
        code: "36 a4",
        exits: &["port write 0xc 1x1 00"],
        quirk: None,
    },
    Found {
        name: "an interrupt above 0x7f",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "int 0xff",
        code: "cd ff",
        exits: &["port write 0xf0 1x1 00"],
        quirk: Some("int-above-0x7f"),
    },
    Found {
        name: "a table's register is stored outside of RAM",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "sidt [0x2000]",
        code: "0f 01 0e 00 20",
        exits: &["mmio write 0x12000 2x1 ff 03", "mmio write 0x12002 4x1 00 00 00 00", "port write 0xf0 1x1 00"],
        quirk: Some("tables-outside-of-ram"),
    },
    Found {
        name: "what cannot be written is not read either",
        mode: Mode::Segmented,
        registers: [0; 8],
        flags: 2,
        assembly: "inc byte ptr fs:[0x2000]",
        code: "64 fe 05 00 20 00 00",
        exits: &["port write 0xd 1x1 00"],
        quirk: Some("read-before-a-write-is-refused"),
    },
    Found {
        name: "the selector of the local table is written and not read",
        mode: Mode::Flat,
        registers: [0; 8],
        flags: 2,
        assembly: "sldt [0x12000]",
        code: "0f 00 05 00 20 01 00",
        exits: &["mmio write 0x12000 2x1 00 00", "port write 0xf0 1x1 00"],
        quirk: Some("sldt-and-str-read"),
    },
    Found {
        name: "a repeated input downwards and outside of RAM reads each item once",
        mode: Mode::Real,
        registers: [0, 2, 0x200, 0, 0, 0, 0, 0x2801],
        flags: DF | 2,
        assembly: "rep insb",
        code: "f3 6c",
        exits: &[
            "port read 0x200 1x2",
            "mmio write 0x12801 1x1 c1",
            "mmio write 0x12800 1x1 5c",
            "port write 0xf0 1x1 00",
        ],
        quirk: Some("read-ahead-lost"),
    },
    Found {
        name: "an exception's frame goes where the stack is, also outside of RAM",
        mode: Mode::Flat,
        registers: [0; 8],
        flags: 2,
        assembly: "mov esp, 0x30000; div cl",
        code: "bc 00 00 03 00 f6 f1",
        exits: &[
            "mmio write 0x2fffc 4x1 02 00 01 00",
            "mmio write 0x2fff8 4x1 08 00 00 00",
            "mmio write 0x2fff4 4x1 05 80 00 00",
            "port write 0x0 1x1 00",
        ],
        quirk: Some("frame-outside-of-ram"),
    },
    Found {
        name: "each of several writes exits",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "mov sp, 0x4000; call far 0x800:8",
        code: "bc 00 40 9a 08 00 00 08",
        exits: &["mmio write 0x23ffe 2x1 00 08", "mmio write 0x23ffc 2x1 08 00", "port write 0xf0 1x1 00"],
        quirk: Some("last-of-several-writes"),
    },
    Found {
        name: "a far jump beyond the limit faults",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "jmp far 0x800:0x10000",
        code: "66 ea 00 00 01 00 00 08",
        exits: &["port write 0xd 1x1 00"],
        quirk: Some("far-jump-beyond-the-limit"),
    },
    Found {
        name: "several pops outside of RAM each read once",
        mode: Mode::Real,
        registers: [0; 8],
        flags: 2,
        assembly: "mov sp, 0x4000; popa",
        code: "bc 00 40 61",
        exits: &[
            "mmio read 0x24000 2x1",
            "mmio read 0x24002 2x1",
            "mmio read 0x24004 2x1",
            "mmio read 0x24006 2x1",
            "mmio read 0x24008 2x1",
            "mmio read 0x2400a 2x1",
            "mmio read 0x2400c 2x1",
            "mmio read 0x2400e 2x1",
            "port write 0xf0 1x1 75",
        ],
        quirk: Some("several-pops-begin-again"),
    },
];

impl Found {
    /// What it starts with.
    pub fn start(&self) -> Start {
        Start { mode: self.mode, registers: self.registers, flags: self.flags, memory: 1 }
    }

    /// Its bytes, with the last instruction of all programs behind them.
    ///
    /// # Panics
    ///
    /// If they are no hexadecimal numbers.
    pub fn bytes(&self) -> Vec<u8> {
        let bytes = format!("{} e6 f0", self.code);
        bytes.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
    }
}

/// The exits of a run in words: what, where, width and count, and of a write the data.
pub fn told(outcome: &Outcome) -> Vec<String> {
    outcome.exits.iter().map(tell).collect()
}

fn tell(seen: &Seen) -> String {
    let mut told = format!("{} {} {:#x} {}x{}", seen.space, seen.direction, seen.address, seen.width, seen.count);
    if seen.direction == Direction::Write {
        told.extend(seen.data.iter().map(|byte| format!(" {byte:02x}")));
    }
    told
}
