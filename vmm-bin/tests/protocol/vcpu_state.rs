//! The rest of a vCPU's state: `FPU`, `DEBUGREGS`, `LAPIC`, `XCREGS` and `EVENTS`.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, DEBUGREGS, EVENTS, FPU, LAPIC, XCREGS};
use test_utils::raw::{VcpuChannel, VcpuPipes};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    the_fpu_is_read_back
    debug_registers_are_read_back
    the_local_apic_is_read_back
    extended_control_registers_are_read_back
    events_are_read_back
    state_of_another_size_is_einval
    state_that_the_kernel_refuses_is_einval
    debug_registers_set_by_the_resume_are_the_guests
    debug_registers_of_a_wrong_size_stop_the_vcpu_with_an_error
}

const ALL: [(u64, usize); 5] = [FPU, DEBUGREGS, LAPIC, XCREGS, EVENTS];

fn started(backend: Backend) -> (Driven, VcpuPipes) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    let vcpu = driven.booted(&[request::reserve(IOPORT, 0x10, 1)]).pop().unwrap();
    (driven, vcpu)
}

/// Changes bytes of some state, sees them read back with all others as they were, and sees the guest run on with it.
fn read_back(backend: Backend, set: (u64, usize), changes: &[(usize, &[u8])]) {
    let (driven, mut vcpu) = started(backend);
    let mut state = vcpu.get(set);
    for (offset, bytes) in changes {
        state[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    vcpu.set(set, &state);
    assert_eq!(vcpu.get(set), state);
    vcpu.resume();
    vcpu.await_io();
    vcpu.get(set);
    driven.finish();
}

fn the_fpu_is_read_back(backend: Backend) {
    // The second of 8 registers of 16 bytes, the control word behind them, and the fourth of the SSE registers.
    read_back(backend, FPU, &[(16, &[1, 2, 3, 4]), (128, &0x027f_u16.to_le_bytes()), (208, b"sixteen bytes :)")]);
}

fn debug_registers_are_read_back(backend: Backend) {
    // The addresses of four breakpoints that are off.
    read_back(backend, DEBUGREGS, &[(0, &[1]), (8, &[2]), (16, &[3]), (24, &[4])]);
}

fn the_local_apic_is_read_back(backend: Backend) {
    // Vectors for LINT0 and LINT1, masked.
    read_back(backend, LAPIC, &[(0x350, &[0x32, 0, 1, 0]), (0x360, &[0x33, 0, 1, 0])]);
}

fn extended_control_registers_are_read_back(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    let state = vcpu.get(XCREGS);
    // How many there are, and the first: XCR0, with x87 alone.
    assert_eq!(
        (&state[..4], &state[8..12], &state[16..24]),
        (&[1, 0, 0, 0][..], &[0; 4][..], &[1, 0, 0, 0, 0, 0, 0, 0][..])
    );
    vcpu.set(XCREGS, &state);
    assert_eq!(vcpu.get(XCREGS), state);
    driven.finish();
}

fn events_are_read_back(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    let mut state = vcpu.get(EVENTS);
    // NMIs are masked.
    state[14] = 1;
    vcpu.set(EVENTS, &state);
    assert_eq!(vcpu.get(EVENTS), state);
    driven.finish();
}

fn state_of_another_size_is_einval(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    for (set, size) in ALL {
        let before = vcpu.get((set, size));
        for wrong in [0, 1, size - 1, size + 1, 2 * size, 4096] {
            vcpu.refused(&vcpu_request::set_state(set, &vec![0; wrong]), Errno::INVAL);
        }
        assert_eq!(vcpu.get((set, size)), before);
    }
    driven.finish();
}

fn state_that_the_kernel_refuses_is_einval(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    // The upper half of DR6, more control registers than there is room for, unknown flags of events.
    for ((set, size), offset) in [(DEBUGREGS, 39), (XCREGS, 0), (EVENTS, 23)] {
        let before = vcpu.get((set, size));
        let mut bad = before.clone();
        bad[offset] = 0x80;
        vcpu.refused(&vcpu_request::set_state(set, &bad), Errno::INVAL);
        assert_eq!(vcpu.get((set, size)), before);
    }
    driven.finish();
}

fn debug_registers_set_by_the_resume_are_the_guests(backend: Backend) {
    let (driven, mut vcpu) = started(backend);
    vcpu.resume();
    for round in 1..5 {
        vcpu.await_io();
        let mut state = vcpu.get(DEBUGREGS);
        state[0] = round;
        vcpu.send(&vcpu_request::resume_with_debugregs(&state));
        vcpu.await_io();
        assert_eq!(vcpu.get(DEBUGREGS), state);
        vcpu.resume();
    }
    driven.finish();
}

fn debug_registers_of_a_wrong_size_stop_the_vcpu_with_an_error(backend: Backend) {
    for size in [1, 127, 129, 4096] {
        let (driven, mut vcpu) = started(backend);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        vcpu.resume();
        vcpu.await_io();
        vcpu.send(&vcpu_request::resume_with_debugregs(&vec![0; size]));
        driven.obey(&event).assert_failure(&["vCPU 0", "relay", "debugregs"]);
    }
}
