//! x87, MMX, SSE and SSE2.
//!
//! The only host is x86-64, so arithmetic is executed by the host's own unit: [`host_x87`] and [`host_sse`] load the guest's
//! registers, execute one instruction, and store them. Everything around it is here: operands, which exception comes, what a
//! vCPU's registers look like in memory.

mod check;
pub(super) mod convert;
pub(super) mod float;
mod float_exceptions;
mod host_sse;
mod host_x87;
mod images;
mod operands;
pub(super) mod packed;
pub(super) mod save;
pub(super) mod shuffle;
pub(super) mod simd_moves;
mod state;
pub(super) mod x87;
pub(super) mod x87_control;

use iced_x86::Code;

use super::{Exec, Handler};

pub(in crate::mock) use state::FpuState;

/// Returns what executes those of SSE2's instructions whose names are also those of string instructions.
pub(super) fn shared_name(code: Code) -> Option<Handler> {
    match code {
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => Some(simd_moves::movsd),
        Code::Cmpsd_xmm_xmmm64_imm8 => float::forms(code.mnemonic()),
        _ => None,
    }
}

/// Whether an instruction of SSE can begin.
#[inline]
pub(super) fn sse_is_ready(exec: &Exec) -> bool {
    check::ready(exec, check::Unit::Sse).is_ok()
}
