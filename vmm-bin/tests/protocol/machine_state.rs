//! `get_state` and `set_state` of the VM's chips and its clock, and `set_identity_map_addr`.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, CLOCK, IOAPIC, PIC0, PIC1, PIT};
use test_utils::raw::{MainSocket, Message};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    a_plugin_that_checks_all_state_and_never_starts_ends_the_vmm_well
    each_pic_by_itself_is_read_back
    the_ioapic_is_read_back
    the_pit_is_read_back
    the_clock_runs_on_from_what_was_set
    a_clock_with_unknown_flags_is_einval
    state_can_be_had_while_the_guest_runs
    state_of_another_size_is_einval
    unknown_state_is_einval
    the_identity_map_address_is_einval_after_the_start
}

fn get(main: &MainSocket, (set, size): (u64, usize)) -> Vec<u8> {
    let state = main.done(&request::get_state(set)).body.bytes(1).to_vec();
    assert_eq!(state.len(), size, "state {set}");
    state
}

fn set(main: &MainSocket, (set, _): (u64, usize), state: &[u8]) {
    main.done(&request::set_state(set, state));
}

fn fresh(backend: Backend) -> Driven {
    Driven::new(backend, &Program::new())
}

fn a_plugin_that_checks_all_state_and_never_starts_ends_the_vmm_well(backend: Backend) {
    let driven = fresh(backend);
    for (which, elcr_mask) in [(PIC0, 0xf8), (PIC1, 0xde)] {
        // The mask of the trigger modes that can be chosen is the last byte; all else begins at 0.
        let mut expected = [0; 16];
        expected[15] = elcr_mask;
        assert_eq!(get(&driven.main, which), expected);
        set(&driven.main, which, &expected);
    }
    let ioapic = get(&driven.main, IOAPIC);
    assert_eq!(ioapic[..8], 0xfec0_0000_u64.to_le_bytes(), "the base address");
    for entry in ioapic[24..].chunks(8) {
        assert_eq!(entry, 0x1_0000_u64.to_le_bytes(), "masked");
    }
    set(&driven.main, IOAPIC, &ioapic);
    let pit = get(&driven.main, PIT);
    set(&driven.main, PIT, &pit);
    let clock = get(&driven.main, CLOCK);
    set(&driven.main, CLOCK, &clock[..8].iter().copied().chain([0; 40]).collect::<Vec<_>>());
    driven.finish();
}

fn each_pic_by_itself_is_read_back(backend: Backend) {
    let driven = fresh(backend);
    // The interrupt mask is the third byte, the base of the vectors the sixth.
    let changed = |which, mask, base| {
        let mut state = get(&driven.main, which);
        (state[2], state[5]) = (mask, base);
        set(&driven.main, which, &state);
        state
    };
    let (first, second) = (changed(PIC0, 0xa5, 0x30), changed(PIC1, 0x5a, 0x38));
    assert_eq!((get(&driven.main, PIC0), get(&driven.main, PIC1)), (first, second));
    driven.finish();
}

fn the_ioapic_is_read_back(backend: Backend) {
    let driven = fresh(backend);
    let mut state = get(&driven.main, IOAPIC);
    // The index register, the id, and an entry of the redirection table: masked, level-triggered, of vector 0x31.
    state[8..12].copy_from_slice(&0x12_u32.to_le_bytes());
    state[12..16].copy_from_slice(&3_u32.to_le_bytes());
    state[24 + 4 * 8..24 + 5 * 8].copy_from_slice(&0x0100_0000_0001_8031_u64.to_le_bytes());
    set(&driven.main, IOAPIC, &state);
    assert_eq!(get(&driven.main, IOAPIC), state);
    driven.finish();
}

