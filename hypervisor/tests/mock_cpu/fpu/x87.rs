//! x87: results compared with arithmetic in software and with the manual's tables.

use std::cell::RefCell;

use proptest::prelude::*;
use rustc_apfloat::ieee::{Double, Single, X87DoubleExtended};
use rustc_apfloat::{Float, Status};

use super::values::*;
use super::*;

/// All exceptions masked, 64 bits of precision, to nearest.
const CONTROL: u16 = 0x37f;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const STACK_FAULT: u16 = 1 << 6;
const SUMMARY: u16 = 1 << 15 | 1 << 7;
const TOP: u16 = 7 << 11;
const INTEGER: u64 = 1 << 63;

const INFINITY: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f];
const MINUS_INFINITY: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff];
/// What an invalid operation gives.
const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// Executes with ST(0) and on set, and nothing raised yet.
fn run(machine: &mut Machine, control: u16, stack: &[[u8; 10]], code: &[u8]) -> kvm_fpu {
    set_fpu(machine, |fpu| (fpu.fcw, fpu.fsw, fpu.ftwx) = (control, 0, 0));
    set_stack(machine, stack);
    assert_eq!(execute(machine, code), End::Done, "{code:02x?}");
    fpu(machine)
}

/// The NaN that an operation on these gives: the quiet one, or that with the larger significand, made quiet.
fn nan(a: [u8; 10], b: [u8; 10]) -> Option<[u8; 10]> {
    const QUIET: u128 = 1 << 62;
    let [a, b] = [a, b].map(bits);
    let is_nan = |value: u128| value >> 64 & 0x7fff == 0x7fff && value << 65 != 0;
    let is_quiet = |value: u128| value & QUIET != 0;
    let significand = |value: u128| value as u64;
    let chosen = match (is_nan(a), is_nan(b)) {
        (false, false) => return None,
        (true, false) => a,
        (false, true) => b,
        _ if is_quiet(a) != is_quiet(b) => {
            if is_quiet(a) {
                a
            } else {
                b
            }
        }
        _ if significand(a) == significand(b) => a.min(b),
        _ => {
            if significand(a) > significand(b) {
                a
            } else {
                b
            }
        }
    };
    Some(bytes(chosen | QUIET))
}

