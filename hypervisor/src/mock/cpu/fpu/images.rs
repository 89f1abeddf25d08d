//! What the registers look like in memory: for `fnstenv` and `fnsave`, and for `fxsave`.

use super::state::{FpuState, MXCSR_MASK, Pointers};

/// Bytes of an x87 environment, at most.
pub(super) const MAX_ENVIRONMENT: usize = 28;
/// Bytes that `fxsave` has a layout for, and those of them that belong to x87 and SSE.
pub(super) const FXSAVE: usize = 512;
/// Where things are in the image of `fxsave` (Intel SDM volume 1, table 10-2).
pub(super) const MXCSR: usize = 24;
const ST: usize = 32;
pub(super) const XMM: usize = 160;

/// The form of an x87 environment (Intel SDM volume 1, figures 8-9 to 8-12).
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Words of 32 bits, else of 16.
    pub(super) wide: bool,
    /// Addresses are linear ones, as in real mode, and the opcode is there.
    pub(super) real: bool,
}

impl Form {
    pub(super) fn len(self) -> usize {
        if self.wide { MAX_ENVIRONMENT } else { MAX_ENVIRONMENT / 2 }
    }

    fn word(self) -> usize {
        if self.wide { 4 } else { 2 }
    }
}

/// Two bits for each physical register: valid, zero, special, empty.
fn full_tags(fpu: &FpuState) -> u16 {
    (0..8).fold(0, |all, register| {
        let [mantissa @ .., low, high] = fpu.st((register + 8 - fpu.top()) % 8);
        let (mantissa, exponent) = (u64::from_le_bytes(mantissa), u16::from_le_bytes([low, high]) & 0x7fff);
        let tag = match (fpu.tags() >> register & 1, exponent, mantissa >> 63) {
            (0, ..) => 3,
            (_, 0, _) if mantissa == 0 => 1,
            (_, 0 | 0x7fff, _) | (.., 0) => 2,
            _ => 0,
        };
        all | tag << (2 * register)
    })
}

/// A bit for each physical register that is not empty.
fn short_tags(full: u16) -> u8 {
    (0..8).fold(0, |all, register| all | u8::from(full >> (2 * register) & 3 != 3) << register)
}

