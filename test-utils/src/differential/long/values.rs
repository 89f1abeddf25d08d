//! Numbers that arithmetic finds hard, as 16 bytes that several types can be read from.

use crate::differential::random;

/// 16 bytes: random ones, small integers, floats of each width at the edges of their ranges, or packed decimals.
pub(super) fn block(seed: &mut u64) -> [u8; 16] {
    let pick = random(seed);
    let mut words = [random(seed), random(seed)];
    match pick % 8 {
        0..=1 => {}
        2 => words = words.map(|word| u64::from(word as u8) << (word >> 60)),
        3 | 4 => words = words.map(double),
        5 => words = words.map(|word| u64::from(single(word as u32)) | u64::from(single((word >> 32) as u32)) << 32),
        6 => {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&extended(seed));
            return bytes;
        }
        _ => words = words.map(|word| word & 0x0909_0909_0909_0909),
    }
    (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes()
}

/// An 80-bit float: mostly a normal number near 1.
pub(super) fn extended(seed: &mut u64) -> [u8; 10] {
    let (pick, fraction) = (random(seed), random(seed));
    let sign = (pick >> 63 << 15) as u16;
    let near = 0x3fff_u16.wrapping_add((pick >> 8) as u16 % 64).wrapping_sub(32);
    let (exponent, mantissa) = match pick % 16 {
        0 => (0, 0),
        1 => (0x7fff, 1 << 63),
        2 => (0x7fff, fraction | 3 << 62),
        3 => (0x7fff, fraction | 1 << 63),
        4 => (0, fraction >> 1),
        5 => ((pick >> 16) as u16 & 0x7fff, fraction | 1 << 63),
        6 => ((pick >> 16) as u16 & 0x7fff, fraction),
        7 => (near, 1 << 63),
        8 => (near + 16, (fraction | 1 << 63) & !0 << (fraction % 48 + 8)),
        _ => (near, fraction | 1 << 63),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
    bytes
}

fn double(word: u64) -> u64 {
    let sign = word >> 63 << 63;
    sign | match word % 16 {
        0 => 0,
        1 => f64::INFINITY.to_bits(),
        2 => f64::NAN.to_bits() | word >> 16,
        3 => 0x7ff0_0000_0000_0001 | word >> 20,
        4 => word >> 12,
        5 => f64::MAX.to_bits() - word % 64 / 16,
        6 => f64::MIN_POSITIVE.to_bits() + word % 64 / 16,
        7 => ((word >> 20) as i32 as f64).abs().to_bits(),
        8 => 0x3ff0_0000_0000_0000 + (word >> 8 & 0xff << 52),
        _ => (word & ((1 << 58) - 1) | 0x3c00_0000_0000_0000) & !(1 << 63),
    }
}

fn single(word: u32) -> u32 {
    let sign = word >> 31 << 31;
    sign | match word % 16 {
        0 => 0,
        1 => f32::INFINITY.to_bits(),
        2 => f32::NAN.to_bits() | word >> 10,
        3 => 0x7f80_0001 | word >> 12,
        4 => word >> 9,
        5 => f32::MAX.to_bits() - word % 64 / 16,
        6 => f32::MIN_POSITIVE.to_bits() + word % 64 / 16,
        7 => ((word >> 8) as f32).to_bits(),
        _ => (word & 0x07ff_ffff | 0x3c00_0000) & !(1 << 31),
    }
}

/// `bits` itself, or one of the numbers at the edges, as `pick` says.
pub(super) fn integer(bits: u64, pick: u32) -> u64 {
    const EDGES: [u64; 16] = [
        0,
        1,
        2,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
    ];
    match pick % 8 {
        0 | 1 => bits,
        2 => bits & 0xff,
        3 => bits & 0xffff_ffff,
        _ => EDGES[(pick / 8) as usize % EDGES.len()].wrapping_add(bits & 1),
    }
}
