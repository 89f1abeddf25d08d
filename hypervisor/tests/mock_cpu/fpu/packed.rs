//! Lanes of integers, compared with what Rust's own integers do.

use std::cell::RefCell;

use proptest::prelude::*;

use super::values::runner;
use super::*;

/// An operation on whole registers of some bytes: destination, source, and how many bytes count.
type Model = fn(&[u8], &[u8]) -> Vec<u8>;

/// A model that goes lane by lane.
macro_rules! lanes {
    ($lane:ty, |$a:ident, $b:ident| $result:expr) => {
        |dst: &[u8], src: &[u8]| {
            const LEN: usize = size_of::<$lane>();
            let lane = |bytes: &[u8]| <$lane>::from_le_bytes(bytes.try_into().unwrap());
            dst.chunks(LEN)
                .zip(src.chunks(LEN))
                .flat_map(|(dst, src)| {
                    let ($a, $b) = (lane(dst), lane(src));
                    let result: $lane = $result;
                    result.to_le_bytes()
                })
                .collect()
        }
    };
}

/// All bits where a condition holds, else none.
macro_rules! mask {
    ($lane:ty, |$a:ident, $b:ident| $condition:expr) => {
        lanes!($lane, |$a, $b| if $condition { -1 } else { 0 })
    };
}

/// A model of a shift, whose count is the low 64 bits of the source.
macro_rules! shift {
    ($lane:ty, |$a:ident, $count:ident| $result:expr) => {
        |dst: &[u8], src: &[u8]| {
            let $count = u64::from_le_bytes(src[..8].try_into().unwrap());
            dst.chunks(size_of::<$lane>())
                .flat_map(|dst| {
                    let $a = <$lane>::from_le_bytes(dst.try_into().unwrap());
                    let result: $lane = $result;
                    result.to_le_bytes()
                })
                .collect()
        }
    };
}

/// A model that makes wide lanes of two neighbours.
fn pairs(dst: &[u8], src: &[u8], result: fn(i32, i32) -> i32) -> Vec<u8> {
    let words = |bytes: &[u8]| -> Vec<i32> {
        bytes.chunks(2).map(|word| i16::from_le_bytes(word.try_into().unwrap()).into()).collect()
    };
    let products: Vec<i32> = words(dst).into_iter().zip(words(src)).map(|(a, b)| a.wrapping_mul(b)).collect();
    products.chunks(2).flat_map(|pair| result(pair[0], pair[1]).to_le_bytes()).collect()
}

fn sums_of_differences(dst: &[u8], src: &[u8]) -> Vec<u8> {
    let sum = |(dst, src): (&[u8], &[u8])| -> u64 { dst.iter().zip(src).map(|(a, b)| u64::from(a.abs_diff(*b))).sum() };
    dst.chunks(8).zip(src.chunks(8)).flat_map(|pair| sum(pair).to_le_bytes()).collect()
}

/// Lanes of `len` bytes in turns, from one half of both.
fn interleaved(dst: &[u8], src: &[u8], len: usize, high: bool) -> Vec<u8> {
    let half = if high { dst.len() / 2..dst.len() } else { 0..dst.len() / 2 };
    let (dst, src) = (&dst[half.clone()], &src[half]);
    dst.chunks(len).zip(src.chunks(len)).flat_map(|(dst, src)| [dst, src].concat()).collect()
}

fn words(dst: &[u8], src: &[u8]) -> Vec<i16> {
    [dst, src].concat().chunks(2).map(|word| i16::from_le_bytes(word.try_into().unwrap())).collect()
}

