//! SSE arithmetic and comparisons.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::flags::{AF, CF, OF, PF, SF, ZF};
use super::super::{Exec, Handler};
use super::float_exceptions::{Lanes, Operation, run};
use super::host_sse::{Execute, Operands, execute, packed};

/// For each stem the four forms: packed and scalar, single and double.
macro_rules! handlers {
    ($mnemonic:expr, $($operation:ident $stem:literal: $ps:ident $pd:ident $ss:ident $sd:ident;)*) => {
        match $mnemonic {
            $(
                Mnemonic::$ps => handlers!(@ $operation, $stem, "ps", Lanes { bits: 32, count: 4 }),
                Mnemonic::$pd => handlers!(@ $operation, $stem, "pd", Lanes { bits: 64, count: 2 }),
                Mnemonic::$ss => handlers!(@ $operation, $stem, "ss", Lanes { bits: 32, count: 1 }),
                Mnemonic::$sd => handlers!(@ $operation, $stem, "sd", Lanes { bits: 64, count: 1 }),
            )*
            _ => return None,
        }
    };
    (@ Compare, $stem:literal, $form:literal, $lanes:expr) => {
        |exec, instruction| {
            const HOST: [Execute; 8] = [
                execute!("cmp", $form, " xmm0, xmm1, 0"),
                execute!("cmp", $form, " xmm0, xmm1, 1"),
                execute!("cmp", $form, " xmm0, xmm1, 2"),
                execute!("cmp", $form, " xmm0, xmm1, 3"),
                execute!("cmp", $form, " xmm0, xmm1, 4"),
                execute!("cmp", $form, " xmm0, xmm1, 5"),
                execute!("cmp", $form, " xmm0, xmm1, 6"),
                execute!("cmp", $form, " xmm0, xmm1, 7"),
            ];
            let [a, b, c, d, e, f, g, h] = HOST;
            let host = match instruction.immediate8() & 7 { 0 => a, 1 => b, 2 => c, 3 => d, 4 => e, 5 => f, 6 => g, _ => h };
            arithmetic(exec, instruction, host, None)
        }
    };
    (@ Exact, $stem:literal, $form:literal, $lanes:expr) => {
        |exec, instruction| arithmetic(exec, instruction, execute!($stem, $form, " xmm0, xmm1"), None)
    };
    (@ $operation:ident, $stem:literal, $form:literal, $lanes:expr) => {
        |exec, instruction| {
            let rounding = Some((Operation::$operation, $lanes));
            arithmetic(exec, instruction, execute!($stem, $form, " xmm0, xmm1"), rounding)
        }
    };
}

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Comiss => |e, i| compare(e, i, execute!("comiss xmm0, xmm1; pushfq; pop rax")),
        Mnemonic::Comisd => |e, i| compare(e, i, execute!("comisd xmm0, xmm1; pushfq; pop rax")),
        Mnemonic::Ucomiss => |e, i| compare(e, i, execute!("ucomiss xmm0, xmm1; pushfq; pop rax")),
        Mnemonic::Ucomisd => |e, i| compare(e, i, execute!("ucomisd xmm0, xmm1; pushfq; pop rax")),
        Mnemonic::Rcpps => |e, i| approximate(e, i, packed!("rcpps xmm0, xmm1")),
        Mnemonic::Rcpss => |e, i| approximate(e, i, packed!("rcpss xmm0, xmm1")),
        Mnemonic::Rsqrtps => |e, i| approximate(e, i, packed!("rsqrtps xmm0, xmm1")),
        Mnemonic::Rsqrtss => |e, i| approximate(e, i, packed!("rsqrtss xmm0, xmm1")),
        // That is a string instruction too.
        Mnemonic::Cmpsd => return None,
        _ => return forms(mnemonic),
    };
    Some(handler)
}

/// What there is in four forms.
pub(super) fn forms(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = handlers! { mnemonic,
        Add "add": Addps Addpd Addss Addsd;
        Subtract "sub": Subps Subpd Subss Subsd;
        Multiply "mul": Mulps Mulpd Mulss Mulsd;
        Divide "div": Divps Divpd Divss Divsd;
        Exact "sqrt": Sqrtps Sqrtpd Sqrtss Sqrtsd;
        Exact "min": Minps Minpd Minss Minsd;
        Exact "max": Maxps Maxpd Maxss Maxsd;
        Compare "cmp": Cmpps Cmppd Cmpss Cmpsd;
    };
    Some(handler)
}

/// Both operands and the result are XMM registers. `rounding` is for what can overflow or underflow.
fn arithmetic(
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

/// Approximations raise no exceptions. How near they come differs by vendor.
fn approximate(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    let mut operands = Operands { dst, src, ..Default::default() };
    host(&mut operands);
    exec.set_vector(instruction.op0_register(), operands.dst);
    Ok(())
}

/// The result is in the flags, which the host leaves in RAX.
fn compare(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    const RESULT: u64 = ZF | PF | CF;
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    let done = run(exec, host, Operands { dst, src, ..Default::default() }, None)?;
    let flags = &mut exec.state.regs.rflags;
    *flags = *flags & !(RESULT | OF | SF | AF) | done.general & RESULT;
    Ok(())
}
