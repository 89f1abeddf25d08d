//! The interval timer: its ports, and the interrupts of its first channel. A backend counts by the host's clock, or by the instructions of its guest.

use hypervisor::AddressSpace;

use super::apics::{HALT, STI, apic_guest, reaches, takes};
use super::*;
use crate::guest::{apics, interrupts};

/// Ports of the channels and of commands.
const FIRST: u8 = 0x40;
const THIRD: u8 = 0x42;
const COMMAND: u8 = 0x43;
/// The end of the first PIC's interrupt: mov al, 0x20; out 0x20, al
const END: &[u8] = &[0xb0, 0x20, 0xe6, 0x20];
/// The vector of pin 0 of the first PIC.
const VECTOR: u8 = 0x20;

/// `mov al, value; out port, al`, one after the other.
fn outputs(writes: &[(u8, u8)]) -> Vec<u8> {
    writes.iter().flat_map(|&(port, value)| [0xb0, value, 0xe6, port]).collect()
}

/// Sets a channel's mode and count.
fn count(port: u8, mode: u8, count: u16) -> Vec<u8> {
    let ([low, high], channel) = (count.to_le_bytes(), port - FIRST);
    outputs(&[(COMMAND, channel << 6 | 0x30 | mode << 1), (port, low), (port, high)])
}

/// `in al, THIRD` and tells it at PORT.
fn read_third(program: Program) -> Program {
    program.code_only(&[0xe4, THIRD]).output(PORT, 1)
}

/// No exit; and what was written is seen in the state.
pub fn the_ports_of_the_pit_do_not_exit(make: Make) {
    let program = Program::new().code_only(&count(THIRD, 3, 0x1234)).output(PORT, 1);
    // Two bytes are as good as the first: mov ax, 0x5690; out 0x42, ax
    let program = program.code_only(&outputs(&[(COMMAND, 0x94)])).code_only(&[0xb8, 0x90, 0x56, 0xe7, THIRD]);
    let Guest { vm, mut vcpu, .. } = guest!(make, program.output(PORT, 1));
    reaches(&mut *vcpu);
    let channel = vm.pit().expect("pit").channels[2];
    assert_eq!((channel.count, channel.mode, channel.rw_mode, channel.bcd), (0x1234, 3, 3, 0));
    reaches(&mut *vcpu);
    let channel = vm.pit().expect("pit").channels[2];
    assert_eq!((channel.count, channel.mode, channel.rw_mode), (0x90, 2, 1));
}

/// Its gate and the speaker are the plugin's.
pub fn the_speakers_port_exits(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().code_only(&[0xe4, 0x61]));
    expect_read(&mut *vcpu, AddressSpace::Pio, 0x61, 1);
    vcpu.answer(&[0]).expect("answer");
}

/// Until both bytes of it were read.
pub fn a_latched_count_stands_still(make: Make) {
    let latch = outputs(&[(COMMAND, 0x80)]);
    let program = Program::new().code_only(&count(THIRD, 2, 0xfff0)).code_only(&latch).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, read_third(read_third(program)).output(PORT, 1));
    reaches(&mut *vcpu);
    let channel = vm.pit().expect("pit").channels[2];
    assert_eq!(channel.count_latched, 3);
    assert!((1..=0xfff0).contains(&channel.latched_count), "{:#x}", channel.latched_count);
    for byte in channel.latched_count.to_le_bytes() {
        expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[byte]);
    }
    reaches(&mut *vcpu);
    assert_eq!(vm.pit().expect("pit").channels[2].count_latched, 0);
}

/// The status first, then the count.
pub fn a_read_back_latches_status_and_count(make: Make) {
    let program = Program::new().code_only(&count(THIRD, 0, 0xffff)).code_only(&outputs(&[(COMMAND, 0xc8)]));
    let program = read_third(read_third(read_third(program.output(PORT, 1))));
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    reaches(&mut *vcpu);
    let channel = vm.pit().expect("pit").channels[2];
    assert_eq!((channel.status_latched, channel.count_latched, channel.status & 0x7f), (1, 3, 0x30));
    let [low, high] = channel.latched_count.to_le_bytes();
    for byte in [channel.status, low, high] {
        expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[byte]);
    }
}

/// Looked at until it has gone on.
pub fn a_count_goes_on(make: Make) {
    let program = Program::new().code_only(&outputs(&[(COMMAND, 0x94), (THIRD, 0)]));
    // A count takes 838 ns, which is as many instructions by a virtual clock: mov cx, 0x100; loop to itself
    let later = |program: Program| read_third(program.code_only(&[0xb9, 0x00, 0x01, 0xe2, 0xfe]));
    let Guest { mut vcpu, .. } = guest!(make, (0..64).fold(program, |program, _| later(program)));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        assert_eq!(access(&mut *vcpu).address(), u64::from(PORT));
        seen.insert(vcpu.access_data()[0]);
    }
    assert!(seen.len() > 1, "{seen:?}");
}

/// In mode 0.
pub fn the_pit_interrupts_once(make: Make) {
    let program = interrupts::pics().code_only(&count(FIRST, 0, 2000)).code_only(HALT).code_only(END).code_only(STI);
    let mut guest = guest!(make, program.output(PORT, 1).output(PORT, 1));
    interrupts::prepare(&mut guest);
    takes(&mut *guest.vcpu, VECTOR);
    reaches(&mut *guest.vcpu);
    reaches(&mut *guest.vcpu);
}

/// In mode 2, each time behind the end of the last.
pub fn the_pit_interrupts_again_and_again(make: Make) {
    let round = |program: Program| program.code_only(HALT).code_only(END);
    let program = round(round(round(interrupts::pics().code_only(&count(FIRST, 2, 2000)))));
    let mut guest = guest!(make, program.output(PORT, 1));
    interrupts::prepare(&mut guest);
    for _ in 0..3 {
        takes(&mut *guest.vcpu, VECTOR);
    }
    reaches(&mut *guest.vcpu);
}

/// As its line is routed after reset.
pub fn the_pit_interrupts_through_the_ioapic(make: Make) {
    let round = |program: Program| program.code_only(HALT).local(apics::register::END, 0);
    let program = apics::ready().redirect(0, 0x41).output(PORT, 1).code_only(&count(FIRST, 3, 2000));
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, round(round(program)));
    for _ in 0..2 {
        takes(&mut *vcpu, 0x41);
    }
}

/// From its state.
pub fn a_pit_that_is_set_interrupts(make: Make) {
    let mut guest = guest!(make, interrupts::pics().output(PORT, 1).code_only(HALT));
    interrupts::prepare(&mut guest);
    let Guest { vm, mut vcpu, .. } = guest;
    reaches(&mut *vcpu);
    let mut state = vm.pit().expect("pit");
    (state.channels[0].mode, state.channels[0].count) = (0, 2000);
    vm.set_pit(&state).expect("set_pit");
    takes(&mut *vcpu, VECTOR);
}