fn doubles(dst: &[u8], src: &[u8]) -> Vec<i32> {
    [dst, src].concat().chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The opcode behind 0F, whether MMX has it too, and the model.
const OPERATIONS: &[(u8, bool, Model)] = &[
    (0xfc, true, lanes!(u8, |a, b| a.wrapping_add(b))),
    (0xfd, true, lanes!(u16, |a, b| a.wrapping_add(b))),
    (0xfe, true, lanes!(u32, |a, b| a.wrapping_add(b))),
    (0xd4, true, lanes!(u64, |a, b| a.wrapping_add(b))),
    (0xec, true, lanes!(i8, |a, b| a.saturating_add(b))),
    (0xed, true, lanes!(i16, |a, b| a.saturating_add(b))),
    (0xdc, true, lanes!(u8, |a, b| a.saturating_add(b))),
    (0xdd, true, lanes!(u16, |a, b| a.saturating_add(b))),
    (0xf8, true, lanes!(u8, |a, b| a.wrapping_sub(b))),
    (0xf9, true, lanes!(u16, |a, b| a.wrapping_sub(b))),
    (0xfa, true, lanes!(u32, |a, b| a.wrapping_sub(b))),
    (0xfb, true, lanes!(u64, |a, b| a.wrapping_sub(b))),
    (0xe8, true, lanes!(i8, |a, b| a.saturating_sub(b))),
    (0xe9, true, lanes!(i16, |a, b| a.saturating_sub(b))),
    (0xd8, true, lanes!(u8, |a, b| a.saturating_sub(b))),
    (0xd9, true, lanes!(u16, |a, b| a.saturating_sub(b))),
    (0x74, true, mask!(i8, |a, b| a == b)),
    (0x75, true, mask!(i16, |a, b| a == b)),
    (0x76, true, mask!(i32, |a, b| a == b)),
    (0x64, true, mask!(i8, |a, b| a > b)),
    (0x65, true, mask!(i16, |a, b| a > b)),
    (0x66, true, mask!(i32, |a, b| a > b)),
    (0xe5, true, lanes!(i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16)),
    (0xe4, true, lanes!(u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16)),
    (0xd5, true, lanes!(i16, |a, b| a.wrapping_mul(b))),
    (0xf4, true, lanes!(u64, |a, b| u64::from(a as u32) * u64::from(b as u32))),
    (0xf5, true, |dst, src| pairs(dst, src, i32::wrapping_add)),
    (0xf6, true, sums_of_differences),
    (0xe0, true, lanes!(u8, |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8)),
    (0xe3, true, lanes!(u16, |a, b| (u32::from(a) + u32::from(b)).div_ceil(2) as u16)),
    (0xee, true, lanes!(i16, |a, b| a.max(b))),
    (0xde, true, lanes!(u8, |a, b| a.max(b))),
    (0xea, true, lanes!(i16, |a, b| a.min(b))),
    (0xda, true, lanes!(u8, |a, b| a.min(b))),
    (0xdb, true, lanes!(u64, |a, b| a & b)),
    (0xdf, true, lanes!(u64, |a, b| !a & b)),
    (0xeb, true, lanes!(u64, |a, b| a | b)),
    (0xef, true, lanes!(u64, |a, b| a ^ b)),
    (0x54, false, lanes!(u64, |a, b| a & b)),
    (0x55, false, lanes!(u64, |a, b| !a & b)),
    (0x56, false, lanes!(u64, |a, b| a | b)),
    (0x57, false, lanes!(u64, |a, b| a ^ b)),
    (0xf1, true, shift!(u16, |a, count| if count < 16 { a << count } else { 0 })),
    (0xf2, true, shift!(u32, |a, count| if count < 32 { a << count } else { 0 })),
    (0xf3, true, shift!(u64, |a, count| if count < 64 { a << count } else { 0 })),
    (0xd1, true, shift!(u16, |a, count| if count < 16 { a >> count } else { 0 })),
    (0xd2, true, shift!(u32, |a, count| if count < 32 { a >> count } else { 0 })),
    (0xd3, true, shift!(u64, |a, count| if count < 64 { a >> count } else { 0 })),
    (0xe1, true, shift!(i16, |a, count| a >> count.min(15))),
    (0xe2, true, shift!(i32, |a, count| a >> count.min(31))),
    (0x60, true, |dst, src| interleaved(dst, src, 1, false)),
    (0x61, true, |dst, src| interleaved(dst, src, 2, false)),
    (0x62, true, |dst, src| interleaved(dst, src, 4, false)),
    (0x6c, false, |dst, src| interleaved(dst, src, 8, false)),
    (0x68, true, |dst, src| interleaved(dst, src, 1, true)),
    (0x69, true, |dst, src| interleaved(dst, src, 2, true)),
    (0x6a, true, |dst, src| interleaved(dst, src, 4, true)),
    (0x6d, false, |dst, src| interleaved(dst, src, 8, true)),
    (0x14, false, |dst, src| interleaved(dst, src, 8, false)),
    (0x15, false, |dst, src| interleaved(dst, src, 8, true)),
    (0x63, true, |dst, src| words(dst, src).iter().map(|&word| word.clamp(-128, 127) as u8).collect()),
    (0x67, true, |dst, src| words(dst, src).iter().map(|&word| word.clamp(0, 255) as u8).collect()),
    (0x6b, true, |dst, src| {
        doubles(dst, src).iter().flat_map(|&lane| (lane.clamp(-0x8000, 0x7fff) as i16).to_le_bytes()).collect()
    }),
];

/// Registers whose lanes are often at their limits, and small numbers of shifts.
fn register() -> impl Strategy<Value = [u8; 16]> {
    let edges = proptest::sample::select(&[0_u8, 1, 0x7f, 0x80, 0xff][..]);
    prop_oneof![
        any::<[u8; 16]>(),
        proptest::array::uniform16(edges),
        (0_u8..70).prop_map(|count| std::array::from_fn(|at| if at == 0 { count } else { 0 })),
    ]
}

#[test]
fn packed_integers_are_what_scalar_code_computes() {
    let machine = RefCell::new(machine());
    let cases = (register(), register(), 0..OPERATIONS.len(), any::<bool>());
    let result = runner().run(&cases, |(dst, src, operation, from_memory)| {
        let (opcode, has_mmx, model) = OPERATIONS[operation];
        let machine = &mut *machine.borrow_mut();
        machine.write(DATA, &src);
        machine.set(|regs| regs.rbx = DATA);
        set_fpu(machine, |fpu| (fpu.xmm[1], fpu.xmm[2]) = (dst, src));
        // op xmm1, xmm2 or op xmm1, [bx]
        let modrm = if from_memory { 0x0f } else { 0xca };
        prop_assert_eq!(execute(machine, &[0x66, 0x0f, opcode, modrm]), End::Done);
        prop_assert_eq!(&fpu(machine).xmm[1][..], model(&dst, &src), "{:#x}", opcode);
        if has_mmx {
            set_fpu(machine, |fpu| {
                fpu.fsw = 0;
                fpu.fpr[1][..8].copy_from_slice(&dst[..8]);
                fpu.fpr[2][..8].copy_from_slice(&src[..8]);
            });
            prop_assert_eq!(execute(machine, &[0x0f, opcode, modrm]), End::Done);
            let fpu = fpu(machine);
            prop_assert_eq!(&fpu.fpr[1][..8], model(&dst[..8], &src[..8]), "{:#x} of mmx", opcode);
            prop_assert_eq!((&fpu.fpr[1][8..10], fpu.ftwx), (&[0xff; 2][..], 0xff));
        }
        Ok(())
    });
    result.unwrap();
}

/// An instruction's bytes, XMM1 and XMM2 (or MM1 and MM2) before, and XMM1 (or MM1) after.
type Row = (&'static [u8], u128, u128, u128);

fn check(rows: &[Row], mmx: bool) {
    let mut machine = machine();
    for &(code, dst, src, expected) in rows {
        set_fpu(&mut machine, |fpu| {
            (fpu.fsw, fpu.xmm[1], fpu.xmm[2]) = (0, dst.to_le_bytes(), src.to_le_bytes());
            fpu.fpr[1][..8].copy_from_slice(&dst.to_le_bytes()[..8]);
            fpu.fpr[2][..8].copy_from_slice(&src.to_le_bytes()[..8]);
        });
        assert_eq!(execute(&mut machine, code), End::Done);
        let after = fpu(&machine);
        let found = if mmx { &after.fpr[1][..8] } else { &after.xmm[1][..] };
        assert_eq!(found, &expected.to_le_bytes()[..found.len()], "{code:02x?}");
    }
}

const COUNTING: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
const OTHER: u128 = 0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110;

#[test]
fn shuffles_pick_the_lanes_that_the_immediate_names() {
    let rows: &[Row] = &[
        // pshufd, pshuflw, pshufhw xmm1, xmm2, 0x1b: the order turned around
        (&[0x66, 0x0f, 0x70, 0xca, 0x1b], 0, COUNTING, 0x0302_0100_0706_0504_0b0a_0908_0f0e_0d0c),
        (&[0xf2, 0x0f, 0x70, 0xca, 0x1b], 0, COUNTING, 0x0f0e_0d0c_0b0a_0908_0100_0302_0504_0706),
        (&[0xf3, 0x0f, 0x70, 0xca, 0x1b], 0, COUNTING, 0x0908_0b0a_0d0c_0f0e_0706_0504_0302_0100),
        // shufps xmm1, xmm2, 0x4e; shufpd with 0 to 3
        (&[0x0f, 0xc6, 0xca, 0x4e], COUNTING, OTHER, 0x1716_1514_1312_1110_0f0e_0d0c_0b0a_0908),
        (&[0x66, 0x0f, 0xc6, 0xca, 0], COUNTING, OTHER, 0x1716_1514_1312_1110_0706_0504_0302_0100),
        (&[0x66, 0x0f, 0xc6, 0xca, 1], COUNTING, OTHER, 0x1716_1514_1312_1110_0f0e_0d0c_0b0a_0908),
        (&[0x66, 0x0f, 0xc6, 0xca, 2], COUNTING, OTHER, 0x1f1e_1d1c_1b1a_1918_0706_0504_0302_0100),
        (&[0x66, 0x0f, 0xc6, 0xca, 3], COUNTING, OTHER, 0x1f1e_1d1c_1b1a_1918_0f0e_0d0c_0b0a_0908),
        // unpcklps, unpckhps
        (&[0x0f, 0x14, 0xca], COUNTING, OTHER, 0x1716_1514_0706_0504_1312_1110_0302_0100),
        (&[0x0f, 0x15, 0xca], COUNTING, OTHER, 0x1f1e_1d1c_0f0e_0d0c_1b1a_1918_0b0a_0908),
        // pslldq, psrldq xmm1, 3 and 16
        (&[0x66, 0x0f, 0x73, 0xf9, 3], COUNTING, 0, 0x0c0b_0a09_0807_0605_0403_0201_0000_0000),
        (&[0x66, 0x0f, 0x73, 0xd9, 3], COUNTING, 0, 0x0000_000f_0e0d_0c0b_0a09_0807_0605_0403),
        (&[0x66, 0x0f, 0x73, 0xf9, 16], COUNTING, 0, 0),
        (&[0x66, 0x0f, 0x73, 0xd9, 255], COUNTING, 0, 0),
        // pinsrw xmm1, ax, 9 (which is 1): AX is 0 after reset
        (&[0x66, 0x0f, 0xc4, 0xc8, 9], COUNTING, 0, 0x0f0e_0d0c_0b0a_0908_0706_0504_0000_0100),
        // shifts by an immediate: psllw 4, psrad 8, psrlq 64
        (&[0x66, 0x0f, 0x71, 0xf1, 4], COUNTING, 0, 0xf0e0_d0c0_b0a0_9080_7060_5040_3020_1000),
        (&[0x66, 0x0f, 0x72, 0xe1, 8], COUNTING << 4, 0, 0xfff0_e0d0_ffb0_a090_0070_6050_0030_2010),
        (&[0x66, 0x0f, 0x73, 0xd1, 64], COUNTING, 0, 0),
    ];
    check(rows, false);
    check(
        &[
            // pshufw mm1, mm2, 0x1b; pinsrw mm1, ax, 5 (which is 1); psrlw mm1, 4
            (&[0x0f, 0x70, 0xca, 0x1b], 0, COUNTING, 0x0100_0302_0504_0706),
            (&[0x0f, 0xc4, 0xc8, 5], COUNTING, 0, 0x0706_0504_0000_0100),
            (&[0x0f, 0x71, 0xd1, 4], COUNTING, 0, 0x0070_0050_0030_0010),
        ],
        true,
    );
}

#[test]
fn words_and_signs_go_to_general_registers() {
    let mut machine = machine();
    let rows: [(&[u8], u64); 6] = [
        // pextrw eax, xmm1, 14 (which is 6); pextrw eax, mm1, 7 (which is 3)
        (&[0x66, 0x0f, 0xc5, 0xc1, 14], 0x0d0c),
        (&[0x0f, 0xc5, 0xc1, 7], 0x0706),
        // pmovmskb eax, xmm2 and mm2; movmskps eax, xmm2; movmskpd eax, xmm2
        (&[0x66, 0x0f, 0xd7, 0xc2], 0x8005),
        (&[0x0f, 0xd7, 0xc2], 0x05),
        (&[0x0f, 0x50, 0xc2], 0b1000),
        (&[0x66, 0x0f, 0x50, 0xc2], 0b10),
    ];
    let signs: u128 = 0x80 << 120 | 0x80_0080;
    for (code, expected) in rows {
        machine.set(|regs| regs.rax = u64::MAX);
        set_fpu(&mut machine, |fpu| {
            (fpu.fsw, fpu.xmm[1], fpu.xmm[2]) = (0, COUNTING.to_le_bytes(), signs.to_le_bytes());
            fpu.fpr[1][..8].copy_from_slice(&COUNTING.to_le_bytes()[..8]);
            fpu.fpr[2][..8].copy_from_slice(&signs.to_le_bytes()[..8]);
        });
        assert_eq!(execute(&mut machine, code), End::Done);
        assert_eq!(machine.regs().rax, expected, "{code:02x?}");
    }
}

#[test]
fn masked_moves_store_the_bytes_with_a_sign() {
    let mut machine = machine();
    machine.write(DATA + 1, &[0xcc; 16]);
    machine.set(|regs| regs.rdi = DATA + 1);
    let mask: [u8; 16] = std::array::from_fn(|at| if at % 3 == 0 { 0x80 } else { 0x7f });
    set_fpu(&mut machine, |fpu| (fpu.xmm[1], fpu.xmm[2]) = (COUNTING.to_le_bytes(), mask));
    // maskmovdqu xmm1, xmm2
    assert_eq!(execute(&mut machine, &[0x66, 0x0f, 0xf7, 0xca]), End::Done);
    let expected: [u8; 16] = std::array::from_fn(|at| if at % 3 == 0 { at as u8 } else { 0xcc });
    assert_eq!(machine.read(DATA + 1), expected);
}
