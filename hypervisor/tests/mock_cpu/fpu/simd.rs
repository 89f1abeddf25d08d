//! SSE and SSE2: results compared with arithmetic in software, and moves.

use std::cell::RefCell;

use proptest::prelude::*;
use rustc_apfloat::ieee::{Double, Single};
use rustc_apfloat::{Float, Round, Status};

use super::values::*;
use super::*;

/// All exceptions masked.
const MASKED: u32 = 0x1f80;
const DAZ: u32 = 1 << 6;
const FTZ: u32 = 1 << 15;

/// Executes with XMM1 and XMM2 set, and MXCSR with its flags clear. Returns XMM1, and the flags that were raised.
fn run(machine: &mut Machine, mxcsr: u32, dst: u128, src: u128, code: &[u8]) -> (u128, u16) {
    set_mxcsr(machine, mxcsr);
    set_fpu(machine, |fpu| (fpu.xmm[1], fpu.xmm[2]) = (dst.to_le_bytes(), src.to_le_bytes()));
    assert_eq!(execute(machine, code), End::Done, "{code:02x?}");
    let result = u128::from_le_bytes(fpu(machine).xmm[1]);
    (result, super::mxcsr(machine) as u16 & 0x3f)
}

/// The highest bit of a NaN's fraction.
fn quiet<F: Float>() -> u64 {
    1 << (F::PRECISION - 2)
}

/// The NaN that an operation on these gives: the first, made quiet.
fn nan<F: Float>(a: u64, b: u64) -> Option<u64> {
    let magnitude = |value: u64| value << (64 - F::BITS) << 1;
    let infinity = magnitude(F::INFINITY.to_bits() as u64);
    Some([a, b].into_iter().find(|&value| magnitude(value) > infinity)? | quiet::<F>())
}

/// Flags for which software has another rule, and that of denormal operands, which it does not have.
fn unclear<F: Float>(result: u64) -> u16 {
    let magnitude = u128::from(result) & ((1 << (F::BITS - 1)) - 1);
    DENORMAL | uncertain(magnitude, F::smallest_normalized().to_bits(), F::largest().to_bits())
}

/// The result of an operation, and flags.
fn reference<F: Float>(operation: usize, a: u64, b: u64, round: Round) -> (u64, u16) {
    let result = compute(operation, F::from_bits(a.into()), F::from_bits(b.into()), round);
    let indefinite = F::INFINITY.to_bits() as u64 | quiet::<F>() | 1 << (F::BITS - 1);
    let value = match nan::<F>(a, b) {
        Some(nan) => nan,
        None if result.value.is_nan() => indefinite,
        None => result.value.to_bits() as u64,
    };
    (value, flags(result.status))
}

/// add, sub, mul, div behind 0F.
const OPCODES: [u8; 4] = [0x58, 0x5c, 0x59, 0x5e];

#[test]
fn scalar_arithmetic_is_that_of_software() {
    let machine = RefCell::new(machine());
    let cases = (number(8, 23), number(8, 23), number(11, 52), number(11, 52), 0_usize..4, 0_usize..4);
    let result = runner().run(&cases, |(a, b, c, d, operation, rounding)| {
        let machine = &mut *machine.borrow_mut();
        let mxcsr = MASKED | (rounding as u32) << 13;
        let upper = 0x1122_3344_5566_7788 << 64;
        let opcode = OPCODES[operation];
        let (value, flags) = reference::<Single>(operation, a, b, ROUNDINGS[rounding]);
        let (found, raised) = run(machine, mxcsr, upper | u128::from(a), b.into(), &[0xf3, 0x0f, opcode, 0xca]);
        prop_assert_eq!(found, upper | u128::from(value), "single");
        let masked = unclear::<Single>(value);
        prop_assert_eq!(raised & !masked, flags & !masked, "single");
        let (value, flags) = reference::<Double>(operation, c, d, ROUNDINGS[rounding]);
        let (found, raised) = run(machine, mxcsr, upper | u128::from(c), d.into(), &[0xf2, 0x0f, opcode, 0xca]);
        prop_assert_eq!(found, upper | u128::from(value), "double");
        let masked = unclear::<Double>(value);
        prop_assert_eq!(raised & !masked, flags & !masked, "double");
        Ok(())
    });
    result.unwrap();
}

