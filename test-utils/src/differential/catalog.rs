//! Which instructions are generated, and which are not, and why.

use std::sync::LazyLock;

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

use super::program::Mode;

/// The processors, and the later additions, whose integer instructions are generated.
const FEATURES: [CpuidFeature; 10] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::CMOV,
    CpuidFeature::CPUID,
    CpuidFeature::MSR,
    CpuidFeature::TSC,
    CpuidFeature::CX8,
];

/// Instructions that no program has, or none in some modes.
#[derive(Clone, Copy, Debug)]
pub struct LeftOut {
    /// Which.
    pub instructions: &'static [Mnemonic],
    /// In which modes.
    pub modes: &'static [Mode],
    /// Why.
    pub why: Why,
}

/// Why an instruction is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// KVM's emulator does not know it and gives up on the guest, where the host's processor does not run these modes
    /// itself.
    UnknownToKvm,
    /// Nothing would be compared, as the text says.
    Pointless(&'static str),
}

const ALL: &[Mode] = &[Mode::Real, Mode::Flat, Mode::Segmented];
const REAL: &[Mode] = &[Mode::Real];
const PROTECTED: &[Mode] = &[Mode::Flat, Mode::Segmented];

/// All that are left out.
pub const LEFT_OUT: [LeftOut; 8] = [
    LeftOut {
        instructions: &[Mnemonic::Aaa, Mnemonic::Aas, Mnemonic::Daa, Mnemonic::Bound, Mnemonic::Ud0, Mnemonic::Ud1],
        modes: ALL,
        why: Why::UnknownToKvm,
    },
    LeftOut {
        instructions: &[Mnemonic::Ud2],
        modes: ALL,
        why: Why::Pointless("KVM gives up on it in some modes and lets the guest handle it in others"),
    },
    LeftOut {
        instructions: &[Mnemonic::Arpl, Mnemonic::Lar, Mnemonic::Lsl, Mnemonic::Verr, Mnemonic::Verw],
        modes: PROTECTED,
        why: Why::UnknownToKvm,
    },
    LeftOut {
        instructions: &[Mnemonic::Int, Mnemonic::Int3, Mnemonic::Into, Mnemonic::Iret, Mnemonic::Iretd],
        modes: PROTECTED,
        why: Why::UnknownToKvm,
    },
    LeftOut {
        instructions: &[
            Mnemonic::Arpl,
            Mnemonic::Lar,
            Mnemonic::Lldt,
            Mnemonic::Lsl,
            Mnemonic::Ltr,
            Mnemonic::Sldt,
            Mnemonic::Str,
            Mnemonic::Verr,
            Mnemonic::Verw,
        ],
        modes: REAL,
        why: Why::Pointless("an invalid opcode in real mode"),
    },
    LeftOut {
        instructions: &[Mnemonic::Hlt],
        modes: ALL,
        why: Why::Pointless("waits in the kernel, where no exit tells of it"),
    },
    LeftOut {
        instructions: &[Mnemonic::Int1, Mnemonic::Wait],
        modes: ALL,
        why: Why::Pointless("the mock does not know it"),
    },
    LeftOut { instructions: &[Mnemonic::Rsm], modes: ALL, why: Why::Pointless("belongs to system management mode") },
];

/// Single forms that are left out, the modes, and why.
pub const FORMS_LEFT_OUT: [(Code, &[Mode], &str); 3] = [
    (Code::Bswap_r16, ALL, "the result is undefined (Intel SDM volume 2, BSWAP)"),
    (
        Code::Enterd_imm16_imm8,
        REAL,
        "KVM's emulator pushes as many bytes of EBP as the stack's width, not the operand's",
    ),
    (Code::Enterw_imm16_imm8, PROTECTED, "the same"),
];

/// All instructions that are generated in `mode`; those that only this mode has more than once, so that they come as often
/// as others.
pub fn codes(mode: Mode) -> &'static [Code] {
    static REAL: LazyLock<Vec<Code>> = LazyLock::new(|| weighted(Mode::Real, Mode::Flat, 3));
    static PROTECTED: LazyLock<Vec<Code>> = LazyLock::new(|| weighted(Mode::Flat, Mode::Real, 2));
    if mode == Mode::Real { &REAL } else { &PROTECTED }
}

fn weighted(mode: Mode, other: Mode, weight: usize) -> Vec<Code> {
    let generated = |mode| Code::values().filter(move |code| is_generated(*code, mode));
    let elsewhere: Vec<Code> = generated(other).collect();
    generated(mode).flat_map(|code| vec![code; if elsewhere.contains(&code) { 1 } else { weight }]).collect()
}

fn is_generated(code: Code, mode: Mode) -> bool {
    is_integer(code)
        && !LEFT_OUT.iter().any(|left| left.modes.contains(&mode) && left.instructions.contains(&code.mnemonic()))
        && !FORMS_LEFT_OUT.iter().any(|(form, modes, _)| *form == code && modes.contains(&mode))
}

/// Whether `code` is one of the integer instructions of 16 and 32 bits.
pub fn is_integer(code: Code) -> bool {
    let about = code.op_code();
    about.is_instruction()
        && about.mode32()
        && about.encoding() == EncodingKind::Legacy
        && matches!(code.cpuid_features(), [feature] if FEATURES.contains(feature))
}
