//! SSE's exceptions: executed with all masked, and decided behind that.

use iced_x86::Code;

use super::super::Exec;
use super::super::exception::Result;
use super::check::sse_exception;
use super::host_sse::{Execute, MASKS, Operands};
use super::host_x87::{self, Opcode};
use super::state::{DENORMAL, EXCEPTIONS, FpuState, INVALID, OVERFLOW, PRECISION, UNDERFLOW, ZERO_DIVIDE};

/// MXCSR: denormal operands are zeros; tiny results are; how to round.
const DAZ: u32 = 1 << 6;
const FTZ: u32 = 1 << 15;
const ROUNDING_SHIFT: u32 = 13;
/// What is found before anything is computed.
const BEFORE: u16 = INVALID | DENORMAL | ZERO_DIVIDE;

/// Lanes of a result that was rounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// 32 or 64.
    pub(super) bits: u32,
    pub(super) count: u32,
}

/// What can overflow or underflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// From double to single.
    Narrow,
}

/// Executes with the guest's MXCSR, and raises the flags in it. With an unmasked exception there is no result (Intel SDM volume
/// 1, section 11.5.3).
pub(super) fn run(
    exec: &mut Exec,
    host: Execute,
    operands: Operands,
    rounding: Option<(Operation, Lanes)>,
) -> Result<Operands> {
    let mxcsr = exec.state.fpu.mxcsr();
    let (done, flags) = execute(host, operands, mxcsr, rounding);
    exec.state.fpu.raise_sse(flags);
    if flags & unmasked(mxcsr) == 0 { Ok(done) } else { Err(sse_exception(exec)) }
}

/// The exceptions that MXCSR does not mask.
fn unmasked(mxcsr: u32) -> u16 {
    (!mxcsr & MASKS) as u16 >> 7
}

/// Executes, and returns which flags that raises; those that are raised already may be among them.
fn execute(host: Execute, operands: Operands, mxcsr: u32, rounding: Option<(Operation, Lanes)>) -> (Operands, u16) {
    let unmasked = unmasked(mxcsr);
    // Where all are masked it does not matter which flags are new.
    let flags = if unmasked != 0 { u32::from(EXCEPTIONS) } else { 0 };
    // Tiny results are flushed only where underflow is masked.
    let flush = if unmasked & UNDERFLOW != 0 { FTZ } else { 0 };
    let input = mxcsr & !flush & !flags;
    let with = |dst, src| {
        let mut done = Operands { dst, src, mxcsr: input, ..operands };
        host(&mut done);
        (done, done.mxcsr as u16 & EXCEPTIONS)
    };
    let (done, flags) = with(operands.dst, operands.src);
    if flags & unmasked & BEFORE != 0 {
        return (done, flags & BEFORE);
    }
    let Some((operation, lanes)) = rounding.filter(|_| unmasked & (OVERFLOW | UNDERFLOW) != 0) else {
        return (done, flags);
    };
    let flags = (0..lanes.count).fold(0, |all, index| {
        let from = if operation == Operation::Narrow { 64 } else { lanes.bits };
        let lane = |value: u128, bits: u32| value >> (index * bits) & u128::MAX >> (128 - bits);
        let (dst, src) = (lane(operands.dst, from), lane(operands.src, from));
        let (_, flags) = with(repeated(dst, from), repeated(src, from));
        all | lane_flags(
            operation,
            lanes.bits,
            flags,
            unmasked,
            input,
            dst as u64,
            src as u64,
            lane(done.dst, lanes.bits),
        )
    });
    (done, flags)
}

/// A lane in all places, so that no other one adds a flag.
fn repeated(lane: u128, bits: u32) -> u128 {
    if bits == 32 { lane * 0x1_0000_0001_0000_0001_0000_0001 } else { lane | lane << 64 }
}

/// The flags of one lane where overflow or underflow is unmasked. A tiny result is an underflow then, be it exact or not, and
/// of an overflow or underflow the precision flag tells whether the result would be exact had it an exponent without limits.
#[expect(clippy::too_many_arguments, reason = "an operation, its operands, and what came of it")]
fn lane_flags(
    operation: Operation,
    bits: u32,
    mut flags: u16,
    unmasked: u16,
    mxcsr: u32,
    dst: u64,
    src: u64,
    result: u128,
) -> u16 {
    let magnitude = result & u128::MAX >> (129 - bits);
    let fraction_bits = if bits == 32 { 23 } else { 52 };
    let is_tiny = magnitude != 0 && magnitude >> fraction_bits == 0;
    if is_tiny {
        flags |= unmasked & UNDERFLOW;
    }
    let raises = unmasked & flags & (OVERFLOW | UNDERFLOW) != 0;
    if raises && !wide_is_inexact(operation, bits, mxcsr, dst, src) {
        flags &= !PRECISION;
    }
    flags
}

/// Whether the result is inexact that has the format's digits and an exponent without limits. x87 has these: its precision
/// control shortens the digits alone.
fn wide_is_inexact(operation: Operation, bits: u32, mxcsr: u32, dst: u64, src: u64) -> bool {
    const MASKED: u16 = 0x7f;
    let from = if operation == Operation::Narrow { 64 } else { bits };
    let precision = if bits == 32 { 0 } else { 2 << 8 };
    let rounding = (mxcsr >> ROUNDING_SHIFT & 3) as u16;
    let mut fpu = FpuState::default();
    fpu.set_control(MASKED | precision | rounding << 10);
    let (load, arithmetic) = match (from, operation) {
        (32, Operation::Add) => (Code::Fld_m32fp, Code::Fadd_m32fp),
        (32, Operation::Subtract) => (Code::Fld_m32fp, Code::Fsub_m32fp),
        (32, Operation::Multiply) => (Code::Fld_m32fp, Code::Fmul_m32fp),
        (32, Operation::Divide) => (Code::Fld_m32fp, Code::Fdiv_m32fp),
        (_, Operation::Add) => (Code::Fld_m64fp, Code::Fadd_m64fp),
        (_, Operation::Subtract) => (Code::Fld_m64fp, Code::Fsub_m64fp),
        (_, Operation::Multiply) => (Code::Fld_m64fp, Code::Fmul_m64fp),
        (_, Operation::Divide) => (Code::Fld_m64fp, Code::Fdiv_m64fp),
        (_, Operation::Narrow) => (Code::Fld_m64fp, Code::Fmul_m64fp),
    };
    let (first, second) = if operation == Operation::Narrow { (src, 1_f64.to_bits()) } else { (dst, src) };
    for (code, operand) in [(load, first), (arithmetic, second)] {
        let mut memory = [0; 16];
        let value = if mxcsr & DAZ != 0 { flushed(operand, from) } else { operand };
        memory.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        if let Some(opcode) = Opcode::of(code) {
            host_x87::execute(fpu.registers_mut(), opcode, &mut memory, 0);
        }
    }
    fpu.status() & PRECISION != 0
}

/// A denormal operand as zero of its sign.
fn flushed(value: u64, bits: u32) -> u64 {
    let (exponent, sign) = if bits == 32 { (0x7f80_0000, 1 << 31) } else { (0x7ff0 << 48, 1 << 63) };
    if value & exponent == 0 { value & sign } else { value }
}
