//! The registers of x87, MMX and SSE.

use kvm_bindings::kvm_fpu;

/// Bits of the x87 control word that exist. Bit 6 is always set (Intel SDM volume 1, section 8.1.5).
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 0x40;
/// The control word after `fninit`: all exceptions masked, full precision.
const CONTROL_INIT: u16 = 0x37f;

/// x87 exceptions: in the status word as flags, in the control word as masks. MXCSR has the same six in the same order.
pub(super) const INVALID: u16 = 1;
pub(super) const DENORMAL: u16 = 1 << 1;
pub(super) const ZERO_DIVIDE: u16 = 1 << 2;
pub(super) const OVERFLOW: u16 = 1 << 3;
pub(super) const UNDERFLOW: u16 = 1 << 4;
pub(super) const PRECISION: u16 = 1 << 5;
pub(super) const EXCEPTIONS: u16 = 0x3f;
/// x87 status word: an unmasked exception is pending. The busy bit is its copy.
const ERROR_SUMMARY: u16 = 1 << 7 | 1 << 15;
/// x87 status word: the position of TOP, 3 bits.
const TOP_SHIFT: u16 = 11;
const TOP_BITS: u16 = 7 << TOP_SHIFT;

/// Bits of MXCSR that exist, `MXCSR_MASK`.
pub(super) const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset: all exceptions masked.
const MXCSR_RESET: u32 = 0x1f80;

/// The exponent and sign that an MMX instruction leaves above the 64 bits it writes.
const MMX_EXPONENT: [u8; 2] = [0xff; 2];

/// The registers, in the layout that the 64-bit forms of `fxsave` and `fxrstor` have (Intel SDM volume 1, table 10-2).
///
/// The host executes these two on it, so MXCSR has no reserved bit.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(super) struct Registers {
    control: u16,
    status: u16,
    /// A bit for each physical register that is not empty.
    tags: u8,
    reserved: u8,
    opcode: u16,
    ip: u64,
    dp: u64,
    mxcsr: u32,
    mxcsr_mask: u32,
    /// ST(0) to ST(7): each 80 bits, then 6 bytes of padding.
    st: [[u8; 16]; 8],
    xmm: [[u8; 16]; 16],
    rest: [u8; 96],
}

const _: () = assert!(size_of::<Registers>() == 512);

/// Where the last x87 instruction was, and its operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointers {
    pub(super) opcode: u16,
    pub(super) ip: u64,
    pub(super) cs: u16,
    pub(super) dp: u64,
    pub(super) ds: u16,
}

/// x87, MMX and SSE of one vCPU.
#[derive(Clone)]
pub(in crate::mock) struct FpuState {
    registers: Registers,
    pub(super) pointers: Pointers,
}

impl Default for FpuState {
    /// After reset, as `KVM_CREATE_VCPU` leaves it: x87 as after `fninit`.
    fn default() -> Self {
        let registers = Registers {
            control: CONTROL_INIT,
            status: 0,
            tags: 0,
            reserved: 0,
            opcode: 0,
            ip: 0,
            dp: 0,
            mxcsr: MXCSR_RESET,
            mxcsr_mask: MXCSR_MASK,
            st: [[0; 16]; 8],
            xmm: [[0; 16]; 16],
            rest: [0; 96],
        };
        Self { registers, pointers: Pointers::default() }
    }
}

impl FpuState {
    /// `fninit`. The contents of the registers stay; they are empty.
    pub(super) fn init_x87(&mut self) {
        // ST(i) is relative to TOP, the registers are not.
        self.set_top(0);
        self.registers.control = CONTROL_INIT;
        self.registers.status = 0;
        self.registers.tags = 0;
        self.pointers = Pointers::default();
    }

    /// x87 as it begins, for `xrstor`: as after `fninit`, and all registers 0.
    pub(super) fn reset_x87(&mut self) {
        self.init_x87();
        self.registers.st = [[0; 16]; 8];
    }

    /// The registers, for the host to work on. Pointers in there are nobody's.
    pub(super) fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    pub(super) fn control(&self) -> u16 {
        self.registers.control
    }