#[test]
fn packed_arithmetic_is_that_of_its_lanes() {
    let machine = RefCell::new(machine());
    let singles = || proptest::array::uniform4(number(8, 23));
    let doubles = || proptest::array::uniform2(number(11, 52));
    let cases = (singles(), singles(), doubles(), doubles(), 0_usize..4);
    let result = runner().run(&cases, |(a, b, c, d, operation)| {
        let machine = &mut *machine.borrow_mut();
        let join =
            |lanes: &[u64], bits: u32| lanes.iter().rev().fold(0_u128, |all, &lane| all << bits | u128::from(lane));
        let lane = |(a, b): (&u64, &u64)| reference::<Single>(operation, *a, *b, ROUNDINGS[0]);
        let lanes: Vec<_> = a.iter().zip(&b).map(lane).collect();
        let values: Vec<u64> = lanes.iter().map(|(value, _)| *value).collect();
        machine.write(DATA, &join(&b, 32).to_le_bytes());
        machine.set(|regs| regs.rbx = DATA);
        // op xmm1, [bx]
        let (found, raised) = run(machine, MASKED, join(&a, 32), 0, &[0x0f, OPCODES[operation], 0x0f]);
        prop_assert_eq!(found, join(&values, 32));
        let uncertain = values.iter().fold(DENORMAL, |all, &value| all | unclear::<Single>(value));
        let expected = lanes.iter().fold(0, |all, (_, flags)| all | flags);
        prop_assert_eq!(raised & !uncertain, expected & !uncertain);

        let lane = |(c, d): (&u64, &u64)| reference::<Double>(operation, *c, *d, ROUNDINGS[0]).0;
        let values: Vec<u64> = c.iter().zip(&d).map(lane).collect();
        let (found, _) = run(machine, MASKED, join(&c, 64), join(&d, 64), &[0x66, 0x0f, OPCODES[operation], 0xca]);
        prop_assert_eq!(found, join(&values, 64));
        Ok(())
    });
    result.unwrap();
}

#[test]
fn conversions_are_those_of_software() {
    let machine = RefCell::new(machine());
    let cases = (number(8, 23), number(11, 52), any::<i32>(), 0_usize..4);
    let result = runner().run(&cases, |(single, double, integer, rounding)| {
        let machine = &mut *machine.borrow_mut();
        let (round, mxcsr) = (ROUNDINGS[rounding], MASKED | (rounding as u32) << 13);
        let as_single = Single::from_bits(single.into());
        let as_double = Double::from_bits(double.into());

        // cvtsd2ss, cvtss2sd xmm1, xmm2
        let narrow: rustc_apfloat::StatusAnd<Single> = convert(as_double, round);
        let (found, raised) = run(machine, mxcsr, 0, double.into(), &[0xf2, 0x0f, 0x5a, 0xca]);
        prop_assert_eq!(found, narrow.value.to_bits());
        let uncertain = unclear::<Single>(found as u64) | if narrow.value.is_nan() { INVALID } else { 0 };
        prop_assert_eq!(raised & !uncertain, flags(narrow.status) & !uncertain);
        let wide: rustc_apfloat::StatusAnd<Double> = convert(as_single, round);
        prop_assert_eq!(run(machine, mxcsr, 0, single.into(), &[0xf3, 0x0f, 0x5a, 0xca]).0, wide.value.to_bits());

        // cvtsd2si and cvttsd2si eax, xmm2; cvtps2dq and cvttps2dq xmm1, xmm2
        for (opcode, round) in [(0x2d, round), (0x2c, Round::TowardZero)] {
            let expected = as_double.to_i128_r(32, round, &mut false);
            let (_, raised) = run(machine, mxcsr, 0, double.into(), &[0xf2, 0x0f, opcode, 0xc2]);
            let found = i128::from(machine.regs().rax as u32 as i32);
            let invalid = expected.status.contains(Status::INVALID_OP);
            let expected = if invalid { (i32::MIN.into(), INVALID) } else { (expected.value, flags(expected.status)) };
            prop_assert_eq!((found, raised), expected);
        }
        for (prefix, round) in [(0x66, round), (0xf3, Round::TowardZero)] {
            let expected = as_single.to_i128_r(32, round, &mut false);
            let invalid = expected.status.contains(Status::INVALID_OP);
            let lane = if invalid { 1 << 31 } else { expected.value as u32 };
            let (found, _) = run(machine, mxcsr, 0, u128::from(single) << 96, &[prefix, 0x0f, 0x5b, 0xca]);
            prop_assert_eq!(found, u128::from(lane) << 96);
        }

        // cvtsi2ss, cvtsi2sd xmm1, eax
        machine.set(|regs| regs.rax = u64::from(integer.cast_unsigned()));
        let from = Single::from_i128_r(integer.into(), round);
        prop_assert_eq!(run(machine, mxcsr, 0, 0, &[0xf3, 0x66, 0x0f, 0x2a, 0xc8]).0, from.value.to_bits());
        let from = Double::from_i128_r(integer.into(), round);
        prop_assert_eq!(run(machine, mxcsr, 0, 0, &[0xf2, 0x66, 0x0f, 0x2a, 0xc8]).0, from.value.to_bits());
        Ok(())
    });
    result.unwrap();
}

