//! Any instruction in any state, however its exceptions are masked: the guest gets an exception, the host none.

use std::cell::RefCell;
use std::hint::black_box;

use iced_x86::{Decoder, DecoderOptions};
use proptest::prelude::*;

use super::every::{encodings, is_meant};
use super::values::runner;
use super::*;

/// The host's own arithmetic is masked, to nearest, and has denormals.
fn check_host() {
    assert_eq!((black_box(1.0_f64) / black_box(3.0)).to_bits(), 0x3fd5_5555_5555_5555);
    assert_eq!((black_box(2.0_f64) / black_box(3.0)).to_bits(), 0x3fe5_5555_5555_5555);
    assert_eq!(black_box(f64::MIN_POSITIVE) / black_box(2.0), f64::from_bits(1 << 51));
    assert!((black_box(0.0_f64) / black_box(0.0)).is_nan());
}

/// Registers whose bytes are often those of limits.
pub(super) fn registers(mut seed: u64) -> Vec<[u8; 16]> {
    let mut next = || {
        // SplitMix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    };
    let mut byte = || match next() {
        [0..=0x3f, byte, ..] => byte,
        [_, choice, ..] => [0, 0, 0xff, 0xff, 0x7f, 0x80, 1, 0x3f][usize::from(choice % 8)],
    };
    (0..32).map(|_| std::array::from_fn(|_| byte())).collect()
}

#[test]
fn any_instruction_in_any_state_ends_in_the_guest() {
    let machine = RefCell::new(long_machine());
    let codes: Vec<Vec<u8>> = encodings()
        .filter_map(|bytes| {
            let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            is_meant(instruction.code()).then(|| bytes[..instruction.len()].to_vec())
        })
        .collect();
    let cases = (proptest::collection::vec(0..codes.len(), 1..24), any::<u64>(), any::<[u16; 3]>(), any::<u8>());
    let result = runner().run(&cases, |(indices, seed, [control, status, mxcsr], tags)| {
        let registers = registers(seed);
        let machine = &mut *machine.borrow_mut();
        set_mxcsr(machine, mxcsr.into());
        machine.write(DATA, &registers.concat());
        machine.write(DATA + 512, &registers.concat());
        set_fpu(machine, |fpu| {
            (fpu.fcw, fpu.fsw, fpu.ftwx) = (control, status, tags);
            fpu.fpr.copy_from_slice(&registers[..8]);
            fpu.xmm.copy_from_slice(&registers[8..24]);
        });
        for code in indices.iter().map(|&index| &codes[index]) {
            machine.set(|regs| (regs.rbx, regs.rdi) = (DATA, DATA));
            let end = execute(machine, code);
            let expected = matches!(end, End::Done | End::Exception(13 | 16 | 19));
            prop_assert!(expected, "{:02x?}: {:?}", code, end);
            check_host();
            // Where an x87 exception is pending, it would be all there is from here on.
            if end == End::Exception(16) {
                prop_assert_eq!(execute(machine, &[0xdb, 0xe2]), End::Done);
            }
        }
        Ok(())
    });
    result.unwrap();
}