/// The x87 environment; the first [`Form::len`] bytes count.
pub(super) fn environment(fpu: &FpuState, form: Form) -> [u8; MAX_ENVIRONMENT] {
    const RESERVED: u32 = 0xffff_0000;
    let Pointers { opcode, ip, cs, dp, ds } = fpu.pointers;
    let (ip, dp, opcode) = (ip as u32, dp as u32, u32::from(opcode));
    let pointers = if form.real {
        let linear = |segment: u16, offset: u32| (u32::from(segment) << 4).wrapping_add(offset);
        let (ip, dp) = (linear(cs, ip), linear(ds, dp));
        // What is above the lowest 16 bits of an address, from bit 12 on.
        let above = |linear: u32| linear >> 16 << 12;
        [ip & 0xffff, above(ip) | opcode, dp & 0xffff, above(dp)]
    } else {
        [ip, u32::from(cs) | opcode << 16, dp, u32::from(ds)]
    };
    let [ip, cs, dp, ds] = pointers;
    let state = [fpu.control(), fpu.status(), full_tags(fpu)].map(|word| RESERVED | u32::from(word));
    let [control, status, tags] = state;
    let last = if form.real { ds } else { RESERVED | ds };
    let mut image = [0; MAX_ENVIRONMENT];
    let words = [control, status, tags, ip, cs, dp, last];
    for (place, word) in image.chunks_mut(form.word()).zip(words) {
        place.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
    image
}

/// Takes an x87 environment. The status word's TOP names other registers then, or with `reorders` the registers are loaded next.
pub(super) fn set_environment(fpu: &mut FpuState, form: Form, image: &[u8], reorders: bool) {
    let mut words = image.chunks(form.word()).map(|word| little_endian(word) as u32);
    let mut next = || words.next().unwrap_or_default();
    let (control, status, tags) = (next() as u16, next() as u16, next() as u16);
    let [ip, cs, dp, ds] = [next(), next(), next(), next()];
    fpu.set_control(control);
    if reorders {
        fpu.set_status_and_order(status);
    } else {
        fpu.set_status(status);
    }
    fpu.set_tags(short_tags(tags));
    let opcode = |word: u32| (word & 0x7ff) as u16;
    fpu.pointers = if form.real {
        let linear = |low: u32, high: u32| u64::from(low & 0xffff | high >> 12 << 16);
        Pointers { opcode: opcode(cs), ip: linear(ip, cs), cs: 0, dp: linear(dp, ds), ds: 0 }
    } else {
        Pointers { opcode: opcode(cs >> 16), ip: ip.into(), cs: cs as u16, dp: dp.into(), ds: ds as u16 }
    };
}

/// Returns what `fxsave` writes: as much of it as is for so many XMM registers. With `wide` pointers have 64 bits and no segment.
pub(super) fn fxsave(fpu: &FpuState, wide: bool, xmm: usize) -> ([u8; FXSAVE], usize) {
    let Pointers { opcode, ip, cs, dp, ds } = fpu.pointers;
    let pointer = |offset: u64, segment: u16| {
        if wide { offset } else { offset & u64::from(u32::MAX) | u64::from(segment) << 32 }
    };
    let mut image = [0; FXSAVE];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        at += bytes.len();
    };
    put(&fpu.control().to_le_bytes());
    put(&fpu.status().to_le_bytes());
    put(&[fpu.tags(), 0]);
    put(&opcode.to_le_bytes());
    put(&pointer(ip, cs).to_le_bytes());
    put(&pointer(dp, ds).to_le_bytes());
    put(&fpu.mxcsr().to_le_bytes());
    put(&MXCSR_MASK.to_le_bytes());
    for index in 0..8 {
        put(&fpu.st(index));
        put(&[0; 6]);
    }
    (0..xmm).for_each(|index| put(&fpu.xmm(index).to_le_bytes()));
    (image, at)
}

/// Takes x87's part of an image of `fxsave`.
pub(super) fn set_fxsave_x87(fpu: &mut FpuState, image: &[u8; FXSAVE], wide: bool) {
    let field = |at: usize, len: usize| little_endian(image.get(at..at + len).unwrap_or_default());
    fpu.set_control(field(0, 2) as u16);
    fpu.set_status_and_order(field(2, 2) as u16);
    fpu.set_tags(field(4, 1) as u8);
    let pointer = |at| if wide { (field(at, 8), 0) } else { (field(at, 4), field(at + 4, 2) as u16) };
    let ((ip, cs), (dp, ds)) = (pointer(8), pointer(16));
    fpu.pointers = Pointers { opcode: field(6, 2) as u16 & 0x7ff, ip, cs, dp, ds };
    for (index, register) in image.get(ST..XMM).unwrap_or_default().chunks(16).enumerate() {
        fpu.set_st(index, first_ten(register));
    }
}

/// Takes XMM registers from an image of `fxsave`.
pub(super) fn set_fxsave_xmm(fpu: &mut FpuState, image: &[u8; FXSAVE], xmm: usize) {
    for (index, register) in image.get(XMM..).unwrap_or_default().chunks(16).enumerate().take(xmm) {
        fpu.set_xmm(index, u128::from_le_bytes(register.try_into().unwrap_or_default()));
    }
}

/// MXCSR in an image of `fxsave`.
pub(super) fn fxsave_mxcsr(image: &[u8; FXSAVE]) -> u32 {
    little_endian(image.get(MXCSR..MXCSR + 4).unwrap_or_default()) as u32
}