#[test]
fn square_roots_are_the_nearest_to_integer_roots() {
    let machine = RefCell::new(machine());
    let result = runner().run(&(1_u64..0x7ff, 0..1_u64 << 52), |(exponent, fraction)| {
        let machine = &mut *machine.borrow_mut();
        let mantissa = fraction | 1 << 52;
        let odd = exponent % 2;
        let square = u128::from(mantissa) << (53 - odd);
        let root = square.isqrt();
        let root = if square - root * root > root { root + 1 } else { root };
        let expected = ((exponent - odd) / 2 + odd + 0x1ff) << 52 | root as u64 & ((1 << 52) - 1);
        // sqrtsd xmm1, xmm2
        let (found, _) = run(machine, MASKED, 0, u128::from(exponent << 52 | fraction), &[0xf2, 0x0f, 0x51, 0xca]);
        prop_assert_eq!(found, u128::from(expected));
        Ok(())
    });
    result.unwrap();
}

#[test]
fn comparisons_have_the_eight_predicates() {
    let mut machine = machine();
    let nan = f64::NAN;
    // By predicate: eq, lt, le, unord, neq, nlt, nle, ord
    let rows = [(1.0, 2.0, 0b1001_0110), (2.0, 1.0, 0b1111_0000), (1.0, 1.0, 0b1010_0101), (nan, 1.0, 0b0111_1000)];
    for (a, b, holds) in rows {
        for predicate in 0..8_u8 {
            let all = |value: f64| u128::from(value.to_bits()) << 64 | u128::from(value.to_bits());
            let expected = if holds >> predicate & 1 != 0 { u128::MAX } else { 0 };
            // cmppd xmm1, xmm2, predicate
            let (found, raised) = run(&mut machine, MASKED, all(a), all(b), &[0x66, 0x0f, 0xc2, 0xca, predicate]);
            assert_eq!(found, expected, "{a} {b} {predicate}");
            let signals = a.is_nan() && matches!(predicate, 1 | 2 | 5 | 6);
            assert_eq!(raised, u16::from(signals), "{a} {b} {predicate}");
            // cmpsd
            let (found, _) = run(&mut machine, MASKED, all(a), all(b), &[0xf2, 0x0f, 0xc2, 0xca, predicate]);
            assert_eq!(found, expected & u128::from(u64::MAX) | all(a) & !u128::from(u64::MAX));
        }
        // comisd and ucomisd xmm1, xmm2
        let (cf, pf, zf) = (super::super::CF, super::super::PF, super::super::ZF);
        let flags = if a.is_nan() {
            cf | pf | zf
        } else if a < b {
            cf
        } else if a == b {
            zf
        } else {
            0
        };
        for (opcode, raised) in [(0x2f, u16::from(a.is_nan())), (0x2e, 0)] {
            machine.set(|regs| regs.rflags = 2 | super::super::STATUS);
            let result = run(&mut machine, MASKED, a.to_bits().into(), b.to_bits().into(), &[0x66, 0x0f, opcode, 0xca]);
            assert_eq!((machine.regs().rflags & super::super::STATUS, result.1), (flags, raised));
        }
    }
}