#[test]
fn sums_products_and_quotients_are_those_of_software() {
    let machine = RefCell::new(machine());
    let cases = (x87_number(), x87_number(), 0_usize..4, 0_usize..4);
    let result = runner().run(&cases, |(a, b, operation, rounding)| {
        let machine = &mut *machine.borrow_mut();
        // fadd, fsub, fmul, fdiv st(0), st(1)
        let modrm = [0xc1, 0xe1, 0xc9, 0xf1][operation];
        let fpu = run(machine, CONTROL | (rounding as u16) << 10, &[a, b], &[0xd8, modrm]);
        let [x, y] = [a, b].map(|value| X87DoubleExtended::from_bits(bits(value)));
        let expected = compute(operation, x, y, ROUNDINGS[rounding]);
        match nan(a, b) {
            Some(nan) => prop_assert_eq!(st(&fpu, 0), nan),
            None if expected.value.is_nan() => prop_assert_eq!(st(&fpu, 0), INDEFINITE),
            None => prop_assert_eq!(st(&fpu, 0), bytes(expected.value.to_bits())),
        }
        let uncertain = uncertain(bits(st(&fpu, 0)) & !(1 << 79), 1 << 64 | 1 << 63, 0x7ffe_ffff_ffff_ffff_ffff);
        prop_assert_eq!(fpu.fsw & 0x3f & !DENORMAL & !uncertain, flags(expected.status) & !uncertain);
        prop_assert_eq!(st(&fpu, 1), b);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn numbers_are_stored_and_loaded_as_software_converts_them() {
    let machine = RefCell::new(machine());
    let cases = (x87_number(), number(8, 23), number(11, 52), any::<i64>(), 0_usize..4);
    let result = runner().run(&cases, |(wide, single, double, integer, rounding)| {
        let machine = &mut *machine.borrow_mut();
        let round = ROUNDINGS[rounding];
        let control = CONTROL | (rounding as u16) << 10;
        let value = X87DoubleExtended::from_bits(bits(wide));
        machine.write(DATA, &[0xee; 16]);
        machine.set(|regs| regs.rbx = DATA);

        // fst dword [bx]; fst qword [bx]
        let as_single: rustc_apfloat::StatusAnd<Single> = convert(value, round);
        let as_double: rustc_apfloat::StatusAnd<Double> = convert(value, round);
        for (code, stored, status, is_nan, len) in [
            ([0xd9, 0x17], as_single.value.to_bits(), as_single.status, as_single.value.is_nan(), 4),
            ([0xdd, 0x17], as_double.value.to_bits(), as_double.status, as_double.value.is_nan(), 8),
        ] {
            let fpu = run(machine, control, &[wide], &code);
            let found = u64::from_le_bytes(machine.read(DATA)) & u64::MAX >> (64 - 8 * len);
            let (smallest, largest) =
                if len == 4 { (1 << 23, 0x7f7f_ffff) } else { (1 << 52, 0x7fef << 48 | 0xffff_ffff_ffff) };
            let uncertain = uncertain((found & u64::MAX >> (65 - 8 * len)).into(), smallest, largest);
            // Software has no signal for a NaN that becomes quiet.
            let uncertain = if is_nan { INVALID } else { uncertain };
            prop_assert_eq!(u128::from(found), stored, "{:02x?}", code);
            prop_assert_eq!(fpu.fsw & 0x3f & !uncertain, flags(status) & !uncertain, "{:02x?}", code);
            machine.write(DATA, &[0xee; 16]);
        }

        // fistp word, dword, qword [bx]
        for (code, width) in [([0xdf, 0x1f], 16_u32), ([0xdb, 0x1f], 32), ([0xdf, 0x3f], 64)] {
            let fpu = run(machine, control, &[wide], &code);
            let found = i64::from_le_bytes(machine.read(DATA)) << (64 - width) >> (64 - width);
            let expected = value.to_i128_r(width as usize, round, &mut false);
            if expected.status.contains(Status::INVALID_OP) {
                prop_assert_eq!((found, fpu.fsw & 0x3f), (i64::MIN >> (64 - width), INVALID));
            } else {
                prop_assert_eq!((i128::from(found), fpu.fsw & 0x3f), (expected.value, flags(expected.status)));
            }
            prop_assert_eq!((fpu.fsw & TOP, fpu.ftwx), (0, 0));
        }

        // fld dword, qword; fild qword
        machine.write(DATA, &single.to_le_bytes());
        let from: rustc_apfloat::StatusAnd<X87DoubleExtended> = convert(Single::from_bits(single.into()), round);
        prop_assert_eq!(bits(st(&run(machine, control, &[], &[0xd9, 0x07]), 0)), from.value.to_bits());
        machine.write(DATA, &double.to_le_bytes());
        let from: rustc_apfloat::StatusAnd<X87DoubleExtended> = convert(Double::from_bits(double.into()), round);
        prop_assert_eq!(bits(st(&run(machine, control, &[], &[0xdd, 0x07]), 0)), from.value.to_bits());
        machine.write(DATA, &integer.to_le_bytes());
        let from = X87DoubleExtended::from_i128(integer.into());
        prop_assert_eq!(bits(st(&run(machine, control, &[], &[0xdf, 0x2f]), 0)), from.value.to_bits());
        Ok(())
    });
    result.unwrap();
}

#[test]
fn square_roots_are_the_nearest_to_integer_roots() {
    let machine = RefCell::new(machine());
    let result = runner().run(&(1_u16..0x7fff, any::<u64>()), |(exponent, fraction)| {
        let machine = &mut *machine.borrow_mut();
        let mantissa = fraction | INTEGER;
        let fpu = run(machine, CONTROL, &[parts(exponent, mantissa)], &[0xd9, 0xfa]);
        // The exponent is biased by an odd number, so of an odd one the number is a fraction times an even power of 2.
        let odd = exponent % 2;
        let square = u128::from(mantissa) << (64 - odd);
        let root = square.isqrt();
        let root = if square - root * root > root { root + 1 } else { root };
        let expected = parts((exponent - odd) / 2 + odd + 0x1fff, root as u64);
        prop_assert_eq!(st(&fpu, 0), expected, "of {:#x} {:#x}", exponent, mantissa);
        Ok(())
    });
    result.unwrap();
}

/// ST(0) and ST(1) before, ST(0) after, and exceptions but for precision: exact results of transcendentals may raise it.
type Row = ([u8; 10], [u8; 10], [u8; 10], u16);

fn check(code: &[u8], rows: &[Row]) {
    let mut machine = machine();
    for &(first, second, expected, raised) in rows {
        let fpu = run(&mut machine, CONTROL, &[first, second], code);
        assert_eq!(
            (st(&fpu, 0), fpu.fsw & 0x7f & !PRECISION),
            (expected, raised),
            "{code:02x?} of {first:02x?} {second:02x?}"
        );
    }
}

#[test]
fn special_operands_have_the_results_of_the_manuals_tables() {
    let (zero, minus_zero) = (x87(0.0), x87(-0.0));
    let (one, two, minus_two) = (x87(1.0), x87(2.0), x87(-2.0));
    // fadd, fsubr, fmul, fdiv: the invalid ones and those of zeros and infinities
    check(
        &[0xd8, 0xc1],
        &[
            (INFINITY, MINUS_INFINITY, INDEFINITE, INVALID),
            (INFINITY, one, INFINITY, 0),
            (zero, minus_zero, zero, 0),
            (minus_zero, minus_zero, minus_zero, 0),
        ],
    );
    check(&[0xd8, 0xe9], &[(INFINITY, INFINITY, INDEFINITE, INVALID), (one, two, one, 0)]);
    check(
        &[0xd8, 0xc9],
        &[
            (INFINITY, zero, INDEFINITE, INVALID),
            (INFINITY, minus_two, MINUS_INFINITY, 0),
            (minus_zero, two, minus_zero, 0),
        ],
    );
    check(
        &[0xd8, 0xf1],
        &[
            (zero, zero, INDEFINITE, INVALID),
            (INFINITY, MINUS_INFINITY, INDEFINITE, INVALID),
            (one, minus_zero, MINUS_INFINITY, ZERO_DIVIDE),
            (minus_two, INFINITY, minus_zero, 0),
        ],
    );
    // fsqrt
    check(
        &[0xd9, 0xfa],
        &[(minus_two, one, INDEFINITE, INVALID), (minus_zero, one, minus_zero, 0), (x87(9.0), one, x87(3.0), 0)],
    );
    // fscale: by infinities
    check(
        &[0xd9, 0xfd],
        &[
            (zero, INFINITY, INDEFINITE, INVALID),
            (INFINITY, MINUS_INFINITY, INDEFINITE, INVALID),
            (minus_two, INFINITY, MINUS_INFINITY, 0),
            (minus_two, MINUS_INFINITY, minus_zero, 0),
            (x87(3.0), x87(2.9), x87(12.0), 0),
            (x87(3.0), x87(-1.9), x87(1.5), 0),
        ],
    );
    // fpatan: of ST(1) / ST(0), which it pops
    let half_pi = parts(0x3fff, 0xc90f_daa2_2168_c235);
    let quarter = parts(0x3ffe, 0xc90f_daa2_2168_c235);
    let three_quarters = parts(0x4000, 0x96cb_e3f9_990e_91a8);
    let minus = |[low @ .., high]: [u8; 10]| -> [u8; 10] { [&low[..], &[high | 0x80]].concat().try_into().unwrap() };
    check(
        &[0xd9, 0xf3],
        &[
            (one, zero, zero, 0),
            (minus_two, zero, PI, 0),
            (minus_two, minus_zero, minus(PI), 0),
            (zero, two, half_pi, 0),
            (zero, minus_two, minus(half_pi), 0),
            (INFINITY, INFINITY, quarter, 0),
            (MINUS_INFINITY, INFINITY, three_quarters, 0),
            (INFINITY, one, zero, 0),
            (one, one, quarter, 0),
        ],
    );
    // fyl2x: ST(1) * log2(ST(0)), which it pops
    check(
        &[0xd9, 0xf1],
        &[
            (minus_two, one, INDEFINITE, INVALID),
            (zero, one, MINUS_INFINITY, ZERO_DIVIDE),
            (zero, minus_two, INFINITY, ZERO_DIVIDE),
            (zero, zero, INDEFINITE, INVALID),
            (one, INFINITY, INDEFINITE, INVALID),
            (one, two, zero, 0),
            (INFINITY, zero, INDEFINITE, INVALID),
            (INFINITY, minus_two, MINUS_INFINITY, 0),
            (x87(8.0), two, x87(6.0), 0),
        ],
    );
    // fprem and fprem1
    check(
        &[0xd9, 0xf8],
        &[
            (INFINITY, one, INDEFINITE, INVALID),
            (one, zero, INDEFINITE, INVALID),
            (two, INFINITY, two, 0),
            (x87(7.0), x87(-4.0), x87(3.0), 0),
            (x87(-7.0), x87(4.0), x87(-3.0), 0),
        ],
    );
    check(
        &[0xd9, 0xf5],
        &[(x87(7.0), x87(4.0), x87(-1.0), 0), (x87(6.0), x87(4.0), x87(-2.0), 0), (one, zero, INDEFINITE, INVALID)],
    );
    // f2xm1 and frndint
    check(&[0xd9, 0xf0], &[(one, one, one, 0), (x87(-1.0), one, x87(-0.5), 0), (minus_zero, one, minus_zero, 0)]);
    check(
        &[0xd9, 0xfc],
        &[
            (x87(2.5), one, two, 0),
            (x87(3.5), one, x87(4.0), 0),
            (x87(-0.5), one, minus_zero, 0),
            (INFINITY, one, INFINITY, 0),
        ],
    );
}

#[test]
fn remainders_leave_the_quotients_low_bits() {
    let mut machine = machine();
    for quotient in 0..8_u16 {
        let fpu = run(&mut machine, CONTROL, &[x87(f64::from(quotient) * 3.0 + 1.0), x87(3.0)], &[0xd9, 0xf8]);
        let bit = |at: u16, flag: u16| if quotient >> at & 1 != 0 { flag } else { 0 };
        let expected = bit(0, C1) | bit(1, C3) | bit(2, C0);
        assert_eq!((fpu.fsw & (C0 | C1 | C2 | C3), st(&fpu, 0)), (expected, x87(1.0)));
    }
    // The exponents are too far apart for one step.
    let fpu = run(&mut machine, CONTROL, &[x87(1e300), x87(3.0)], &[0xd9, 0xf8]);
    assert_eq!(fpu.fsw & C2, C2);
}

#[test]
fn constants_are_rounded_as_the_control_word_says() {
    let mut machine = machine();
    // Opcode behind D9, exponent, and the mantissa rounded down; up it is one more. Which it is to nearest.
    let rows = [
        (0xe9, 0x4000, 0xd49a_784b_cd1b_8afe, false),
        (0xea, 0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
        (0xeb, 0x4000, 0xc90f_daa2_2168_c234, true),
        (0xec, 0x3ffd, 0x9a20_9a84_fbcf_f798, true),
        (0xed, 0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    ];
    for (opcode, exponent, down, nearest_is_up) in rows {
        for (rounding, up) in [(0, nearest_is_up), (1, false), (2, true), (3, false)] {
            let fpu = run(&mut machine, CONTROL | rounding << 10, &[], &[0xd9, opcode]);
            assert_eq!(st(&fpu, 0), parts(exponent, down + u64::from(up)), "{opcode:#x}, {rounding}");
            assert_eq!(fpu.fsw, TOP, "no exception");
        }
    }
    for (opcode, expected) in [(0xe8, ONE), (0xee, [0; 10])] {
        assert_eq!(st(&run(&mut machine, CONTROL, &[], &[0xd9, opcode]), 0), expected);
    }
}

#[test]
fn precision_control_shortens_the_significand_alone() {
    let mut machine = machine();
    // fdiv st(0), st(1): a third
    for (precision, mantissa) in [(0, 0xaaaa_ab00_0000_0000), (2, 0xaaaa_aaaa_aaaa_a800), (3, 0xaaaa_aaaa_aaaa_aaab)] {
        let control = CONTROL & !0x300 | precision << 8;
        let fpu = run(&mut machine, control, &[x87(1.0), x87(3.0)], &[0xd8, 0xf1]);
        assert_eq!(st(&fpu, 0), parts(0x3ffd, mantissa));
        // A number that no double reaches is none of an overflow: fmul st(0), st(0)
        let fpu = run(&mut machine, control, &[x87(1e300), x87(3.0)], &[0xd8, 0xc8]);
        assert_eq!(fpu.fsw & OVERFLOW, 0);
        // Loads and stores do not honour it: fld st(0)
        let fpu = run(&mut machine, control, &[PI], &[0xd9, 0xc0]);
        assert_eq!(st(&fpu, 0), PI);
    }
}

#[test]
fn comparisons_set_condition_codes_or_flags() {
    let mut machine = machine();
    let quiet = parts(0x7fff, 0xc000_0000_0000_0001);
    let signalling = parts(0x7fff, INTEGER | 1);
    let (less, equal, unordered) = (C0, C3, C0 | C2 | C3);
    let rows = [
        (x87(2.0), x87(1.0), 0, false, false),
        (x87(1.0), x87(2.0), less, false, false),
        (x87(0.0), x87(-0.0), equal, false, false),
        (MINUS_INFINITY, INFINITY, less, false, false),
        (quiet, x87(1.0), unordered, true, false),
        (x87(1.0), signalling, unordered, true, true),
    ];
    for (a, b, codes, invalid, invalid_unordered) in rows {
        for (code, invalid) in [([0xd8, 0xd1], invalid), ([0xdd, 0xe1], invalid_unordered)] {
            let fpu = run(&mut machine, CONTROL, &[a, b], &code);
            assert_eq!(fpu.fsw & !TOP, codes | u16::from(invalid), "{code:02x?} of {a:02x?}, {b:02x?}");
        }
        for (code, invalid) in [([0xdb, 0xf1], invalid), ([0xdb, 0xe9], invalid_unordered)] {
            machine.set(|regs| regs.rflags = 2 | super::super::STATUS);
            let fpu = run(&mut machine, CONTROL, &[a, b], &code);
            let flags = [(C0, super::super::CF), (C2, super::super::PF), (C3, super::super::ZF)];
            let expected: u64 = flags.iter().filter(|(code, _)| codes & code != 0).map(|(_, flag)| flag).sum();
            assert_eq!(machine.regs().rflags & super::super::STATUS, expected, "{code:02x?}");
            assert_eq!(fpu.fsw & !TOP, u16::from(invalid));
        }
        // fcompp, fucompp, fcomip, fucomip
        for (code, left) in [([0xde, 0xd9], 0), ([0xda, 0xe9], 0), ([0xdf, 0xf1], 0x80), ([0xdf, 0xe9], 0x80)] {
            assert_eq!(run(&mut machine, CONTROL, &[a, b], &code).ftwx, left);
        }
    }
    // ftst: with 0
    assert_eq!(run(&mut machine, CONTROL, &[x87(-1.0)], &[0xd9, 0xe4]).fsw & !TOP, C0);
}

#[test]
fn other_instructions_leave_the_flags_alone() {
    let mut machine = machine();
    machine.set(|regs| regs.rflags = 2 | super::super::STATUS);
    run(&mut machine, CONTROL, &[ONE, PI], &[0xd8, 0xc1]);
    assert_eq!(machine.regs().rflags & super::super::STATUS, super::super::STATUS);
    // fcmovb and fcmovnb st(0), st(1)
    machine.set(|regs| regs.rflags = 2 | super::super::CF);
    assert_eq!(st(&run(&mut machine, CONTROL, &[ONE, PI], &[0xda, 0xc1]), 0), PI);
    assert_eq!(st(&run(&mut machine, CONTROL, &[ONE, PI], &[0xdb, 0xc1]), 0), ONE);
    assert_eq!(machine.regs().rflags & super::super::STATUS, super::super::CF);
}

#[test]
fn fxam_names_the_class_of_what_it_finds() {
    let mut machine = machine();
    let rows = [
        (parts(0x3fff, INTEGER >> 1), 0),
        (parts(0x7fff, INTEGER | 1), C0),
        (ONE, C2),
        (INFINITY, C2 | C0),
        (x87(0.0), C3),
        (parts(0, 1), C3 | C2),
    ];
    for (value, class) in rows {
        let [low @ .., high] = value;
        let negative = [&low[..], &[high | 0x80]].concat().try_into().unwrap();
        for (value, sign) in [(value, 0), (negative, C1)] {
            assert_eq!(run(&mut machine, CONTROL, &[value], &[0xd9, 0xe5]).fsw & !TOP, class | sign, "{value:02x?}");
        }
    }
    // Empty, whatever is in it: ffree st(0); fxam
    assert_eq!(run(&mut machine, CONTROL, &[ONE], &[0xdd, 0xc0, 0xd9, 0xe5]).fsw & !TOP, C3 | C0);
}

#[test]
fn stack_faults_say_which_way() {
    let mut machine = machine();
    // fld1 with eight registers in use; C1 tells that it is an overflow.
    let fpu = run(&mut machine, CONTROL, &[ONE; 8], &[0xd9, 0xe8]);
    assert_eq!((fpu.fsw, st(&fpu, 0)), (TOP | C1 | STACK_FAULT | INVALID, INDEFINITE));
    // fadd st(0), st(3), which is empty
    let fpu = run(&mut machine, CONTROL, &[ONE, ONE], &[0xd8, 0xc3]);
    assert_eq!((fpu.fsw & !TOP, st(&fpu, 0)), (STACK_FAULT | INVALID, INDEFINITE));
    // With the exception unmasked nothing is changed: fld1, faddp st(3), fstp qword [bx]
    for (stack, code, way) in
        [(&[ONE; 8][..], &[0xd9, 0xe8][..], C1), (&[ONE; 2], &[0xde, 0xc3], 0), (&[], &[0xdd, 0x1f], 0)]
    {
        machine.set(|regs| regs.rbx = DATA);
        machine.write(DATA, &[0xee; 8]);
        let fpu = run(&mut machine, CONTROL & !INVALID, stack, code);
        let top = ((8 - stack.len() as u16) % 8) << 11;
        assert_eq!(fpu.fsw, SUMMARY | top | way | STACK_FAULT | INVALID, "{code:02x?}");
        assert_eq!(machine.read(DATA), [0xee; 8]);
        assert!(stack.iter().enumerate().all(|(index, value)| st(&fpu, index) == *value));
    }
}

#[test]
fn unmasked_results_have_an_adjusted_exponent() {
    /// What the exponent is adjusted by (Intel SDM volume 1, sections 8.5.4 and 8.5.5).
    const ADJUSTMENT: u16 = 24576;
    let mut machine = machine();
    // fmul st(0), st(1): the exponent is too large, or too small, which even an exact result is.
    let fpu = run(&mut machine, CONTROL & !OVERFLOW, &[parts(0x7ffe, INTEGER), parts(0x4001, INTEGER)], &[0xd8, 0xc9]);
    assert_eq!(
        (st(&fpu, 0), fpu.fsw & !TOP),
        (parts((0x8000_u32 - u32::from(ADJUSTMENT)) as u16, INTEGER), SUMMARY | OVERFLOW)
    );
    let fpu = run(&mut machine, CONTROL & !UNDERFLOW, &[parts(1, INTEGER), parts(0x3ffd, INTEGER)], &[0xd8, 0xc9]);
    assert_eq!((st(&fpu, 0), fpu.fsw & !TOP), (parts(ADJUSTMENT - 1, INTEGER), SUMMARY | UNDERFLOW));
    // Masked, an exact tiny result is none: the denormal is exact.
    let fpu = run(&mut machine, CONTROL, &[parts(1, INTEGER), parts(0x3ffd, INTEGER)], &[0xd8, 0xc9]);
    assert_eq!((st(&fpu, 0), fpu.fsw & !TOP), (parts(0, INTEGER >> 2), 0));
    // To memory nothing is stored and nothing popped: fstp dword [bx]
    machine.write(DATA, &[0xee; 4]);
    machine.set(|regs| regs.rbx = DATA);
    for (control, value) in [(CONTROL & !OVERFLOW, x87(1e300)), (CONTROL & !UNDERFLOW, x87(1e-300))] {
        let fpu = run(&mut machine, control, &[value], &[0xd9, 0x1f]);
        assert_eq!((st(&fpu, 0), machine.read(DATA), fpu.ftwx), (value, [0xee; 4], 0x80));
        assert_eq!(fpu.fsw & SUMMARY, SUMMARY);
    }
    // An inexact one is stored and popped all the same.
    let fpu = run(&mut machine, CONTROL & !PRECISION, &[PI], &[0xd9, 0x1f]);
    assert_eq!((f32::from_le_bytes(machine.read(DATA)), fpu.ftwx), (std::f32::consts::PI, 0));
    assert_eq!(fpu.fsw & (SUMMARY | PRECISION), SUMMARY | PRECISION);
    // Unmasked pre-computation exceptions leave operands and stack: fdivp st(1), st(0) by 0, fsqrt of a denormal
    let fpu = run(&mut machine, CONTROL & !ZERO_DIVIDE, &[x87(0.0), ONE], &[0xde, 0xf9]);
    assert_eq!((st(&fpu, 0), st(&fpu, 1), fpu.fsw), (x87(0.0), ONE, SUMMARY | 6 << 11 | ZERO_DIVIDE));
    let fpu = run(&mut machine, CONTROL & !DENORMAL, &[parts(0, 1)], &[0xd9, 0xfa]);
    assert_eq!((st(&fpu, 0), fpu.fsw & !TOP), (parts(0, 1), SUMMARY | DENORMAL));
}

#[test]
fn decimal_digits_are_loaded_and_stored() {
    let mut machine = machine();
    machine.set(|regs| regs.rbx = DATA);
    // fbld [bx]; fbstp [bx]
    let digits = [0x98, 0x76, 0x54, 0x32, 0x10, 0x98, 0x76, 0x54, 0x32, 0x80];
    machine.write(DATA, &digits);
    assert_eq!(st(&run(&mut machine, CONTROL, &[], &[0xdf, 0x27]), 0), {
        bytes(X87DoubleExtended::from_i128(-325_476_981_032_547_698).value.to_bits())
    });
    machine.write(DATA, &[0; 10]);
    let value = bytes(X87DoubleExtended::from_i128(-325_476_981_032_547_698).value.to_bits());
    let fpu = run(&mut machine, CONTROL, &[value], &[0xdf, 0x37]);
    assert_eq!((machine.read(DATA), fpu.ftwx), (digits, 0));
    // Too large: the indefinite of decimals
    let fpu = run(&mut machine, CONTROL, &[x87(1e18)], &[0xdf, 0x37]);
    assert_eq!((machine.read(DATA), fpu.fsw), ([0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff], INVALID));
}

#[test]
fn results_of_two_registers_are_pushed() {
    let mut machine = machine();
    // fxtract of 12: 1.5 above the exponent 3
    let fpu = run(&mut machine, CONTROL, &[x87(12.0)], &[0xd9, 0xf4]);
    assert_eq!([st(&fpu, 0), st(&fpu, 1)], [x87(1.5), x87(3.0)]);
    // fptan of 0 pushes 1; fsincos of 0
    let fpu = run(&mut machine, CONTROL, &[x87(0.0)], &[0xd9, 0xf2]);
    assert_eq!([st(&fpu, 0), st(&fpu, 1)], [ONE, x87(0.0)]);
    let fpu = run(&mut machine, CONTROL, &[x87(0.0)], &[0xd9, 0xfb]);
    assert_eq!([st(&fpu, 0), st(&fpu, 1)], [ONE, x87(0.0)]);
    // Beyond 2^63 the operand stays, and C2 is set: fsin, fcos, fptan, fsincos
    for opcode in [0xfe, 0xff, 0xf2, 0xfb] {
        let fpu = run(&mut machine, CONTROL, &[x87(1e30)], &[0xd9, opcode]);
        assert_eq!((st(&fpu, 0), fpu.fsw & C2, fpu.ftwx), (x87(1e30), C2, 0x80));
    }
}

#[test]
fn transcendentals_are_near_to_what_mathematics_says() {
    let mut machine = machine();
    let near = |value: [u8; 10], expected: f64| {
        let double: rustc_apfloat::StatusAnd<Double> = convert(X87DoubleExtended::from_bits(bits(value)), ROUNDINGS[0]);
        let value = f64::from_bits(double.value.to_bits() as u64);
        assert!((value - expected).abs() <= 1e-15 * expected.abs(), "{value} is not {expected}");
    };
    // Known to more digits than a double has: sin 1, cos 1, tan 1, 2^0.5 - 1, atan 2, 3 log2 10, log2 1.25
    near(st(&run(&mut machine, CONTROL, &[ONE], &[0xd9, 0xfe]), 0), 0.841_470_984_807_896_5);
    near(st(&run(&mut machine, CONTROL, &[ONE], &[0xd9, 0xff]), 0), 0.540_302_305_868_139_7);
    near(st(&run(&mut machine, CONTROL, &[ONE], &[0xd9, 0xf2]), 1), 1.557_407_724_654_902_3);
    near(st(&run(&mut machine, CONTROL, &[x87(0.5)], &[0xd9, 0xf0]), 0), 0.414_213_562_373_095_05);
    near(st(&run(&mut machine, CONTROL, &[ONE, x87(2.0)], &[0xd9, 0xf3]), 0), 1.107_148_717_794_090_4);
    near(st(&run(&mut machine, CONTROL, &[x87(10.0), x87(3.0)], &[0xd9, 0xf1]), 0), 9.965_784_284_662_087);
    near(st(&run(&mut machine, CONTROL, &[x87(0.25), ONE], &[0xd9, 0xf9]), 0), 0.321_928_094_887_362_35);
}

#[test]
fn registers_are_exchanged_freed_and_turned() {
    let mut machine = machine();
    // fxch st(2); fincstp; fdecstp; ffree st(1); fchs; fabs
    let stack = [ONE, PI, x87(2.0)];
    let fpu = run(&mut machine, CONTROL, &stack, &[0xd9, 0xca]);
    assert_eq!([0, 1, 2].map(|index| st(&fpu, index)), [x87(2.0), PI, ONE]);
    let fpu = run(&mut machine, CONTROL, &stack, &[0xd9, 0xf7]);
    assert_eq!((fpu.fsw & TOP, st(&fpu, 0), st(&fpu, 7), fpu.ftwx), (6 << 11, PI, ONE, 0xe0));
    let fpu = run(&mut machine, CONTROL, &stack, &[0xd9, 0xf6]);
    assert_eq!((fpu.fsw & TOP, st(&fpu, 1), fpu.ftwx), (4 << 11, ONE, 0xe0));
    assert_eq!(run(&mut machine, CONTROL, &stack, &[0xdd, 0xc1]).ftwx, 0b1010_0000);
    assert_eq!(st(&run(&mut machine, CONTROL, &stack, &[0xd9, 0xe0]), 0), x87(-1.0));
    assert_eq!(st(&run(&mut machine, CONTROL, &[x87(-2.5)], &[0xd9, 0xe1]), 0), x87(2.5));
    // fst st(3); fstp st(1); fld st(2)
    let fpu = run(&mut machine, CONTROL, &stack, &[0xdd, 0xd3]);
    assert_eq!((st(&fpu, 3), fpu.ftwx), (ONE, 0b1110_0001));
    let fpu = run(&mut machine, CONTROL, &stack, &[0xdd, 0xd9]);
    assert_eq!((st(&fpu, 0), fpu.ftwx), (ONE, 0b1100_0000));
    assert_eq!(st(&run(&mut machine, CONTROL, &stack, &[0xd9, 0xc2]), 0), x87(2.0));
}

#[test]
fn reversed_and_integer_forms_have_their_operands_in_order() {
    let mut machine = machine();
    machine.set(|regs| regs.rbx = DATA);
    machine.write(DATA, &3_i32.to_le_bytes());
    let rows: [(&[u8], f64, bool); 14] = [
        // ST(0) = 12, ST(1) = 4: fsub, fsubr, fdiv, fdivr st(0), st(1)
        (&[0xd8, 0xe1], 8.0, false),
        (&[0xd8, 0xe9], -8.0, false),
        (&[0xd8, 0xf1], 3.0, false),
        (&[0xd8, 0xf9], 4.0 / 12.0, false),
        // fsubrp, fsubp, fdivrp, fdivp st(1), st(0)
        (&[0xde, 0xe1], 8.0, true),
        (&[0xde, 0xe9], -8.0, true),
        (&[0xde, 0xf1], 3.0, true),
        (&[0xde, 0xf9], 4.0 / 12.0, true),
        // fiadd, fimul, fisub, fisubr, fidiv, fidivr dword [bx]
        (&[0xda, 0x07], 15.0, false),
        (&[0xda, 0x0f], 36.0, false),
        (&[0xda, 0x27], 9.0, false),
        (&[0xda, 0x2f], -9.0, false),
        (&[0xda, 0x37], 4.0, false),
        (&[0xda, 0x3f], 0.25, false),
    ];
    for (code, expected, pops) in rows {
        let fpu = run(&mut machine, 0x27f, &[x87(12.0), x87(4.0)], code);
        assert_eq!((st(&fpu, 0), fpu.ftwx), (x87(expected), if pops { 0x80 } else { 0xc0 }), "{code:02x?}");
    }
}
