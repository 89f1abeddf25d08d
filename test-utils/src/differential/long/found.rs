//! User-mode programs in which mock and processor once differed: kept so that they agree.

use super::program::{Flavour, Start};

/// A program that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// What it shows.
    pub name: &'static str,
    /// RAX, RCX, RBX, RDI.
    pub registers: [u64; 4],
    /// RFLAGS.
    pub flags: u32,
    /// The code, as assembly and as bytes.
    pub assembly: &'static str,
    /// See there. `fxrstor64` comes before it; `fxsave64` and the last `out` behind it.
    pub code: &'static [u8],
}

const AC: u32 = 1 << 18;

/// All of them.
pub const FOUND: [Found; 7] = [
    Found {
        name: "a comparison that fails leaves the upper half of its destination",
        registers: [1, 5, 1 << 32, 0],
        flags: 2,
        assembly: "cmpxchg ebx, ecx",
        code: &[0x0f, 0xb1, 0xcb],
    },
    Found {
        name: "no repetitions with 32-bit addresses clear the upper half of RDI",
        registers: [0, 0, 0, 0x1234_0002_0000],
        flags: 2,
        assembly: "rep stosd [edi]",
        code: &[0x67, 0xf3, 0xab],
    },
    Found {
        name: "a masked store of 16 bytes has to be aligned to 8 where alignment is checked",
        registers: [0, 0, 0, 0x2_098f],
        flags: AC | 2,
        assembly: "maskmovdqu xmm0, xmm0",
        code: &[0x66, 0x0f, 0xf7, 0xc0],
    },
    Found {
        name: "10 bytes have to be aligned to 8 where alignment is checked",
        registers: [0x2_0ff4, 0, 0, 0],
        flags: AC | 2,
        assembly: "fld tbyte [rax]",
        code: &[0xdb, 0x28],
    },
    Found {
        name: "packed decimals have to be aligned to 8 where alignment is checked",
        registers: [0x2_0ff4, 0, 0, 0],
        flags: AC | 2,
        assembly: "fbstp [rax]",
        code: &[0xdf, 0x30],
    },
    Found {
        name: "a failing exchange of 16 bits changes 16 bits of the accumulator",
        registers: [0x1122_3344_5566_7788, 5, 1 << 40 | 3, 0],
        flags: 2,
        assembly: "cmpxchg bx, cx",
        code: &[0x66, 0x0f, 0xb1, 0xcb],
    },
    Found {
        name: "a write to a page that cannot be written is told from one that is not there",
        registers: [0x2_3000, 0, 0, 0],
        flags: 2,
        assembly: "mov [rax], ecx",
        code: &[0x89, 0x08],
    },
];

impl Found {
    /// What it starts with.
    pub fn start(&self) -> Start {
        let mut registers = [0; 16];
        [registers[0], registers[1], registers[3], registers[7]] = self.registers;
        Start { flavour: Flavour::Integer, registers, flags: self.flags, fcw: 0x37f, mxcsr: 0x1f80, memory: 1 }
    }

    /// The whole code.
    pub fn bytes(&self) -> Vec<u8> {
        super::assemble::framed(self.code)
    }
}