#[test]
fn the_lesser_and_the_greater_of_zeros_and_nans_is_the_second() {
    let mut machine = machine();
    let bits = |value: f32| u128::from(value.to_bits());
    for (a, b, min, max) in
        [(0.0, -0.0, -0.0, -0.0), (-0.0, 0.0, 0.0, 0.0), (f32::NAN, 1.0, 1.0, 1.0), (1.0, 2.0, 1.0, 2.0)]
    {
        // minss, maxss
        assert_eq!(run(&mut machine, MASKED, bits(a), bits(b), &[0xf3, 0x0f, 0x5d, 0xca]).0, bits(min));
        assert_eq!(run(&mut machine, MASKED, bits(a), bits(b), &[0xf3, 0x0f, 0x5f, 0xca]).0, bits(max));
    }
}

#[test]
fn denormals_are_zeros_and_tiny_results_flushed_on_demand() {
    let mut machine = machine();
    let mul = [0xf3, 0x0f, 0x59, 0xca];
    let (denormal, smallest) = (1_u128, 0x0080_0000);
    let (two, half) = (0x4000_0000, 0x3f00_0000);
    assert_eq!(run(&mut machine, MASKED, denormal, two, &mul), (2, DENORMAL));
    assert_eq!(run(&mut machine, MASKED | DAZ, denormal, two, &mul), (0, 0));
    assert_eq!(run(&mut machine, MASKED, smallest, half, &mul), (0x0040_0000, 0));
    assert_eq!(run(&mut machine, MASKED | FTZ, smallest, half, &mul), (0, UNDERFLOW | PRECISION));
}

#[test]
fn approximations_are_as_near_as_the_manual_asks() {
    let mut machine = machine();
    for value in [0.5_f32, 1.0, 3.0, 1e10, 1e-10] {
        for (opcode, exact) in [(0x53, 1.0 / value), (0x52, 1.0 / value.sqrt())] {
            let (found, raised) = run(&mut machine, MASKED, 0, value.to_bits().into(), &[0xf3, 0x0f, opcode, 0xca]);
            let error = (f32::from_bits(found as u32) / exact - 1.0).abs();
            assert!(error <= 1.5 / 4096.0 && raised == 0, "{value}: {error}");
        }
    }
}

#[test]
fn conversions_with_mmx_registers_use_two_lanes() {
    let mut machine = machine();
    let pair = |a: f32, b: f32| u128::from(b.to_bits()) << 32 | u128::from(a.to_bits());
    // cvtpi2ps xmm1, mm2 keeps the upper half; cvtpi2pd fills it
    set_fpu(&mut machine, |fpu| fpu.fpr[2][..8].copy_from_slice(&[3, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]));
    let upper = 7 << 64;
    assert_eq!(run(&mut machine, MASKED, upper, 0, &[0x0f, 0x2a, 0xca]).0, upper | pair(3.0, -2.0));
    let doubles = u128::from((-2.0_f64).to_bits()) << 64 | u128::from(3.0_f64.to_bits());
    assert_eq!(run(&mut machine, MASKED, upper, 0, &[0x66, 0x0f, 0x2a, 0xca]).0, doubles);
    // cvtps2pi, cvttps2pi mm1, xmm2 do not look at the upper half; cvtpd2pi
    let nans = u128::from(u64::MAX) << 64;
    for (code, src, expected, raised) in [
        (&[0x0f, 0x2d, 0xca][..], nans | pair(1.5, -2.5), [2, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff], PRECISION),
        (&[0x0f, 0x2c, 0xca], nans | pair(1.5, -2.5), [1, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff], PRECISION),
        (&[0x66, 0x0f, 0x2d, 0xca], doubles, [3, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff], 0),
    ] {
        assert_eq!(run(&mut machine, MASKED, 0, src, code).1, raised);
        let fpu = fpu(&machine);
        assert_eq!((&fpu.fpr[1][..8], fpu.ftwx), (&expected[..], 0xff), "{code:02x?}");
    }
}

