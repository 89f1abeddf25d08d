//! x87 arithmetic, by the host's own unit.
#![allow(unsafe_code, reason = "the instruction is executed by assembly")]

use std::arch::{asm, naked_asm};
use std::sync::LazyLock;

use iced_x86::{Code, Decoder, DecoderOptions};

use super::state::Registers;

/// An x87 instruction: which of D8 to DF, and the byte behind it. That of a memory form means `[rdi]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opcode {
    first: u8,
    modrm: u8,
}

/// Bytes of a stub.
const STUB: usize = 4;
/// Stubs of register forms, which the stubs of memory forms follow.
const REGISTER_STUBS: usize = 8 * 64;

/// Each x87 instruction with a `ret` behind it: the register forms D8 C0 to DF FF in order, then the memory forms, eight for
/// each first byte, with their operand at RDI.
#[unsafe(naked)]
extern "sysv64" fn stubs() {
    naked_asm!(
        ".set .Lx87_first, 0xd8",
        ".rept 8",
        ".set .Lx87_modrm, 0xc0",
        ".rept 64",
        ".byte .Lx87_first, .Lx87_modrm",
        "ret",
        "int3",
        ".set .Lx87_modrm, .Lx87_modrm + 1",
        ".endr",
        ".set .Lx87_first, .Lx87_first + 1",
        ".endr",
        ".set .Lx87_first, 0xd8",
        ".rept 8",
        ".set .Lx87_modrm, 0x07",
        ".rept 8",
        ".byte .Lx87_first, .Lx87_modrm",
        "ret",
        "int3",
        ".set .Lx87_modrm, .Lx87_modrm + 8",
        ".endr",
        ".set .Lx87_first, .Lx87_first + 1",
        ".endr",
    )
}

impl Opcode {
    const fn is_memory(self) -> bool {
        self.modrm < 0xc0
    }

    /// What touches more than 16 bytes of memory, or other registers than x87's and the flags, is not for the host: `fldenv`,
    /// `fnstenv`, `frstor`, `fnsave`, and `fnstsw ax`. Nor is what sets the control word.
    const fn is_arithmetic(self) -> bool {
        match (self.first, self.modrm) {
            (0xd9, 0x20..=0x3f) | (0xdd, 0x20..=0x3f) | (0xdf, 0xe0) | (0xdb, 0xe0..=0xe7) => false,
            (first, _) => matches!(first, 0xd8..=0xdf),
        }
    }

    /// Returns the opcode of an instruction of this kind: register forms that of ST(0).
    pub(super) fn of(code: Code) -> Option<Self> {
        *OPCODES.get(code as usize)?
    }

    /// The register form for ST(`index`).
    pub(super) fn with_st(self, index: usize) -> Self {
        Self { modrm: self.modrm + (index % 8) as u8, ..self }
    }

    /// Where its stub is.
    fn stub(self) -> usize {
        let first = usize::from(self.first & 7);
        let index = match self.is_memory() {
            true => REGISTER_STUBS + first * 8 + usize::from(self.modrm >> 3 & 7),
            false => first * 64 + usize::from(self.modrm & 0x3f),
        };
        stubs as *const () as usize + index * STUB
    }
}

/// By iced's numbers of codes. Of the register forms it is that of ST(0).
static OPCODES: LazyLock<Vec<Option<Opcode>>> = LazyLock::new(|| {
    let mut opcodes = vec![None; Code::values().len()];
    let forms = (0x07..=0x3f).step_by(8).chain(0xc0..=0xff);
    for (first, modrm) in (0xd8..=0xdf).flat_map(|first| forms.clone().map(move |modrm| (first, modrm))) {
        let opcode = Opcode { first, modrm };
        let code = Decoder::new(64, &[first, modrm], DecoderOptions::NONE).decode().code();
        if let Some(known @ None) = opcodes.get_mut(code as usize)
            && code != Code::INVALID
            && opcode.is_arithmetic()
        {
            *known = Some(opcode);
        }
    }
    opcodes
});

/// Executes an instruction on a guest's registers, with the guest's masks: an x87 exception is only noted in the status word,
/// to come with the next instruction that checks for it, which there is not. So none may be pending already.
///
/// `memory` is its operand, and `flags` are the status flags of RFLAGS, which `fcmov` reads and `fcomi` sets. Returns the flags it leaves.
pub(super) fn execute(registers: &mut Registers, opcode: Opcode, memory: &mut [u8; 16], flags: u64) -> u64 {
    const STATUS: u64 = 0x8d5;
    const FIXED: u64 = 0x202;
    let mut flags = flags & STATUS | FIXED;
    let (mut control, mut mxcsr) = (0_u16, 0_u32);
    debug_assert!(opcode.is_arithmetic());
    // SAFETY: `fxrstor64` takes the registers, which have its layout and no reserved bit in MXCSR. The stub is one of the
    // table's, executes one x87 instruction, and returns; a memory form has at most 10 bytes at RDI. No exception is pending
    // when it begins, and what is behind it until `fninit` does not check for one. What the host had is put back: the control
    // word and MXCSR by value, the stack as the ABI has it between functions, empty.
    unsafe {
        asm!(
            "fnstcw [{control}]",
            "stmxcsr [{mxcsr}]",
            "fxrstor64 [{registers}]",
            "push rax",
            "popfq",
            "call {stub}",
            "pushfq",
            "pop rax",
            "fxsave64 [{registers}]",
            "fninit",
            "fldcw [{control}]",
            "ldmxcsr [{mxcsr}]",
            "cld",
            control = in(reg) &raw mut control,
            mxcsr = in(reg) &raw mut mxcsr,
            registers = in(reg) &raw mut *registers,
            stub = in(reg) opcode.stub(),
            inout("rax") flags,
            in("rdi") memory.as_mut_ptr(),
            clobber_abi("sysv64"),
        );
    }
    flags
}