/// The ten bytes of an x87 register, which lie first.
pub(super) fn first_ten(bytes: &[u8]) -> [u8; 10] {
    bytes.first_chunk().copied().unwrap_or_default()
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGER_BIT: u8 = 0x80;

    /// TOP is 6: ST(0) is 1.0, ST(1) is 0, and physical register 0 and 1 hold an infinity and a denormal.
    fn example() -> FpuState {
        let mut fpu = FpuState::default();
        fpu.set_status_and_order(6 << 11 | 0x4700);
        fpu.set_tags(0b1100_0011);
        fpu.set_st(0, [0, 0, 0, 0, 0, 0, 0, INTEGER_BIT, 0xff, 0x3f]);
        fpu.set_st(2, [0, 0, 0, 0, 0, 0, 0, INTEGER_BIT, 0xff, 0x7f]);
        fpu.set_st(3, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        fpu.pointers = Pointers { opcode: 0x5c1, ip: 0x1234, cs: 0xf000, dp: 0x5678, ds: 0x9000 };
        fpu
    }

    #[test]
    fn environment_forms_are_those_of_the_manual() {
        let expected: [(bool, bool, &[u8]); 4] = [
            (false, false, &[0x7f, 3, 0, 0x77, 0xfa, 0x4f, 0x34, 0x12, 0, 0xf0, 0x78, 0x56, 0, 0x90]),
            (false, true, &[0x7f, 3, 0, 0x77, 0xfa, 0x4f, 0x34, 0x12, 0xc1, 0xf5, 0x78, 0x56, 0, 0x90]),
            (
                true,
                false,
                &[
                    0x7f, 3, 0xff, 0xff, 0, 0x77, 0xff, 0xff, 0xfa, 0x4f, 0xff, 0xff, 0x34, 0x12, 0, 0, 0, 0xf0, 0xc1,
                    5, 0x78, 0x56, 0, 0, 0, 0x90, 0xff, 0xff,
                ],
            ),
            (
                true,
                true,
                &[
                    0x7f, 3, 0xff, 0xff, 0, 0x77, 0xff, 0xff, 0xfa, 0x4f, 0xff, 0xff, 0x34, 0x12, 0, 0, 0xc1, 0xf5, 0,
                    0, 0x78, 0x56, 0, 0, 0, 0x90, 0, 0,
                ],
            ),
        ];
        for (wide, real, bytes) in expected {
            let form = Form { wide, real };
            assert_eq!(&environment(&example(), form)[..form.len()], bytes, "{form:?}");
        }
    }

    #[test]
    fn an_environment_is_loaded_as_it_was_stored() {
        for (wide, real) in [(false, false), (true, false), (false, true), (true, true)] {
            let (form, fpu) = (Form { wide, real }, example());
            let image = environment(&fpu, form);
            let mut loaded = fpu.clone();
            loaded.init_x87();
            set_environment(&mut loaded, form, &image[..form.len()], false);
            assert_eq!(environment(&loaded, form), image, "{form:?}");
            assert_eq!(loaded.st(0), fpu.st(0));
        }
    }

    #[test]
    fn an_fxsave_image_is_loaded_as_it_was_stored() {
        for wide in [false, true] {
            let mut fpu = example();
            (0..16).for_each(|index| fpu.set_xmm(index, index as u128 + 1));
            if wide {
                (fpu.pointers.cs, fpu.pointers.ds) = (0, 0);
                fpu.pointers.ip = 0xffff_8000_0000_0000;
            }
            let (image, len) = fxsave(&fpu, wide, 16);
            assert_eq!((len, image[4], image[24], image[28..32].to_vec()), (416, 0xc3, 0x80, vec![0xff, 0xff, 0, 0]));
            let mut loaded = FpuState::default();
            set_fxsave_x87(&mut loaded, &image, wide);
            set_fxsave_xmm(&mut loaded, &image, 16);
            assert_eq!(fxsave(&loaded, wide, 16), (image, len));
            assert_eq!(loaded.pointers, fpu.pointers);
        }
        assert_eq!(fxsave(&example(), false, 8).1, 288);
    }
}