#[test]
fn moves_keep_or_clear_what_is_above_them() {
    let mut machine = machine();
    let (dst, src) = (u128::MAX / 15, u128::MAX / 15 * 2);
    let low = u128::from(u64::MAX);
    machine.write(DATA, &src.to_le_bytes());
    machine.set(|regs| (regs.rbx, regs.rax) = (DATA, 0x1234_5678));
    let rows: [(&[u8], u128); 16] = [
        // movss, movsd xmm1, xmm2 and xmm1, [bx]
        (&[0xf3, 0x0f, 0x10, 0xca], dst & !0xffff_ffff | src & 0xffff_ffff),
        (&[0xf3, 0x0f, 0x10, 0x0f], src & 0xffff_ffff),
        (&[0xf2, 0x0f, 0x10, 0xca], dst & !low | src & low),
        (&[0xf2, 0x0f, 0x10, 0x0f], src & low),
        // movlps, movhps xmm1, [bx]; movhlps, movlhps xmm1, xmm2
        (&[0x0f, 0x12, 0x0f], dst & !low | src & low),
        (&[0x0f, 0x16, 0x0f], dst & low | src << 64),
        (&[0x0f, 0x12, 0xca], dst & !low | src >> 64),
        (&[0x0f, 0x16, 0xca], dst & low | src << 64),
        // movq xmm1, xmm2; movd xmm1, eax; movd xmm1, [bx]
        (&[0xf3, 0x0f, 0x7e, 0xca], src & low),
        (&[0x66, 0x0f, 0x6e, 0xc8], 0x1234_5678),
        (&[0x66, 0x0f, 0x6e, 0x0f], src & 0xffff_ffff),
        // movaps, movups, movdqa, movdqu xmm1, [bx]; movapd, movdqa xmm1, xmm2
        (&[0x0f, 0x28, 0x0f], src),
        (&[0x0f, 0x10, 0x0f], src),
        (&[0x66, 0x0f, 0x6f, 0x0f], src),
        (&[0xf3, 0x0f, 0x6f, 0x0f], src),
        (&[0x66, 0x0f, 0x28, 0xca], src),
    ];
    for (code, expected) in rows {
        assert_eq!(run(&mut machine, MASKED, dst, src, code).0, expected, "{code:02x?}");
    }
    let stores: [(&[u8], u128, u128); 8] = [
        // movss, movsd, movlps, movhps, movq, movd, movntps, movups [bx], xmm1
        (&[0xf3, 0x0f, 0x11, 0x0f], 0xffff_ffff, dst),
        (&[0xf2, 0x0f, 0x11, 0x0f], low, dst),
        (&[0x0f, 0x13, 0x0f], low, dst),
        (&[0x0f, 0x17, 0x0f], low, dst >> 64),
        (&[0x66, 0x0f, 0xd6, 0x0f], low, dst),
        (&[0x66, 0x0f, 0x7e, 0x0f], 0xffff_ffff, dst),
        (&[0x0f, 0x2b, 0x0f], u128::MAX, dst),
        (&[0x0f, 0x11, 0x0f], u128::MAX, dst),
    ];
    for (code, mask, value) in stores {
        machine.write(DATA, &src.to_le_bytes());
        run(&mut machine, MASKED, dst, 0, code);
        assert_eq!(u128::from_le_bytes(machine.read(DATA)), src & !mask | value & mask, "{code:02x?}");
    }
    // movq2dq xmm1, mm2; movdq2q mm1, xmm2
    set_fpu(&mut machine, |fpu| {
        fpu.fsw = 0;
        fpu.fpr[2][..8].copy_from_slice(b"mm two !");
    });
    assert_eq!(
        run(&mut machine, MASKED, dst, src, &[0xf3, 0x0f, 0xd6, 0xca]).0,
        u64::from_le_bytes(*b"mm two !").into()
    );
    run(&mut machine, MASKED, dst, src, &[0xf2, 0x0f, 0xd6, 0xca]);
    assert_eq!(fpu(&machine).fpr[1][..8], src.to_le_bytes()[..8]);
}
