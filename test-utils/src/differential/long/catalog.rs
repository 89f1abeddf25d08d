//! Which instructions user-mode programs have, and which they do not, and why.

use std::sync::LazyLock;

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind as Form};

use super::program::Flavour;

/// What the processor offers: x86-64-v1, `cmpxchg16b` and `popcnt`.
const FEATURES: [CpuidFeature; 21] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::POPCNT,
    CpuidFeature::CLFSH,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::MSR,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FXSR,
];

/// Instructions that no user-mode program has, and why.
pub const LEFT_OUT: [(&[Mnemonic], &str); 8] = [
    (&[Mnemonic::Lar, Mnemonic::Lsl, Mnemonic::Verr, Mnemonic::Verw], "see the host's descriptors, not the guest's"),
    (
        &[
            Mnemonic::Lss,
            Mnemonic::Lfs,
            Mnemonic::Lgs,
            Mnemonic::Retf,
            Mnemonic::Iret,
            Mnemonic::Iretd,
            Mnemonic::Iretq,
        ],
        "load segments from the host's tables",
    ),
    (&[Mnemonic::Syscall, Mnemonic::Sysret, Mnemonic::Sysretq], "leave CS at the user's selector on this KVM"),
    (&[Mnemonic::Sldt, Mnemonic::Str, Mnemonic::Sgdt, Mnemonic::Sidt, Mnemonic::Smsw], "may be the host's"),
    (
        &[Mnemonic::Int1, Mnemonic::Int],
        "this KVM gives its emulator what the host's own table refuses, and that does not know it",
    ),
    (&[Mnemonic::Fneni, Mnemonic::Fndisi, Mnemonic::Fnsetpm, Mnemonic::Frstpm], "of the 8087 and 80287 alone"),
    (&[Mnemonic::Rsm, Mnemonic::Ud0], "belongs to system management mode; has forms that differ by processor"),
    (&[Mnemonic::Cpuid, Mnemonic::Rdtsc], "tells of the host"),
];

/// Single forms that are left out, and why.
pub const FORMS_LEFT_OUT: [(Code, &str); 2] = [
    (Code::Bswap_r16, "the result is undefined (Intel SDM volume 2, BSWAP)"),
    (Code::Movsxd_r16_rm16, "reads 2 bytes by Intel's manual, and 4 on its processors"),
];

/// The instructions of a flavour.
pub fn codes(flavour: Flavour) -> &'static [Code] {
    static INTEGER: LazyLock<Vec<Code>> = LazyLock::new(|| of(Flavour::Integer));
    static X87: LazyLock<Vec<Code>> = LazyLock::new(|| of(Flavour::X87));
    static MMX: LazyLock<Vec<Code>> = LazyLock::new(|| of(Flavour::Mmx));
    static SSE: LazyLock<Vec<Code>> = LazyLock::new(|| of(Flavour::Sse));
    match flavour {
        Flavour::Integer => &INTEGER,
        Flavour::X87 => &X87,
        Flavour::Mmx => &MMX,
        Flavour::Sse => &SSE,
    }
}

/// Instructions that user mode may not execute: #GP, whatever their operands.
pub fn privileged() -> &'static [Code] {
    static PRIVILEGED: LazyLock<Vec<Code>> =
        LazyLock::new(|| Code::values().filter(|code| is_offered(*code) && !code.op_code().cpl3()).collect());
    &PRIVILEGED
}

/// All instructions that programs have.
pub fn all() -> Vec<Code> {
    let flavours = [Flavour::Integer, Flavour::X87, Flavour::Mmx, Flavour::Sse];
    flavours.into_iter().flat_map(codes).copied().collect()
}

fn of(flavour: Flavour) -> Vec<Code> {
    Code::values().filter(|code| is_generated(*code) && flavour_of(*code) == flavour).collect()
}

fn flavour_of(code: Code) -> Flavour {
    let about = code.op_code();
    let forms = about.op_kinds();
    let has_mmx = forms.iter().any(|form| matches!(form, Form::mm_reg | Form::mm_rm | Form::mm_or_mem));
    let has = |features: &[CpuidFeature]| code.cpuid_features().iter().any(|feature| features.contains(feature));
    if has_mmx || code.mnemonic() == Mnemonic::Emms {
        Flavour::Mmx
    } else if has(&[CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387]) {
        Flavour::X87
    } else if has(&[CpuidFeature::SSE, CpuidFeature::SSE2, CpuidFeature::FXSR]) {
        Flavour::Sse
    } else {
        Flavour::Integer
    }
}

fn is_offered(code: Code) -> bool {
    let about = code.op_code();
    about.is_instruction()
        && about.mode64()
        && about.encoding() == EncodingKind::Legacy
        && !about.fwait()
        && !code.cpuid_features().is_empty()
        && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
        && !LEFT_OUT.iter().any(|(mnemonics, _)| mnemonics.contains(&code.mnemonic()))
}

fn is_generated(code: Code) -> bool {
    is_offered(code)
        && code.op_code().cpl3()
        && !FORMS_LEFT_OUT.iter().any(|(form, _)| *form == code)
        && !loads_segment(code)
        && !is_vendors(code)
}

/// Instructions that load or show a segment register: in user mode this KVM has the host's selectors in them.
fn loads_segment(code: Code) -> bool {
    let about = code.op_code();
    let segment = |form: &Form| matches!(form, Form::seg_reg | Form::fs | Form::gs);
    let far = code.is_jmp_far_indirect() || code.is_call_far_indirect();
    about.op_kinds().iter().any(segment) || far
}

/// Near branches with an operand-size prefix: Intel ignores it in 64-bit mode, AMD does not.
fn is_vendors(code: Code) -> bool {
    let short = |form: &Form| matches!(form, Form::br16_1 | Form::br16_2);
    code.op_code().op_kinds().iter().any(short)
        || matches!(code, Code::Jmp_rm16 | Code::Call_rm16 | Code::Retnw | Code::Retnw_imm16)
}
