//! Interrupt lines, irqfds and routes, as the chips show them: while a pin is masked, the IOAPIC's `irr` is its level.

use hypervisor::{AddressSpace, Gsi, Pic, Route, Vm};

use super::*;
use crate::wait;

const LINE: Gsi = Gsi(5);
const IOAPIC: u32 = 2;

fn ioapic_irr(vm: &dyn Vm) -> u32 {
    vm.ioapic().expect("ioapic").irr
}

/// The default routes lead to the IOAPIC and the PICs.
pub fn a_line_is_seen_at_the_pins_it_leads_to(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(ioapic_irr(&*vm), 1 << 5);
    assert_eq!(vm.pic(Pic::Primary).expect("pic").irr, 1 << 5);
    vm.set_irq(LINE, false).expect("set_irq");
    assert_eq!(ioapic_irr(&*vm), 0);
    assert_eq!(vm.pic(Pic::Primary).expect("pic").irr, 1 << 5, "an edge is latched");
    vm.set_irq(Gsi(9), true).expect("set_irq");
    assert_eq!(vm.pic(Pic::Secondary).expect("pic").irr, 1 << 1);
}

/// No error: nothing listens there.
pub fn a_line_that_leads_nowhere_may_be_set(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    for gsi in [24, 4095, 4096, u32::MAX] {
        vm.set_irq(Gsi(gsi), true).expect("set_irq");
    }
    assert_eq!(ioapic_irr(&*vm), 0);
}

/// The whole way round: trigger, line, acknowledgement, resample, and again.
pub fn an_irqfd_raises_its_line_until_the_guest_acknowledges(make: Make) {
    let program = Program::new().acknowledge(5).output(PORT, 1).acknowledge(5).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    for _ in 0..2 {
        trigger.write(1).expect("write");
        wait::until("the line is high", || ioapic_irr(&*vm) == 1 << 5);
        assert!(resample.read().is_err(), "not acknowledged yet");
        expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x65]);
        assert_eq!(ioapic_irr(&*vm), 0);
        assert_eq!(resample.read().expect("a signal"), 1);
    }
}

/// A trigger has one GSI; taking it away lowers the line.
pub fn an_irqfd_is_registered_once_and_taken_away(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    assert_eq!(errno(vm.register_irqfd(LINE, &trigger, &resample)), EBUSY);
    assert_eq!(errno(vm.register_irqfd(Gsi(6), &trigger, &resample)), EBUSY);
    trigger.write(1).expect("write");
    wait::until("the line is high", || ioapic_irr(&*vm) == 1 << 5);
    vm.unregister_irqfd(LINE, &trigger).expect("unregister_irqfd");
    wait::until("the line is low", || ioapic_irr(&*vm) == 0);
    vm.unregister_irqfd(LINE, &trigger).expect("one that is unknown");
    vm.register_irqfd(Gsi(6), &trigger, &resample).expect("register_irqfd");
}

/// A new table replaces all routes.
pub fn routes_say_where_a_line_leads_to(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let routes = [
        Route::Irqchip { gsi: LINE, chip: IOAPIC, pin: 20 },
        Route::Irqchip { gsi: LINE, chip: 1, pin: 2 },
        Route::Msi { gsi: Gsi(30), address: 0xfee0_0000, data: 0x40 },
    ];
    vm.set_routing(&routes).expect("set_routing");
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(ioapic_irr(&*vm), 1 << 20);
    assert_eq!(vm.pic(Pic::Secondary).expect("pic").irr, 1 << 2);
    assert_eq!(vm.pic(Pic::Primary).expect("pic").irr, 1 << 2, "only for the other PIC");
    vm.set_irq(LINE, false).expect("set_irq");
    vm.set_routing(&[]).expect("set_routing");
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(ioapic_irr(&*vm), 0);
}

/// `EINVAL`, and the old table stays.
pub fn impossible_routes_are_refused(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let irqchip = |gsi, chip, pin| Route::Irqchip { gsi: Gsi(gsi), chip, pin };
    let msi = |gsi| Route::Msi { gsi: Gsi(gsi), address: 0xfee0_0000, data: 0 };
    for bad in [
        vec![irqchip(0, IOAPIC, 24)],
        vec![irqchip(0, 0, 8)],
        vec![irqchip(0, 3, 0)],
        vec![msi(4096)],
        vec![irqchip(5, IOAPIC, 1), irqchip(5, IOAPIC, 2)],
        vec![irqchip(5, IOAPIC, 1), msi(5)],
        vec![msi(0); 4097],
    ] {
        assert_eq!(errno(vm.set_routing(&bad)), EINVAL, "{} routes", bad.len());
    }
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(ioapic_irr(&*vm), 1 << 5);
    vm.set_routing(&(0..4096).map(msi).collect::<Vec<_>>()).expect("as many as there may be");
}
