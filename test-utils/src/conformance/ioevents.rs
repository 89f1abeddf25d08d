//! Ioeventfds.

use hypervisor::{AddressSpace, IoEvent, Vm};

use super::*;

fn at(space: AddressSpace, address: u16, len: u32, datamatch: Option<u64>) -> IoEvent {
    IoEvent::new(space, address.into(), len, datamatch).expect("ioevent")
}

/// In both spaces, without an exit.
pub fn a_write_to_an_ioeventfd_signals_and_does_not_exit(make: Make) {
    for len in [0, 2] {
        let program = Program::new().mov(7).output(PORT, 2).store(HOLE, 2).output(OTHER_PORT, 1);
        let Guest { vm, mut vcpu, .. } = guest!(make, program);
        let (port, mmio) = (event(), event());
        vm.register_ioevent(&at(AddressSpace::Pio, PORT, len, None), &port).expect("register");
        vm.register_ioevent(&at(AddressSpace::Mmio, HOLE, len, None), &mmio).expect("register");
        expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[7]);
        assert_eq!((port.read().expect("signal"), mmio.read().expect("signal")), (1, 1));
    }
}

/// Length and data must match, where they are given.
pub fn a_write_that_does_not_match_exits(make: Make) {
    let program = Program::new().mov(0x0102).output(PORT, 1).output(PORT, 2).mov(0x0103).output(PORT, 2);
    let Guest { vm, mut vcpu, .. } = guest!(make, program.store(HOLE, 2).store(HOLE, 1).input(PORT, 2));
    let (port, mmio) = (event(), event());
    // Only the low two bytes of the data count.
    vm.register_ioevent(&at(AddressSpace::Pio, PORT, 2, Some(0xffff_0102)), &port).expect("register");
    vm.register_ioevent(&at(AddressSpace::Mmio, HOLE, 1, None), &mmio).expect("register");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[2]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[3, 1]);
    assert_eq!(port.read().expect("signal"), 1);
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[3, 1]);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 2);
    assert_eq!(mmio.read().expect("signal"), 1);
}

/// `EEXIST` where one write would be two events'.
pub fn ioeventfds_do_not_collide(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let register =
        |vm: &dyn Vm, len, datamatch| vm.register_ioevent(&at(AddressSpace::Mmio, HOLE, len, datamatch), &event());
    register(&*vm, 4, Some(1)).expect("register");
    register(&*vm, 4, Some(2)).expect("another value");
    register(&*vm, 2, None).expect("another length");
    for (len, datamatch) in [(4, Some(1)), (4, None), (2, Some(1)), (0, None)] {
        assert_eq!(errno(register(&*vm, len, datamatch)), EEXIST, "{len} {datamatch:?}");
    }
}

/// `ENOENT` unless all is as it was registered.
pub fn an_ioeventfd_is_taken_away_by_what_it_was_registered_with(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1));
    let (mine, other, of_port) = (event(), event(), |len, data| at(AddressSpace::Pio, PORT, len, data));
    vm.register_ioevent(&of_port(1, Some(1)), &mine).expect("register");
    for (wrong, event) in [
        (of_port(1, Some(2)), &mine),
        (of_port(1, None), &mine),
        (of_port(0, None), &mine),
        (at(AddressSpace::Mmio, PORT, 1, Some(1)), &mine),
        (of_port(1, Some(1)), &other),
    ] {
        assert_eq!(errno(vm.unregister_ioevent(&wrong, event)), ENOENT, "{wrong:?}");
    }
    vm.unregister_ioevent(&of_port(1, Some(1)), &mine).expect("unregister");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
}
