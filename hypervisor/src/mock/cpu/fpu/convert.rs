//! Conversions between integers and SSE's formats, and between these.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::exception::Result;
use super::super::{Exec, Handler};
use super::float_exceptions::{Lanes, Operation, run};
use super::host_sse::{Execute, Operands, execute};

/// What of a narrower format the result has.
const SINGLES: Option<(Operation, Lanes)> = Some((Operation::Narrow, Lanes { bits: 32, count: 2 }));
const SINGLE: Option<(Operation, Lanes)> = Some((Operation::Narrow, Lanes { bits: 32, count: 1 }));

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match mnemonic {
        Cvtdq2pd => |e, i| vectors(e, i, execute!("cvtdq2pd xmm0, xmm1"), None),
        Cvtdq2ps => |e, i| vectors(e, i, execute!("cvtdq2ps xmm0, xmm1"), None),
        Cvtpd2dq => |e, i| vectors(e, i, execute!("cvtpd2dq xmm0, xmm1"), None),
        Cvttpd2dq => |e, i| vectors(e, i, execute!("cvttpd2dq xmm0, xmm1"), None),
        Cvtps2dq => |e, i| vectors(e, i, execute!("cvtps2dq xmm0, xmm1"), None),
        Cvttps2dq => |e, i| vectors(e, i, execute!("cvttps2dq xmm0, xmm1"), None),
        Cvtps2pd => |e, i| vectors(e, i, execute!("cvtps2pd xmm0, xmm1"), None),
        Cvtss2sd => |e, i| vectors(e, i, execute!("cvtss2sd xmm0, xmm1"), None),
        Cvtpd2ps => |e, i| vectors(e, i, execute!("cvtpd2ps xmm0, xmm1"), SINGLES),
        Cvtsd2ss => |e, i| vectors(e, i, execute!("cvtsd2ss xmm0, xmm1"), SINGLE),
        Cvtpi2ps => |e, i| from_mmx(e, i, execute!("cvtdq2ps xmm0, xmm1"), !u128::from(u64::MAX)),
        Cvtpi2pd => |e, i| from_mmx(e, i, execute!("cvtdq2pd xmm0, xmm1"), 0),
        Cvtps2pi => |e, i| to_mmx(e, i, execute!("cvtps2dq xmm0, xmm1"), u64::MAX.into()),
        Cvttps2pi => |e, i| to_mmx(e, i, execute!("cvttps2dq xmm0, xmm1"), u64::MAX.into()),
        Cvtpd2pi => |e, i| to_mmx(e, i, execute!("cvtpd2dq xmm0, xmm1"), u128::MAX),
        Cvttpd2pi => |e, i| to_mmx(e, i, execute!("cvttpd2dq xmm0, xmm1"), u128::MAX),
        Cvtsi2ss => |e, i| general(e, i, 1, [execute!("cvtsi2ss xmm0, eax"), execute!("cvtsi2ss xmm0, rax")]),
        Cvtsi2sd => |e, i| general(e, i, 1, [execute!("cvtsi2sd xmm0, eax"), execute!("cvtsi2sd xmm0, rax")]),
        Cvtss2si => |e, i| general(e, i, 0, [execute!("cvtss2si eax, xmm1"), execute!("cvtss2si rax, xmm1")]),
        Cvttss2si => |e, i| general(e, i, 0, [execute!("cvttss2si eax, xmm1"), execute!("cvttss2si rax, xmm1")]),
        Cvtsd2si => |e, i| general(e, i, 0, [execute!("cvtsd2si eax, xmm1"), execute!("cvtsd2si rax, xmm1")]),
        Cvttsd2si => |e, i| general(e, i, 0, [execute!("cvttsd2si eax, xmm1"), execute!("cvttsd2si rax, xmm1")]),
        _ => return None,
    };
    Some(handler)
}

/// From an XMM register to another.
fn vectors(
    exec: &mut Exec,
    instruction: &Instruction,
    host: Execute,
    rounding: Option<(Operation, Lanes)>,
) -> Result<()> {
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    let done = run(exec, host, Operands { dst, src, ..Default::default() }, rounding)?;
    exec.set_vector(instruction.op0_register(), done.dst);
    Ok(())
}

/// From two integers in an MMX register. `kept` are the bits of the destination that stay.
fn from_mmx(exec: &mut Exec, instruction: &Instruction, host: Execute, kept: u128) -> Result<()> {
    let src = exec.begin_vector(instruction)? & u128::from(u64::MAX);
    let done = run(exec, host, Operands { src, ..Default::default() }, None)?;
    let old = exec.vector(instruction.op0_register());
    exec.set_vector(instruction.op0_register(), done.dst & !kept | old & kept);
    Ok(())
}

/// To two integers in an MMX register, from those bits of the source.
fn to_mmx(exec: &mut Exec, instruction: &Instruction, host: Execute, source: u128) -> Result<()> {
    let src = exec.begin_vector(instruction)? & source;
    let done = run(exec, host, Operands { src, ..Default::default() }, None)?;
    exec.set_vector(instruction.op0_register(), done.dst);
    Ok(())
}

/// From or to a general register, which is operand `operand`: the first `host` is for 32 bits, the second for 64.
fn general(exec: &mut Exec, instruction: &Instruction, operand: u32, host: [Execute; 2]) -> Result<()> {
    let bytes = match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        _ => instruction.memory_size().size(),
    };
    let [narrow, wide] = host;
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    let operands = Operands { dst, src, general: src as u64, ..Default::default() };
    let done = run(exec, if bytes == 8 { wide } else { narrow }, operands, None)?;
    let result = if operand == 0 { done.general.into() } else { done.dst };
    exec.set_vector(instruction.op0_register(), result);
    Ok(())
}
