//! Floating-point numbers for tests, and what `rustc_apfloat` says of them.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float, FloatConvert, Round, Status, StatusAnd};

pub(crate) const INVALID: u16 = 1;
pub(crate) const DENORMAL: u16 = 1 << 1;
pub(crate) const ZERO_DIVIDE: u16 = 1 << 2;
pub(crate) const OVERFLOW: u16 = 1 << 3;
pub(crate) const UNDERFLOW: u16 = 1 << 4;
pub(crate) const PRECISION: u16 = 1 << 5;

/// Runs some times as many cases as proptest's default, which `PROPTEST_CASES` sets.
pub(crate) fn runner() -> TestRunner {
    let default = Config::default();
    TestRunner::new(Config { cases: 4 * default.cases, failure_persistence: None, ..default })
}

/// By the number that MXCSR and the control word have for it.
pub(crate) const ROUNDINGS: [Round; 4] =
    [Round::NearestTiesToEven, Round::TowardNegative, Round::TowardPositive, Round::TowardZero];

/// The processor's flags for what `rustc_apfloat` says.
pub(crate) fn flags(status: Status) -> u16 {
    let pairs = [
        (Status::INVALID_OP, INVALID),
        (Status::DIV_BY_ZERO, ZERO_DIVIDE),
        (Status::OVERFLOW, OVERFLOW),
        (Status::UNDERFLOW, UNDERFLOW),
        (Status::INEXACT, PRECISION),
    ];
    pairs.iter().filter(|(theirs, _)| status.contains(*theirs)).map(|(_, ours)| ours).sum()
}

/// Flags that software has otherwise than the processor for a result of this magnitude: an underflow that rounds to the smallest
/// normal number is one for the processor alone, and so is an overflow that rounds to the largest.
pub(crate) fn uncertain(magnitude: u128, smallest: u128, largest: u128) -> u16 {
    match magnitude {
        _ if magnitude == smallest => UNDERFLOW,
        _ if magnitude == largest => OVERFLOW,
        _ => 0,
    }
}

/// Addition, subtraction, multiplication and division, by the number that their opcodes have in SSE.
pub(crate) fn compute<F: Float>(operation: usize, a: F, b: F, round: Round) -> StatusAnd<F> {
    match operation {
        0 => a.add_r(b, round),
        1 => a.sub_r(b, round),
        2 => a.mul_r(b, round),
        _ => a.div_r(b, round),
    }
}

/// A number in another format.
pub(crate) fn convert<F: FloatConvert<T>, T: Float>(value: F, round: Round) -> StatusAnd<T> {
    value.convert_r(round, &mut false)
}

/// An 80-bit register.
pub(crate) fn x87(value: f64) -> [u8; 10] {
    let value = rustc_apfloat::ieee::Double::from_bits(value.to_bits().into());
    let wide: X87DoubleExtended = convert(value, Round::NearestTiesToEven).value;
    bytes(wide.to_bits())
}

pub(crate) fn bytes(bits: u128) -> [u8; 10] {
    bits.to_le_bytes()[..10].try_into().unwrap()
}

pub(crate) fn bits(bytes: [u8; 10]) -> u128 {
    bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

/// Exponent with sign, and mantissa.
pub(crate) fn parts(exponent: u16, mantissa: u64) -> [u8; 10] {
    bytes(u128::from(exponent) << 64 | u128::from(mantissa))
}

/// Numbers of a format with so many bits of exponent and fraction: any, and often those at a limit.
pub(crate) fn number(exponent_bits: u32, fraction_bits: u32) -> impl Strategy<Value = u64> {
    let top = (1_u64 << exponent_bits) - 1;
    let exponent = prop_oneof![
        3 => top / 2 - 4..=top / 2 + 4,
        1 => 0..=top,
        1 => proptest::sample::select(vec![0, 0, 1, 2, top - 2, top - 1, top, top]),
    ];
    let last = (1_u64 << fraction_bits) - 1;
    let fraction = prop_oneof![
        3 => 0..=last,
        2 => proptest::sample::select(vec![0, 1, last, last - 1, last / 2 + 1, last / 2]),
    ];
    (any::<bool>(), exponent, fraction).prop_map(move |(sign, exponent, fraction)| {
        u64::from(sign) << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
    })
}

/// Numbers in 80 bits that the processor can have computed itself.
pub(crate) fn x87_number() -> impl Strategy<Value = [u8; 10]> {
    let exponent = prop_oneof![
        3 => 0x3ffb_u16..=0x4004,
        1 => 0..=0x7fff_u16,
        1 => proptest::sample::select(vec![0, 1, 2, 0x3c00, 0x3bff, 0x3f80, 0x7ffd, 0x7ffe, 0x7fff]),
    ];
    let fraction = prop_oneof![
        3 => any::<u64>(),
        2 => proptest::sample::select(vec![0, 1, u64::MAX, u64::MAX << 11, u64::MAX << 40, 0x7ff, 0x400, 1 << 62]),
    ];
    (any::<bool>(), exponent, fraction).prop_map(|(sign, exponent, fraction)| {
        let integer = if exponent == 0 { 0 } else { 1 << 63 };
        parts(u16::from(sign) << 15 | exponent, fraction & u64::MAX >> 1 | integer)
    })
}
