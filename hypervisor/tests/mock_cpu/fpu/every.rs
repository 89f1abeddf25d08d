//! Every instruction is executed.

use std::collections::BTreeSet;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, Mnemonic, OpCodeInfo};

use super::*;

/// What the default CPUID offers of x87 and SIMD.
const FEATURES: [CpuidFeature; 7] = [
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::FXSR,
];

/// All exceptions masked.
const MXCSR: u32 = 0x1f80;

/// Whether it is x87's or SIMD's. Prefetches, fences and `movnti` touch no register of theirs.
pub(super) fn is_meant(code: Code) -> bool {
    use Mnemonic::*;
    let others =
        [Prefetchnta, Prefetcht0, Prefetcht1, Prefetcht2, Sfence, Lfence, Mfence, Movnti, Pause, Clflush, Fisttp];
    // The decoder has `wait` as an instruction of its own.
    let with_wait = [Fclex, Fdisi, Feni, Finit, Fsave, Fsetpm, Fstcw, Fstenv, Fstsw];
    let features = code.cpuid_features();
    features.iter().any(|feature| FEATURES.contains(feature))
        && code.op_code().encoding() == EncodingKind::Legacy
        && ![&others[..], &with_wait].concat().contains(&code.mnemonic())
}

/// All opcodes with an operand in memory at BX or RDI, and with registers. 0x48 is REX.W in 64-bit code.
pub(super) fn encodings() -> impl Iterator<Item = Vec<u8>> {
    const PREFIXES: [&[u8]; 10] = [
        &[],
        &[0x66],
        &[0xf2],
        &[0xf3],
        &[0x66, 0xf2],
        &[0x66, 0xf3],
        &[0x48],
        &[0x66, 0x48],
        &[0xf2, 0x48],
        &[0xf3, 0x48],
    ];
    let modrm = (0x07_u8..0x40).step_by(8).chain(0xc0..=0xff);
    let opcodes = (0..=0xff_u8).map(|byte| vec![0x0f, byte]).chain((0xd8..=0xdf).map(|byte| vec![byte]));
    opcodes.flat_map(move |opcode| {
        modrm.clone().flat_map(move |modrm| {
            let opcode = opcode.clone();
            PREFIXES.iter().map(move |prefix| [prefix, &opcode[..], &[modrm, 1]].concat())
        })
    })
}

/// Executes every instruction that code of so many bits can have.
fn execute_all(mut machine: Machine, bits: u32, is_here: fn(&OpCodeInfo) -> bool) {
    let mut executed = BTreeSet::new();
    for bytes in encodings() {
        let instruction = Decoder::new(bits, &bytes, DecoderOptions::NONE).decode();
        let code = instruction.code();
        if !is_meant(code) || !executed.insert(code) {
            continue;
        }
        machine.set(|regs| (regs.rbx, regs.rdi) = (DATA, DATA));
        set_fpu(&mut machine, |fpu| (fpu.fcw, fpu.fsw) = (0x37f, 0));
        // What `ldmxcsr` and `fxrstor` take for MXCSR has no reserved bit.
        machine.write(DATA, &[0; 512]);
        machine.write(DATA, &MXCSR.to_le_bytes());
        machine.write(DATA + 24, &MXCSR.to_le_bytes());
        set_mxcsr(&mut machine, MXCSR);
        let end = execute(&mut machine, &bytes[..instruction.len()]);
        assert_eq!(end, End::Done, "{code:?} {bytes:02x?}");
    }
    let missing: Vec<_> =
        Code::values().filter(|&code| is_meant(code) && is_here(code.op_code()) && !executed.contains(&code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(executed.len() > 400, "{}", executed.len());
}

#[test]
fn every_instruction_is_executed_in_real_mode() {
    execute_all(machine(), 16, OpCodeInfo::mode16);
}

#[test]
fn every_instruction_is_executed_in_long_mode() {
    execute_all(long_machine(), 64, OpCodeInfo::mode64);
}