    pub(super) fn set_control(&mut self, control: u16) {
        self.registers.control = control & CONTROL_BITS | CONTROL_FIXED;
        self.summarize();
    }

    pub(super) fn status(&self) -> u16 {
        self.registers.status
    }

    /// Sets the status word with TOP. The registers stay where they are, so ST(i) become others.
    pub(super) fn set_status(&mut self, status: u16) {
        self.set_top(status >> TOP_SHIFT & 7);
        self.registers.status = status;
        self.summarize();
    }

    /// Sets the status word while ST(0) to ST(7) keep their values, as where all are loaded anew.
    pub(super) fn set_status_and_order(&mut self, status: u16) {
        self.registers.status = status;
        self.summarize();
    }

    /// Sets the summary and busy bits by flags and masks, as the processor does whenever either is loaded.
    fn summarize(&mut self) {
        let pending = self.registers.status & !self.registers.control & EXCEPTIONS != 0;
        let summary = if pending { ERROR_SUMMARY } else { 0 };
        self.registers.status = self.registers.status & !ERROR_SUMMARY | summary;
    }

    /// Whether an unmasked x87 exception waits for the next instruction that checks for it.
    pub(super) fn has_pending_exception(&self) -> bool {
        self.registers.status & ERROR_SUMMARY != 0
    }

    /// `fnclex`
    pub(super) fn clear_exceptions(&mut self) {
        const STACK_FAULT: u16 = 1 << 6;
        self.registers.status &= !(EXCEPTIONS | STACK_FAULT | ERROR_SUMMARY);
    }

    pub(super) fn top(&self) -> usize {
        usize::from(self.registers.status >> TOP_SHIFT & 7)
    }

    /// Changes TOP. The physical registers stay.
    fn set_top(&mut self, top: u16) {
        let by = (usize::from(top & 7) + 8 - self.top()) % 8;
        self.registers.st.rotate_left(by);
        self.registers.status = self.registers.status & !TOP_BITS | (top & 7) << TOP_SHIFT;
    }

    /// A bit for each physical register that is not empty.
    pub(super) fn tags(&self) -> u8 {
        self.registers.tags
    }

    pub(super) fn set_tags(&mut self, tags: u8) {
        self.registers.tags = tags;
    }

    /// ST(`index`), 80 bits.
    pub(super) fn st(&self, index: usize) -> [u8; 10] {
        let [bytes @ .., _, _, _, _, _, _] = self.registers.st.get(index % 8).copied().unwrap_or_default();
        bytes
    }

