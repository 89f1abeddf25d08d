//! Requests about the VM before it starts.

use plugin_sdk::{Connection, Error, Irqchip, Pic, Route, RouteTarget};
use rustix::io::Errno;

/// `KVM_CAP_IRQCHIP`, and a number that stands for nothing.
const IRQCHIP: u32 = 0;
const NO_EXTENSION: u32 = 0xffff_fff0;

/// Sees that `result` is the VMM's refusal with `errno`.
pub(crate) fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, errno: Errno) {
    assert_eq!(result.unwrap_err().errno(), Some(errno.raw_os_error()));
}

pub(crate) fn check(connection: &mut Connection) {
    assert!(connection.check_extension(IRQCHIP).unwrap());
    assert!(!connection.check_extension(NO_EXTENSION).unwrap());
    assert!(connection.supported_cpuid().unwrap().iter().any(|entry| entry.function == 1));
    connection.emulated_cpuid().unwrap();
    assert!(!connection.msr_indices().unwrap().is_empty());
    assert_refused(connection.net_config(), Errno::NODATA);
    connection.set_identity_map_address(0xfeff_c000).unwrap();

    chips(connection);
    lines(connection);
}

fn chips(connection: &mut Connection) {
    for pic in [Pic::Primary, Pic::Secondary] {
        let mut state = connection.pic(pic).unwrap();
        state.imr = 0x5a;
        connection.set_pic(pic, &state).unwrap();
        assert_eq!(connection.pic(pic).unwrap(), state);
    }
    let mut ioapic = connection.ioapic().unwrap();
    ioapic.id = 3;
    connection.set_ioapic(&ioapic).unwrap();
    assert_eq!(connection.ioapic().unwrap().id, 3);
    let mut pit = connection.pit().unwrap();
    pit.channels[2].mode = 3;
    connection.set_pit(&pit).unwrap();
    assert_eq!(connection.pit().unwrap().channels[2].mode, 3);
    let mut clock = connection.clock().unwrap();
    clock.clock = 1 << 40;
    clock.flags = 0;
    connection.set_clock(&clock).unwrap();
    assert!(connection.clock().unwrap().clock >= 1 << 40);
}

/// The pins are masked, so an interrupt stays where it is seen.
fn lines(connection: &mut Connection) {
    connection.set_irq(5, true).unwrap();
    assert_eq!(connection.ioapic().unwrap().irr, 1 << 5);
    connection.set_irq(5, false).unwrap();
    assert_eq!(connection.ioapic().unwrap().irr, 0);

    let pin = |chip, pin| Route { gsi: 5, target: RouteTarget::Pin { chip, pin } };
    let message = Route { gsi: 30, target: RouteTarget::Msi { address: 0xfee0_0000, data: 0x41 } };
    connection.set_irq_routing(&[pin(Irqchip::Ioapic, 20), message]).unwrap();
    assert_refused(connection.set_irq_routing(&[pin(Irqchip::Ioapic, 24)]), Errno::INVAL);
    connection.set_irq(5, true).unwrap();
    assert_eq!(connection.ioapic().unwrap().irr, 1 << 20);
    connection.set_irq(5, false).unwrap();
}
