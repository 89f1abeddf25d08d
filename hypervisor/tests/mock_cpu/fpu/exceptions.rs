//! Which instruction raises which exception, and what it leaves then.

use super::values::*;
use super::*;

const UD: End = End::Exception(6);
const NM: End = End::Exception(7);
const GP: End = End::Exception(13);
const MF: End = End::Exception(16);
const XM: End = End::Exception(19);

const MASKED: u32 = 0x1f80;

/// One instruction of each kind.
const X87: &[u8] = &[0xd9, 0xe8];
const X87_NO_WAIT: &[u8] = &[0xdf, 0xe0];
const WAIT: &[u8] = &[0x9b];
const MMX: &[u8] = &[0x0f, 0xef, 0xc0];
const EMMS: &[u8] = &[0x0f, 0x77];
const SSE: &[u8] = &[0x0f, 0x58, 0xc1];
const SSE_INTEGER: &[u8] = &[0x66, 0x0f, 0xef, 0xc1];
const SSE_AND_MMX: &[u8] = &[0x0f, 0x2a, 0xc1];
const MMX_OF_SSE: &[u8] = &[0x0f, 0x70, 0xc1, 0];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16, 0x00, 0x4f];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06, 0x00, 0x40];
const ALL: [&[u8]; 11] =
    [X87, X87_NO_WAIT, WAIT, MMX, EMMS, SSE, SSE_INTEGER, SSE_AND_MMX, MMX_OF_SSE, LDMXCSR, FXSAVE];

#[test]
fn control_bits_keep_units_away_as_the_manual_says() {
    let rows: [(u64, u64, [End; 11]); 5] = [
        (0, CR4_OSFXSR, [End::Done; 11]),
        (0, 0, [End::Done, End::Done, End::Done, End::Done, End::Done, UD, UD, UD, End::Done, UD, End::Done]),
        (CR0_TS, CR4_OSFXSR, [NM, NM, End::Done, NM, NM, NM, NM, NM, NM, NM, NM]),
        (CR0_TS | CR0_MP, CR4_OSFXSR, [NM, NM, NM, NM, NM, NM, NM, NM, NM, NM, NM]),
        (CR0_EM, CR4_OSFXSR, [NM, NM, End::Done, UD, UD, UD, UD, UD, UD, UD, NM]),
    ];
    let mut machine = machine();
    machine.write(DATA + 0xf00, &MASKED.to_le_bytes());
    for (cr0, cr4, ends) in rows {
        machine.set_sregs(|sregs| {
            sregs.cr0 = sregs.cr0 & !(CR0_EM | CR0_TS | CR0_MP) | cr0;
            sregs.cr4 = cr4;
        });
        for (code, end) in ALL.into_iter().zip(ends) {
            assert_eq!(execute(&mut machine, code), end, "{code:02x?} with {cr0:#x} {cr4:#x}");
        }
    }
}

#[test]
fn a_pending_x87_exception_comes_with_what_waits() {
    let mut machine = machine();
    machine.write(DATA + 0xf00, &MASKED.to_le_bytes());
    for (code, end) in
        ALL.into_iter().zip([MF, End::Done, MF, MF, MF, End::Done, End::Done, MF, MF, End::Done, End::Done])
    {
        set_fpu(&mut machine, |fpu| (fpu.fcw, fpu.fsw) = (0x37e, 0x3801));
        assert_eq!(execute(&mut machine, code), end, "{code:02x?}");
        assert_eq!(fpu(&machine).fsw, 0xb881, "{code:02x?} changes nothing");
    }
    // fnclex and fninit end it; fnstsw, fnstcw, fnstenv, fnsave do not wait for it. fldcw, fldenv, frstor do.
    for (code, end) in [
        (&[0xdb, 0xe2][..], End::Done),
        (&[0xdb, 0xe3], End::Done),
        (&[0xdd, 0x3e, 0, 0x40], End::Done),
        (&[0xd9, 0x3e, 0, 0x40], End::Done),
        (&[0xd9, 0x36, 0, 0x40], End::Done),
        (&[0xdd, 0x36, 0, 0x40], End::Done),
        (&[0xd9, 0x2e, 0, 0x40], MF),
        (&[0xd9, 0x26, 0, 0x40], MF),
        (&[0xdd, 0x26, 0, 0x40], MF),
    ] {
        set_fpu(&mut machine, |fpu| (fpu.fcw, fpu.fsw) = (0x37e, 0x3801));
        assert_eq!(execute(&mut machine, code), end, "{code:02x?}");
    }
}

