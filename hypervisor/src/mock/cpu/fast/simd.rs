//! Moves of whole XMM registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::{Exec, fpu};
use super::{Fast, Flow, Op};

/// Bytes of a register.
const BYTES: usize = 16;

pub(super) fn select(instruction: &Instruction) -> Option<Fast> {
    use Mnemonic::{Movapd, Movaps, Movdqa, Movdqu, Movupd, Movups};
    let is_aligned = match instruction.mnemonic() {
        Movaps | Movapd | Movdqa => true,
        Movups | Movupd | Movdqu => false,
        _ => return None,
    };
    let fast: Fast = match (instruction.op0_kind(), instruction.op1_kind(), is_aligned) {
        (OpKind::Register, OpKind::Register, _) => register_register,
        (OpKind::Register, OpKind::Memory, true) => register_memory::<16>,
        (OpKind::Register, OpKind::Memory, false) => register_memory::<1>,
        (OpKind::Memory, OpKind::Register, true) => memory_register::<16>,
        (OpKind::Memory, OpKind::Register, false) => memory_register::<1>,
        _ => return None,
    };
    Some(fast)
}

fn register_register(exec: &mut Exec, op: &Op) -> Flow {
    if !fpu::sse_is_ready(exec) {
        return Flow::Slow;
    }
    let value = exec.state.fpu.xmm(op.src.into());
    exec.state.fpu.set_xmm(op.dst.into(), value);
    Flow::Next
}

fn register_memory<const ALIGN: u64>(exec: &mut Exec, op: &Op) -> Flow {
    let spot = exec.spot::<{ BYTES as u32 }>(op.segment, exec.fast_offset(op), exec.state.mode.read);
    match spot {
        Some(spot) if fpu::sse_is_ready(exec) && spot.physical().is_multiple_of(ALIGN) => {
            let [low, high] = [0, 8].map(|at| u128::from(spot.load_at::<8>(at)));
            exec.state.fpu.set_xmm(op.dst.into(), high << 64 | low);
            Flow::Next
        }
        _ => Flow::Slow,
    }
}

fn memory_register<const ALIGN: u64>(exec: &mut Exec, op: &Op) -> Flow {
    match exec.fast_spot::<{ BYTES as u32 }>(op) {
        Some(spot) if fpu::sse_is_ready(exec) && spot.physical().is_multiple_of(ALIGN) => {
            let value = exec.state.fpu.xmm(op.src.into());
            spot.store_at::<8>(0, value as u64);
            spot.store_at::<8>(8, (value >> 64) as u64);
            if exec.bus.is_code(spot.physical(), BYTES) { Flow::Leave } else { Flow::Next }
        }
        _ => Flow::Slow,
    }
}