fn the_pit_is_read_back(backend: Backend) {
    const CHANNEL: usize = 24;
    let driven = fresh(backend);
    let mut state = get(&driven.main, PIT);
    for (channel, count) in state.chunks_mut(CHANNEL).take(3).zip([0x1234_u32, 0x10, 0x4321]) {
        channel[..4].copy_from_slice(&count.to_le_bytes());
        // How the count is read and written, and the mode.
        (channel[12], channel[13]) = (3, 3);
    }
    set(&driven.main, PIT, &state);
    let got = get(&driven.main, PIT);
    for (got, wanted) in got.chunks(CHANNEL).zip(state.chunks(CHANNEL)).take(3) {
        // The time behind it is the kernel's own.
        assert_eq!(got[..16], wanted[..16]);
    }
    assert_eq!(got[72..76], [0; 4], "flags 0");
    driven.finish();
}

fn nanoseconds(clock: &[u8]) -> u64 {
    u64::from_le_bytes(clock[..8].try_into().unwrap())
}

fn clock(nanoseconds: u64, flags: u32) -> Vec<u8> {
    let mut state = vec![0; CLOCK.1];
    state[..8].copy_from_slice(&nanoseconds.to_le_bytes());
    state[8..12].copy_from_slice(&flags.to_le_bytes());
    state
}

fn the_clock_runs_on_from_what_was_set(backend: Backend) {
    let driven = fresh(backend);
    let start = nanoseconds(&get(&driven.main, CLOCK));
    assert!(nanoseconds(&get(&driven.main, CLOCK)) >= start, "it does not run backwards");
    let (wanted, minute) = (1_000_000_000_000, 60_000_000_000);
    set(&driven.main, CLOCK, &clock(wanted, 0));
    let now = nanoseconds(&get(&driven.main, CLOCK));
    assert!((wanted..wanted + minute).contains(&now), "{now}");
    driven.finish();
}

fn a_clock_with_unknown_flags_is_einval(backend: Backend) {
    let driven = fresh(backend);
    driven.main.refused(&request::set_state(CLOCK.0, &clock(0, 1 << 31)), Errno::INVAL);
    driven.finish();
}

fn state_can_be_had_while_the_guest_runs(backend: Backend) {
    let driven = fresh(backend);
    let _vcpu = driven.running_one(&[]);
    for which in [PIC0, PIC1, IOAPIC, PIT, CLOCK] {
        get(&driven.main, which);
    }
    set(&driven.main, PIC0, &get(&driven.main, PIC0));
    driven.finish();
}

fn state_of_another_size_is_einval(backend: Backend) {
    let driven = fresh(backend);
    for (which, size) in [PIC0, PIC1, IOAPIC, PIT] {
        let before = get(&driven.main, (which, size));
        for wrong in [0, 1, size - 1, size + 1, 2 * size, 4096] {
            driven.main.refused(&request::set_state(which, &vec![0xff; wrong]), Errno::INVAL);
        }
        assert_eq!(get(&driven.main, (which, size)), before);
    }
    for wrong in [0, CLOCK.1 - 1, CLOCK.1 + 1] {
        driven.main.refused(&request::set_state(CLOCK.0, &vec![0; wrong]), Errno::INVAL);
    }
    driven.finish();
}

fn unknown_state_is_einval(backend: Backend) {
    let driven = fresh(backend);
    for which in [5, 99, i32::MAX as u64, -1_i64 as u64] {
        driven.main.refused(&request::get_state(which), Errno::INVAL);
        driven.main.refused(&request::set_state(which, &[0; 16]), Errno::INVAL);
    }
    // An absent set is the first one.
    assert_eq!(driven.main.done(&Message::new().message(13, &Message::new())).body.bytes(1).len(), PIC0.1);
    driven.finish();
}

fn the_identity_map_address_is_einval_after_the_start(backend: Backend) {
    let driven = fresh(backend);
    driven.main.done(&request::set_identity_map_addr(0xfeff_c000));
    driven.main.done(&request::set_identity_map_addr(0xfffb_c000));
    driven.main.done(&request::start());
    driven.main.refused(&request::set_identity_map_addr(0xfeff_c000), Errno::INVAL);
    driven.finish();
}