#[test]
fn unmasking_a_raised_exception_makes_it_pending() {
    let mut machine = machine();
    // fninit; fldz; fld1; fdivrp st(1), st(0): a masked division by zero
    let divide = [0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9];
    assert_eq!(execute(&mut machine, &divide), End::Done);
    // fldcw [0x4000]; fld1
    machine.write(DATA, &0x37b_u16.to_le_bytes());
    assert_eq!(execute(&mut machine, &[0xd9, 0x2e, 0, 0x40]), End::Done);
    assert_eq!(execute(&mut machine, X87), MF);
    // An unmasked one of its own comes with the next instruction, not with itself.
    set_stack(&mut machine, &[[0; 10], ONE]);
    set_fpu(&mut machine, |fpu| fpu.fcw = 0x37b);
    assert_eq!(execute(&mut machine, &[0xde, 0xf9, 0xdf, 0xe0]), End::Done);
    assert_eq!(execute(&mut machine, WAIT), MF);
}

#[test]
fn sixteen_bytes_in_memory_are_aligned() {
    let mut machine = machine();
    machine.set(|regs| regs.rbx = DATA + 8);
    for (code, end) in [
        // movaps, movdqa, addps, paddb xmm1, [bx]; movntps [bx], xmm1; fxsave [bx]
        (&[0x0f, 0x28, 0x0f][..], GP),
        (&[0x66, 0x0f, 0x6f, 0x0f], GP),
        (&[0x0f, 0x58, 0x0f], GP),
        (&[0x66, 0x0f, 0xfc, 0x0f], GP),
        (&[0x0f, 0x2b, 0x0f], GP),
        (&[0x0f, 0xae, 0x07], GP),
        // movups, movdqu xmm1, [bx]; addsd xmm1, [bx]; paddb mm1, [bx]; cvtps2pd xmm1, [bx]
        (&[0x0f, 0x10, 0x0f], End::Done),
        (&[0xf3, 0x0f, 0x6f, 0x0f], End::Done),
        (&[0xf2, 0x0f, 0x58, 0x0f], End::Done),
        (&[0x0f, 0xfc, 0x0f], End::Done),
        (&[0x0f, 0x5a, 0x0f], End::Done),
    ] {
        assert_eq!(execute(&mut machine, code), end, "{code:02x?}");
    }
}