    pub(super) fn set_st(&mut self, index: usize, value: [u8; 10]) {
        if let Some(register) = self.registers.st.get_mut(index % 8) {
            *register = [0; 16];
            register.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    /// What every MMX instruction but `emms` does: all registers are in use, and TOP is 0, so MM(i) is ST(i) from here on.
    pub(super) fn begin_mmx(&mut self) {
        self.set_top(0);
        self.registers.tags = 0xff;
    }

    /// `emms`: all registers are empty.
    pub(super) fn end_mmx(&mut self) {
        self.set_top(0);
        self.registers.tags = 0;
    }

    /// MM(`index`), behind [`FpuState::begin_mmx`].
    pub(super) fn mm(&self, index: usize) -> u64 {
        let [low @ .., _, _] = self.st(index);
        u64::from_le_bytes(low)
    }

    pub(super) fn set_mm(&mut self, index: usize, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        let [i, j] = MMX_EXPONENT;
        self.set_st(index, [a, b, c, d, e, f, g, h, i, j]);
    }

    pub(in super::super) fn xmm(&self, index: usize) -> u128 {
        u128::from_le_bytes(self.registers.xmm.get(index % 16).copied().unwrap_or_default())
    }

    pub(in super::super) fn set_xmm(&mut self, index: usize, value: u128) {
        if let Some(register) = self.registers.xmm.get_mut(index % 16) {
            *register = value.to_le_bytes();
        }
    }

    pub(super) fn mxcsr(&self) -> u32 {
        self.registers.mxcsr
    }

    /// Sets MXCSR. False for a value with reserved bits, which is not taken.
    #[must_use]
    pub(super) fn set_mxcsr(&mut self, mxcsr: u32) -> bool {
        let is_valid = mxcsr & !MXCSR_MASK == 0;
        if is_valid {
            self.registers.mxcsr = mxcsr;
        }
        is_valid
    }

    /// Raises flags in MXCSR.
    pub(super) fn raise_sse(&mut self, exceptions: u16) {
        self.registers.mxcsr |= u32::from(exceptions & EXCEPTIONS);
    }

    /// Returns the state as `KVM_GET_FPU` has it, which leaves out MXCSR and segments of pointers.
    pub(in crate::mock) fn to_kvm(&self) -> kvm_fpu {
        let Registers { control, status, tags, st, xmm, .. } = self.registers;
        let Pointers { opcode, ip, dp, .. } = self.pointers;
        kvm_fpu {
            fpr: st,
            fcw: control,
            fsw: status,
            ftwx: tags,
            last_opcode: opcode,
            last_ip: ip,
            last_dp: dp,
            xmm,
            ..Default::default()
        }
    }

    /// Takes the state as `KVM_SET_FPU` has it. MXCSR stays.
    pub(in crate::mock) fn set_kvm(&mut self, fpu: &kvm_fpu) {
        self.set_control(fpu.fcw);
        self.set_status_and_order(fpu.fsw);
        self.registers.tags = fpu.ftwx;
        (self.registers.st, self.registers.xmm) = (fpu.fpr, fpu.xmm);
        self.pointers =
            Pointers { opcode: fpu.last_opcode & 0x7ff, ip: fpu.last_ip, dp: fpu.last_dp, ..Default::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_state_is_read_back_without_mxcsr() {
        let mut state = FpuState::default();
        assert_eq!((state.to_kvm().fcw, state.to_kvm().mxcsr, state.mxcsr()), (0x37f, 0, 0x1f80));
        let mut fpu = state.to_kvm();
        (fpu.fcw, fpu.fsw, fpu.ftwx, fpu.last_opcode, fpu.last_ip, fpu.last_dp) = (0x27f, 0x2800, 0x81, 0x1c1, 7, 8);
        (fpu.fpr[3][9], fpu.xmm[15][0]) = (0x40, 5);
        state.set_kvm(&kvm_fpu { mxcsr: 0x1234, ..fpu });
        assert_eq!((state.to_kvm(), state.mxcsr()), (fpu, 0x1f80));
    }

    #[test]
    fn mmx_registers_are_physical_registers() {
        let mut state = FpuState::default();
        state.set_status_and_order(3 << 11);
        state.set_st(0, [7; 10]);
        state.begin_mmx();
        assert_eq!((state.top(), state.tags(), state.mm(3)), (0, 0xff, 0x0707_0707_0707_0707));
        state.set_mm(3, 1);
        assert_eq!(state.st(3), [1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    }

    #[test]
    fn reserved_bits_of_mxcsr_are_refused() {
        let mut state = FpuState::default();
        assert!(!state.set_mxcsr(0x1_0000));
        assert!(state.set_mxcsr(0xffff));
        assert_eq!(state.mxcsr(), 0xffff);
    }

    #[test]
    fn pending_exceptions_follow_flags_and_masks() {
        let mut state = FpuState::default();
        state.set_status(1);
        assert!(!state.has_pending_exception());
        state.set_control(0x37e);
        assert_eq!(state.status(), 0x8081);
        state.clear_exceptions();
        assert!(!state.has_pending_exception());
        state.set_control(0xffff);
        assert_eq!(state.control(), 0x1f7f);
    }

    #[test]
    fn fninit_keeps_physical_registers_and_empties_them() {
        let mut state = FpuState::default();
        state.set_status_and_order(5 << 11);
        state.set_st(1, [9; 10]);
        state.set_tags(0xff);
        state.init_x87();
        assert_eq!((state.status(), state.tags(), state.st(6)), (0, 0, [9; 10]));
    }
}
