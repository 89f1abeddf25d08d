//! SSE arithmetic, by the host's own unit.
#![allow(unsafe_code, reason = "the instruction is executed by assembly")]

/// What an instruction has: two XMM registers, a general register, and MXCSR.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operands {
    /// XMM0, also the result.
    pub(super) dst: u128,
    /// XMM1.
    pub(super) src: u128,
    /// RAX.
    pub(super) general: u64,
    /// With all exceptions masked.
    pub(super) mxcsr: u32,
    /// The host's.
    pub(super) saved: u32,
}

/// Executes one instruction on them.
pub(super) type Execute = fn(&mut Operands);

/// MXCSR: masks of all exceptions.
pub(super) const MASKS: u32 = 0x1f80;

/// An [`Execute`] for the instruction that is given as text.
///
/// `ldmxcsr` is expensive, so it is left out where the host's MXCSR is the guest's already, and flags stay in the host's behind
/// it: from one instruction to the next they are then the same.
macro_rules! execute {
    ($($text:expr),+) => {{
        #[allow(unsafe_code, reason = "the instruction is executed by assembly")]
        fn execute(operands: &mut $crate::mock::cpu::fpu::host_sse::Operands) {
            operands.mxcsr |= $crate::mock::cpu::fpu::host_sse::MASKS;
            // SAFETY: the instruction works on XMM0, XMM1, RAX and the flags alone, which the compiler knows to change; where
            // it pushes, it pops. No exception can come: all are masked, and MXCSR has no reserved bit, since it is the
            // guest's. What MXCSR controls is put back; its exception flags may change in an asm block.
            unsafe {
                std::arch::asm!(
                    "stmxcsr [{0} + 44]",
                    "mov eax, [{0} + 44]",
                    "cmp eax, [{0} + 40]",
                    "je 2f",
                    "ldmxcsr [{0} + 40]",
                    "2:",
                    "movaps xmm0, [{0}]",
                    "movaps xmm1, [{0} + 16]",
                    "mov rax, [{0} + 32]",
                    concat!($($text),+),
                    "mov [{0} + 32], rax",
                    "movaps [{0}], xmm0",
                    "stmxcsr [{0} + 40]",
                    "mov eax, [{0} + 40]",
                    "xor eax, [{0} + 44]",
                    "test eax, 0xffc0",
                    "jz 3f",
                    "ldmxcsr [{0} + 44]",
                    "3:",
                    in(reg) &raw mut *operands,
                    out("rax") _,
                    out("xmm0") _,
                    out("xmm1") _,
                );
            }
        }
        execute as $crate::mock::cpu::fpu::host_sse::Execute
    }};
}
pub(super) use execute;

/// An [`Execute`] for an instruction that has nothing to do with MXCSR.
macro_rules! packed {
    ($($text:expr),+) => {{
        #[allow(unsafe_code, reason = "the instruction is executed by assembly")]
        fn execute(operands: &mut $crate::mock::cpu::fpu::host_sse::Operands) {
            // SAFETY: the instruction works on XMM0, XMM1 and RAX alone, which the compiler knows to change.
            unsafe {
                std::arch::asm!(
                    "movaps xmm0, [{0}]",
                    "movaps xmm1, [{0} + 16]",
                    "mov rax, [{0} + 32]",
                    concat!($($text),+),
                    "mov [{0} + 32], rax",
                    "movaps [{0}], xmm0",
                    in(reg) &raw mut *operands,
                    out("rax") _,
                    out("xmm0") _,
                    out("xmm1") _,
                );
            }
        }
        execute as $crate::mock::cpu::fpu::host_sse::Execute
    }};
}
pub(super) use packed;

const _: () = {
    assert!(std::mem::offset_of!(Operands, src) == 16);
    assert!(std::mem::offset_of!(Operands, general) == 32);
    assert!(std::mem::offset_of!(Operands, mxcsr) == 40);
    assert!(std::mem::offset_of!(Operands, saved) == 44);
};
