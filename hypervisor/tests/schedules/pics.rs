//! The two PICs.
//!
//! By the data sheet, the second PIC's request is gone from the first when it is taken back before it was acknowledged.
//! KVM keeps it there and gives a spurious vector, so after each step its first PIC is given the mock's request of the
//! cascade. KVM also has no special mask mode, and ends by a poll what it takes; the schedules leave both out.

use hypervisor::mock::Mock;
use hypervisor::{Gsi, Hypervisor, Pic, kvm_pic_state};
use proptest::prelude::*;
use test_utils::guest::{Guest, Program, interrupts};
use test_utils::kvm::kvm_or_skip;

use super::{command, handlers_that_do_not_return, runner};

/// Where the first PIC has the second.
const CASCADE: u8 = 1 << 2;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Line(u32, bool),
    Write(u16, u8),
    Read(u16),
    /// The guest takes an interrupt, if there is one.
    Take,
}

/// A guest that asks for a command at `COMMAND_PORT`: where it is to go, and then a port and a value.
fn commanded(hypervisor: &dyn Hypervisor) -> Guest {
    let code = [
        0xe5, 0x74, //       0: in ax, COMMAND_PORT
        0xff, 0xe0, //       2: jmp ax
        0xe5, 0x74, 0x89, 0xc2, // 4, write: in ax, COMMAND_PORT; mov dx, ax
        0xe5, 0x74, 0xee, 0xeb, 0xf3, // in ax, COMMAND_PORT; out dx, al; jmp 0
        0xe5, 0x74, 0x89, 0xc2, // 13, read: in ax, COMMAND_PORT; mov dx, ax
        0xec, 0xe6, 0x76, 0xeb, 0xea, // in al, dx; out RESULT_PORT, al; jmp 0
        0xbc, 0x00, 0x48, 0xfb, 0xf4, // 22, take: mov sp, 0x4800; sti; hlt
    ];
    let mut guest = Guest::new(hypervisor, &Program::new().code_only(&code));
    interrupts::prepare(&mut guest);
    handlers_that_do_not_return(&guest, 0x1000);
    assert_eq!(command(&mut *guest.vcpu, &[]), None);
    guest
}

fn happens(guest: &mut Guest, event: &Event) -> Option<u32> {
    let vcpu = &mut *guest.vcpu;
    match *event {
        Event::Line(gsi, level) => {
            guest.vm.set_irq(Gsi(gsi), level).unwrap();
            None
        }
        Event::Write(port, value) => command(vcpu, &[0x1004, port.into(), value.into()]),
        Event::Read(port) => command(vcpu, &[0x100d, port.into()]),
        Event::Take => command(vcpu, &[0x1016]),
    }
}

/// Both states, without the level of the second PIC's output at the first: KVM has a pulse there.
fn state(guest: &Guest) -> [kvm_pic_state; 2] {
    let [mut primary, secondary] = [Pic::Primary, Pic::Secondary].map(|which| guest.vm.pic(which).unwrap());
    primary.last_irr &= !CASCADE;
    [primary, secondary]
}

/// All lines low, and the PICs as after reset.
fn start_anew(guest: &Guest) {
    for gsi in 0..16 {
        guest.vm.set_irq(Gsi(gsi), false).unwrap();
    }
    // The second first, so that it asks the first for nothing.
    for (which, elcr_mask) in [(Pic::Secondary, 0xde), (Pic::Primary, 0xf8)] {
        guest.vm.set_pic(which, &kvm_pic_state { elcr_mask, ..Default::default() }).unwrap();
    }
}

/// Whether the first PIC has something that is not masked and goes before all in service, whatever the priorities are.
fn surely_asks(guest: &Guest) -> bool {
    let [primary, _] = state(guest);
    primary.irr & !primary.imr != 0 && primary.isr == 0
}

/// Gives KVM's first PIC the request of the second that the mock's has; whether it had another.
fn settle_cascade(mock: &Guest, real: &Guest) -> bool {
    let ([mock, _], [primary, _]) = (state(mock), state(real));
    let irr = primary.irr & !CASCADE | mock.irr & CASCADE;
    if irr != primary.irr {
        real.vm.set_pic(Pic::Primary, &kvm_pic_state { irr, ..primary }).unwrap();
    }
    irr != primary.irr
}

/// Whether KVM does what this command says: it has no special mask mode, and a poll ends what it takes.
fn is_known_to_kvm(value: u8) -> bool {
    let is_ocw3 = value & 0x18 == 8;
    !is_ocw3 || value & 4 == 0 && value & 0x60 != 0x60
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let port = || prop::sample::select(vec![0x20_u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]);
    let command = prop::sample::select(vec![0x20_u16, 0xa0]);
    let line = prop::sample::select(vec![0_u32, 1, 3, 5, 7, 8, 9, 12, 15]);
    let event = prop_oneof![
        4 => (line, any::<bool>()).prop_map(|(gsi, level)| Event::Line(gsi, level)),
        2 => (port(), any::<u8>().prop_filter("KVM has no such command", |value| is_known_to_kvm(*value)))
            .prop_map(|(port, value)| Event::Write(port, value)),
        2 => command.prop_map(|port| Event::Write(port, 0x20)),
        1 => port().prop_map(Event::Read),
        3 => Just(Event::Take),
    ];
    prop::collection::vec(event, 1..24)
}

#[test]
fn any_schedule_leaves_the_same_pics_on_mock_and_kvm() {
    let Some(kvm) = kvm_or_skip("schedules::any_schedule_leaves_the_same_pics_on_mock_and_kvm") else { return };
    let guests = std::cell::RefCell::new([commanded(&Mock::guest_code()), commanded(&kvm)]);
    let settled = std::cell::Cell::new(0);
    runner()
        .run(&events(), |events| {
            let [mock, real] = &mut *guests.borrow_mut();
            start_anew(mock);
            start_anew(real);
            for event in &events {
                if matches!(event, Event::Take) {
                    // A line that nobody uses has the PICs look at their output anew, which an initialization has not.
                    for vm in [&mock.vm, &real.vm] {
                        vm.set_irq(Gsi(4), false).unwrap();
                    }
                    if !surely_asks(mock) {
                        continue;
                    }
                }
                prop_assert_eq!(happens(mock, event), happens(real, event), "{:?}", event);
                settled.set(settled.get() + usize::from(settle_cascade(mock, real)));
                prop_assert_eq!(state(mock), state(real), "after {:?}", event);
            }
            Ok(())
        })
        .unwrap();
    println!("{} times the first PIC had another request of the second", settled.get());
}
