//! Writes that are coalesced.

use hypervisor::{AddressSpace, Vm};

use super::*;

/// What KVM has room for.
const ROOM: u32 = 169;

fn write(space: AddressSpace, address: u16, data: &[u8]) -> Access {
    Access::write(space, address.into(), data).expect("access")
}

fn taken(vm: &dyn Vm) -> Vec<Access> {
    let mut writes = Vec::new();
    vm.take_coalesced(&mut writes);
    assert!(!vm.has_coalesced());
    writes
}

/// In both spaces, in one order, without an exit. Reads exit as ever.
pub fn coalesced_writes_do_not_exit_and_keep_their_order(make: Make) {
    let program = Program::new().mov(0x0403_0201).output(PORT, 1).store(HOLE, 4).output(PORT + 2, 2).mov(9);
    let program = program.store(HOLE + 7, 1).output(OTHER_PORT, 1).input(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    vm.coalesce_writes(AddressSpace::Pio, PORT.into(), 4).expect("coalesce");
    vm.coalesce_writes(AddressSpace::Mmio, HOLE.into(), 8).expect("coalesce");
    assert!(!vm.has_coalesced());
    expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[9]);
    assert!(vm.has_coalesced());
    let writes = [
        write(AddressSpace::Pio, PORT, &[1]),
        write(AddressSpace::Mmio, HOLE, &[1, 2, 3, 4]),
        write(AddressSpace::Pio, PORT + 2, &[1, 2]),
        write(AddressSpace::Mmio, HOLE + 7, &[9]),
    ];
    assert_eq!(taken(&*vm), writes);
    assert_eq!(taken(&*vm), []);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
}

/// Only what lies wholly in the range is coalesced.
pub fn a_write_that_reaches_out_of_what_is_coalesced_exits(make: Make) {
    let program = Program::new().mov(7).store(HOLE + 1, 4).store(HOLE - 1, 4).store(HOLE + 4, 1).output(HOLE, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    vm.coalesce_writes(AddressSpace::Mmio, HOLE.into(), 4).expect("coalesce");
    for address in [HOLE + 1, HOLE - 1] {
        expect_write(&mut *vcpu, AddressSpace::Mmio, address.into(), &[7, 0, 0, 0]);
    }
    expect_write(&mut *vcpu, AddressSpace::Mmio, (HOLE + 4).into(), &[7]);
    expect_write(&mut *vcpu, AddressSpace::Pio, HOLE.into(), &[7]);
    assert_eq!(taken(&*vm), []);
}

/// The write for which there is no room exits; what was coalesced is not lost, and there is room again when it was taken.
pub fn without_room_for_it_a_write_exits(make: Make) {
    let program = (0..2 * ROOM + 2).fold(Program::new(), |program, value| program.mov(value).output(PORT, 2));
    let Guest { vm, mut vcpu, .. } = guest!(make, program.output(OTHER_PORT, 1));
    vm.coalesce_writes(AddressSpace::Pio, PORT.into(), 2).expect("coalesce");
    let expected = |values: std::ops::Range<u32>| {
        values.map(|value| write(AddressSpace::Pio, PORT, &(value as u16).to_le_bytes())).collect::<Vec<_>>()
    };
    let exits = |value: u32| (value as u16).to_le_bytes();
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &exits(ROOM));
    assert_eq!(taken(&*vm), expected(0..ROOM));
    // One exits while all the others are there still.
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &exits(2 * ROOM + 1));
    assert!(vm.has_coalesced());
    assert_eq!(taken(&*vm), expected(ROOM + 1..2 * ROOM + 1));
}

/// From then on writes exit, and what was coalesced before can still be taken.
pub fn what_is_coalesced_no_longer_exits(make: Make) {
    let program = Program::new().mov(1).output(PORT, 1).output(OTHER_PORT, 1).mov(2).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    vm.stop_coalescing(AddressSpace::Pio, PORT.into(), 1).expect("nothing to stop");
    vm.coalesce_writes(AddressSpace::Pio, PORT.into(), 1).expect("coalesce");
    expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[1]);
    vm.stop_coalescing(AddressSpace::Pio, PORT.into(), 1).expect("stop");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[2]);
    assert_eq!(taken(&*vm), [write(AddressSpace::Pio, PORT, &[1])]);
}
