//! Posted and synchronous writes of a vCPU arrive in the order in which it made them, also where the ring was full.
//!
//! The guest numbers its exits, in machine code; what its program is, and where the plugin lets the ring fill up, is chosen at
//! random.

use std::sync::atomic::Ordering;

use test_utils::guest::Program;
use test_utils::raw::VcpuRing;
use test_utils::raw::request::{self, IOPORT, MMIO};
use test_utils::raw::vcpu_ring::{SLOTS, TO_PLUGIN, kind};
use test_utils::wait;

use crate::common::{Backend, Driven, in_parallel, on_each_backend};

on_each_backend! {
    writes_arrive_in_the_order_in_which_they_were_made
}

const SYNC_PORT: u16 = 0x10;
const POSTED_PORT: u16 = 0x30;
const POSTED_ADDRESS: u16 = 0x9000;
/// More posted writes than the ring has room for.
const BURST: u16 = 400;

/// What the guest does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Sync,
    Posted,
    PostedToMemory,
    Burst,
}

/// The next of a sequence of numbers that look random (splitmix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn choose(state: &mut u64) -> Vec<Write> {
    let mut writes: Vec<_> = (0..3 + random(state) % 40)
        .map(|_| match random(state) % 20 {
            0..8 => Write::Sync,
            8..14 => Write::Posted,
            14..19 => Write::PostedToMemory,
            _ => Write::Burst,
        })
        .collect();
    writes.push(Write::Burst);
    writes
}

/// inc ebx; mov eax, ebx
const NEXT_NUMBER: [u8; 5] = [0x66, 0x43, 0x66, 0x89, 0xd8];

fn program(writes: &[Write]) -> Program {
    let numbered = |program: Program| program.code_only(&NEXT_NUMBER);
    let program = writes.iter().fold(Program::new(), |program, write| match write {
        Write::Sync => numbered(program).output(SYNC_PORT, 4),
        Write::Posted => numbered(program).output(POSTED_PORT, 4),
        Write::PostedToMemory => numbered(program).store(POSTED_ADDRESS, 4),
        Write::Burst => {
            let ([port_low, port_high], [low, high]) = (POSTED_PORT.to_le_bytes(), BURST.to_le_bytes());
            // mov dx, port; mov cx, BURST; again: next number; out dx, eax; loop again
            let mut code = vec![0xba, port_low, port_high, 0xb9, low, high];
            code.extend(NEXT_NUMBER);
            code.extend([0x66, 0xef, 0xe2, 0xf7]);
            program.code_only(&code)
        }
    });
    program.forever()
}

/// Takes as many writes as `writes` are, `number` being the last that was taken; at random, after the first of a burst, waits
/// until the vCPU waits for room: how often it did.
fn take(ring: &mut VcpuRing, writes: &[Write], number: &mut u32, state: &mut u64) -> usize {
    let mut full = 0;
    for write in writes {
        let (kind, address, count) = match write {
            Write::Sync => (kind::WRITE, SYNC_PORT, 1),
            Write::Posted => (kind::POSTED, POSTED_PORT, 1),
            Write::PostedToMemory => (kind::POSTED, POSTED_ADDRESS, 1),
            Write::Burst => (kind::POSTED, POSTED_PORT, BURST),
        };
        for index in 0..count {
            *number += 1;
            let record = ring.expect(kind);
            assert_eq!((record.address, record.data()), (address.into(), number.to_le_bytes().to_vec()), "{write:?}");
            if *write == Write::Burst && index == 0 && !random(state).is_multiple_of(3) {
                await_full(ring);
                full += 1;
            }
        }
        if *write == Write::Sync {
            ring.resume();
        }
    }
    full
}

/// Waits until the vCPU sleeps for lack of room, with a record in each slot.
fn await_full(ring: &VcpuRing) {
    let word = |offset| ring.memory().word(offset).load(Ordering::SeqCst);
    let last = ring.read().wrapping_add(SLOTS);
    wait::until("the ring is full", || {
        word(TO_PLUGIN.slot(last.wrapping_sub(1))) == last && word(TO_PLUGIN.writer_sleeps) == 1
    });
}

fn writes_arrive_in_the_order_in_which_they_were_made(backend: Backend) {
    let reservations = [
        request::reserve(IOPORT, SYNC_PORT.into(), 4),
        request::reserve_posted(IOPORT, POSTED_PORT.into(), 4),
        request::reserve_posted(MMIO, POSTED_ADDRESS.into(), 4),
    ];
    in_parallel(0..8_u64, |seed| {
        let mut state = seed;
        let writes = choose(&mut state);
        // Waiting by sleeping alone, and by looking first.
        let poll = if seed % 2 == 0 { "0" } else { "50" };
        let driven = Driven::with(backend, &program(&writes), &["-c", "2", "--poll-us", poll]);
        let mut rings = driven.rings(&reservations);
        let mut numbers = [0; 2];
        let mut full = 0;
        while numbers[1] < 2500 {
            for (ring, number) in rings.iter_mut().zip(&mut numbers) {
                full += take(ring, &writes, number, &mut state);
            }
        }
        assert!(full > 0, "the ring of seed {seed} was never full");
        driven.finish();
    });
}