/// Code, XMM1, XMM2, MXCSR, and the flags that are raised with the exception.
type Row = (&'static [u8], u128, u128, u32, u16);

const MULSS: &[u8] = &[0xf3, 0x0f, 0x59, 0xca];
const ADDSS: &[u8] = &[0xf3, 0x0f, 0x58, 0xca];
const DIVSS: &[u8] = &[0xf3, 0x0f, 0x5e, 0xca];
const FTZ: u32 = 1 << 15;

/// As MXCSR has it, without these.
const fn unmasked(exceptions: u16) -> u32 {
    MASKED & !((exceptions as u32) << 7)
}

#[test]
fn an_unmasked_sse_exception_leaves_the_destination() {
    let rows: &[Row] = &[
        // Overflow, inexact and exact but for the exponent
        (MULSS, 0x7f7f_ffff, 0x4000_0001, unmasked(OVERFLOW), OVERFLOW | PRECISION),
        (MULSS, 0x7f00_0000, 0x4000_0000, unmasked(OVERFLOW), OVERFLOW),
        (MULSS, 0x7f00_0000, 0x4000_0000, unmasked(OVERFLOW | PRECISION), OVERFLOW),
        (MULSS, 0x7f7f_ffff, 0x4000_0001, unmasked(PRECISION), OVERFLOW | PRECISION),
        // Underflow: also if exact, be FTZ set or not, and of denormals too
        (MULSS, 0x0080_0000, 0x3f00_0000, unmasked(UNDERFLOW), UNDERFLOW),
        (MULSS, 0x0080_0001, 0x3f00_0000, unmasked(UNDERFLOW), UNDERFLOW),
        (MULSS, 0x0080_0000, 0x3f00_0000, unmasked(UNDERFLOW) | FTZ, UNDERFLOW),
        (ADDSS, 0x0080_0000, 0x8080_0001, unmasked(UNDERFLOW), UNDERFLOW),
        (ADDSS, 1, 1, unmasked(UNDERFLOW), UNDERFLOW | DENORMAL),
        // One that is found before anything is computed keeps those from being found that come of the result.
        (MULSS, 1, 0x4000_0000, unmasked(DENORMAL), DENORMAL),
        (DIVSS, 1, 0, unmasked(ZERO_DIVIDE), ZERO_DIVIDE),
        (DIVSS, 0, 0, unmasked(INVALID), INVALID),
        // divps of 0/0, 1/0, max/min: of all lanes together
        (
            &[0x0f, 0x5e, 0xca],
            0x3f80_0000 << 96 | 0x7f7f_ffff << 64 | 0x3f80_0000 << 32,
            0x3f80_0000 << 96 | 0x0080_0000 << 64,
            unmasked(ZERO_DIVIDE | OVERFLOW),
            INVALID | ZERO_DIVIDE,
        ),
        // cvtsd2ss of what a single cannot hold
        (&[0xf2, 0x0f, 0x5a, 0xca], 0, 0x7e37_e43c_8800_759c, unmasked(OVERFLOW), OVERFLOW | PRECISION),
        (&[0xf2, 0x0f, 0x5a, 0xca], 0, 0x4800_0000_0000_0000, unmasked(OVERFLOW), OVERFLOW),
        // cvtss2sd and sqrtss of a signalling NaN, cvttps2dq of 2^31
        (&[0xf3, 0x0f, 0x5a, 0xca], 0, 0x7f80_0001, unmasked(INVALID), INVALID),
        (&[0xf3, 0x0f, 0x51, 0xca], 0, 0x7f80_0001, unmasked(INVALID), INVALID),
        (&[0xf3, 0x0f, 0x5b, 0xca], 0, 0x4f00_0000, unmasked(INVALID), INVALID),
    ];
    let mut machine = machine();
    for &(code, dst, src, control, raised) in rows {
        for (cr4, end) in [(CR4_OSFXSR, UD), (CR4_OSFXSR | CR4_OSXMMEXCPT, XM)] {
            machine.set_sregs(|sregs| sregs.cr4 = cr4);
            set_mxcsr(&mut machine, control);
            set_fpu(&mut machine, |fpu| (fpu.xmm[1], fpu.xmm[2]) = (dst.to_le_bytes(), src.to_le_bytes()));
            assert_eq!(execute(&mut machine, code), end, "{code:02x?} {dst:#x} {src:#x} {control:#x}");
            assert_eq!(fpu(&machine).xmm[1], dst.to_le_bytes(), "{code:02x?} {dst:#x} {src:#x} {control:#x}");
            let found = mxcsr(&mut machine);
            assert_eq!(found, control | u32::from(raised), "{code:02x?} {dst:#x} {src:#x} {control:#x}");
        }
    }
}

#[test]
fn unmasked_exceptions_that_do_not_come_change_nothing() {
    let mut machine = machine();
    for (code, dst, src, control, result, raised) in [
        // An exact tiny product with only overflow unmasked, one that is no longer tiny, one that is flushed
        (MULSS, 0x0080_0000_u128, 0x3f00_0000_u128, unmasked(OVERFLOW), 0x0040_0000_u128, 0),
        (MULSS, 0x0100_0000, 0x3f00_0000, unmasked(UNDERFLOW), 0x0080_0000, 0),
        (MULSS, 0x0080_0000, 0x3f00_0000, unmasked(OVERFLOW) | FTZ, 0, UNDERFLOW | PRECISION),
        // Inexact, with others unmasked
        (DIVSS, 0x3f80_0000, 0x4040_0000, unmasked(OVERFLOW | UNDERFLOW | ZERO_DIVIDE), 0x3eaa_aaab, PRECISION),
        // Infinite operands make no overflow: 1 / 0 is none either.
        (DIVSS, 0x3f80_0000, 0, unmasked(OVERFLOW), 0x7f80_0000, ZERO_DIVIDE),
    ] {
        set_mxcsr(&mut machine, control);
        set_fpu(&mut machine, |fpu| (fpu.xmm[1], fpu.xmm[2]) = (dst.to_le_bytes(), src.to_le_bytes()));
        assert_eq!(execute(&mut machine, code), End::Done, "{code:02x?} {dst:#x} {src:#x} {control:#x}");
        let found = (u128::from_le_bytes(fpu(&machine).xmm[1]), mxcsr(&mut machine));
        assert_eq!(found, (result, control | u32::from(raised)), "{code:02x?} {dst:#x} {src:#x}");
    }
}

#[test]
fn an_unmasked_exception_leaves_flags_and_registers() {
    let mut machine = machine();
    set_mxcsr(&mut machine, unmasked(INVALID));
    let nan = 0x7fc0_0001_u128;
    machine.set(|regs| (regs.rflags, regs.rax) = (2 | super::super::STATUS, 7));
    set_fpu(&mut machine, |fpu| {
        (fpu.xmm[1], fpu.xmm[2]) = (nan.to_le_bytes(), [0; 16]);
        (fpu.fsw, fpu.ftwx) = (3 << 11, 0x18);
    });
    // comiss xmm1, xmm2: the flags that are pushed are those before it
    assert_eq!(execute(&mut machine, &[0x0f, 0x2f, 0xca]), XM);
    let pushed = u16::from_le_bytes(machine.read(0x8000 - 2));
    assert_eq!(u64::from(pushed) & super::super::STATUS, super::super::STATUS);
    // cvtss2si eax, xmm1; cvtps2pi mm1, xmm1
    assert_eq!(execute(&mut machine, &[0xf3, 0x0f, 0x2d, 0xc1]), XM);
    assert_eq!(machine.regs().rax, 7);
    // MMX registers are in use all the same.
    assert_eq!(execute(&mut machine, &[0x0f, 0x2d, 0xc9]), XM);
    assert_eq!((fpu(&machine).fsw, fpu(&machine).ftwx), (0, 0xff));
    assert_eq!(fpu(&machine).fpr[1], [0; 16]);
}

#[test]
fn reserved_bits_of_mxcsr_are_a_protection_fault() {
    let mut machine = machine();
    // ldmxcsr [0x4f00]; fxrstor [0x4000]
    machine.write(DATA + 0xf00, &0x1_1f80_u32.to_le_bytes());
    assert_eq!(execute(&mut machine, LDMXCSR), GP);
    machine.write(DATA, &[0xff; 512]);
    let before = fpu(&machine);
    assert_eq!(execute(&mut machine, &[0x0f, 0xae, 0x0e, 0x00, 0x40]), GP);
    assert_eq!((fpu(&machine), mxcsr(&mut machine)), (before, MASKED));
}

#[test]
fn misaligned_operands_are_alignment_checks_on_request() {
    const CR0_AM: u64 = 1 << 18;
    const AC: u64 = 1 << 18;
    let mut machine = long_machine();
    machine.set_sregs(|sregs| {
        sregs.cr0 |= CR0_AM;
        (sregs.cs.dpl, sregs.cs.selector, sregs.cs.type_) = (3, 0x23, 11);
        (sregs.ss.dpl, sregs.ss.selector, sregs.ss.type_) = (3, 0x2b, 3);
    });
    let user = machine.vcpu.sregs().unwrap();
    // Code with its operand at RDI, and what it is to be aligned to; as a processor does it.
    let rows: [(&[u8], u64); 17] = [
        // movups, movdqu
        (&[0x0f, 0x10, 0x0f], 1),
        (&[0xf3, 0x0f, 0x7f, 0x0f], 1),
        // maskmovdqu, maskmovq
        (&[0x66, 0x0f, 0xf7, 0xc1], 8),
        (&[0x0f, 0xf7, 0xc1], 8),
        // fld m80, fbstp, fld m32, fild m16, fnstcw, fnstenv, fnsave, and with 16-bit operands
        (&[0xdb, 0x2f], 8),
        (&[0xdf, 0x37], 8),
        (&[0xd9, 0x07], 4),
        (&[0xdf, 0x07], 2),
        (&[0xd9, 0x3f], 2),
        (&[0xd9, 0x37], 4),
        (&[0xdd, 0x37], 4),
        (&[0x66, 0xdd, 0x37], 2),
        // stmxcsr, addsd, movhps, paddb mm, punpcklbw mm
        (&[0x0f, 0xae, 0x1f], 4),
        (&[0xf2, 0x0f, 0x58, 0x0f], 8),
        (&[0x0f, 0x17, 0x0f], 8),
        (&[0x0f, 0xfc, 0x0f], 8),
        (&[0x0f, 0x60, 0x0f], 4),
    ];
    for (code, align) in rows {
        for offset in [0, 1, 2, 4, 8] {
            machine.vcpu.set_sregs(&user).unwrap();
            machine.set(|regs| (regs.rdi, regs.rflags) = (DATA + offset, 2 | AC));
            // In ring 3 the `hlt` behind it is a protection fault.
            let expected = if offset % align == 0 { GP } else { End::Exception(17) };
            assert_eq!(execute(&mut machine, code), expected, "{code:02x?} at {offset}");
        }
    }
}
