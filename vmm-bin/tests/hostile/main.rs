//! What a plugin can do to harm: after it the VMM is alive, or has ended with a clear error, and holds no more than before.
//!
//! Each test tells on standard error how many cases it ran.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod descriptors;
mod exhaustion;
mod main_messages;
mod memfds;
mod order;
mod rings;
mod samples;
mod signals;
mod silence;
mod vcpu_messages;

/// The next of a sequence of numbers that look random.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The bytes with a few changes at random places: other bits, other bytes, bytes gone, bytes twice.
fn mutated(bytes: &[u8], random: &mut u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=splitmix(random) % 4 {
        if bytes.is_empty() {
            return bytes;
        }
        let number = splitmix(random);
        let at = (number >> 16) as usize % bytes.len();
        match number % 5 {
            0 => bytes[at] ^= 1 << (number >> 8 & 7),
            1 => bytes[at] = (number >> 8) as u8,
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, bytes[at]),
            _ => bytes[at] = 0xff,
        }
    }
    bytes
}
