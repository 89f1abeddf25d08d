//! The PICs of mock and KVM are the same after any schedule of lines, commands and interrupts taken. `PROPTEST_CASES` says
//! how many are tried.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use hypervisor::mock::Mock;
use hypervisor::{Direction, Exit, Gsi, Hypervisor, Pic, Vcpu};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use test_utils::guest::{Guest, Program, RAM_START, interrupts};
use test_utils::kvm::kvm_or_skip;
use test_utils::memory;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Line(u32, bool),
    Write(u16, u8),
    Read(u16),
    /// The guest takes an interrupt, if there is one.
    Take,
}

const COMMAND_PORT: u16 = 0x74;
const RESULT_PORT: u16 = 0x76;

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
    // Handlers that do not return, so that interrupts stay off.
    for vector in 0..=u8::MAX {
        let handler = 0x2800 + 8 * u16::from(vector);
        let [low, high] = 0x1000_u16.wrapping_sub(handler + 7).to_le_bytes();
        // mov al, vector; out HANDLER_PORT, al; jmp 0
        let code = [0xb0, vector, 0xe6, interrupts::HANDLER_PORT as u8, 0xe9, low, high];
        memory::write_at(&guest.ram, u64::from(handler) - RAM_START, &code);
    }
    assert_eq!(command(&mut *guest.vcpu, &[]), None);
    guest
}

/// Answers the guest's questions with these, up to its next: what it has written meanwhile.
fn command(vcpu: &mut dyn Vcpu, words: &[u16]) -> Option<u8> {
    let mut written = None;
    let mut words = words.iter();
    if let Some(word) = words.next() {
        vcpu.answer(&word.to_le_bytes()).unwrap();
    }
    loop {
        match vcpu.run().unwrap() {
            Exit::Interrupted => {}
            Exit::Access(access) if access.direction() == Direction::Write => {
                assert!([RESULT_PORT, interrupts::HANDLER_PORT].map(u64::from).contains(&access.address()));
                assert!(written.is_none(), "one thing at a time");
                written = Some(vcpu.access_data()[0]);
            }
            Exit::Access(access) => {
                assert_eq!(access.address(), u64::from(COMMAND_PORT));
                let Some(word) = words.next() else { return written };
                vcpu.answer(&word.to_le_bytes()).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn happens(guest: &mut Guest, event: &Event) -> Option<u8> {
    let vcpu = &mut *guest.vcpu;
    match *event {
        Event::Line(gsi, level) => {
            guest.vm.set_irq(Gsi(gsi), level).unwrap();
            None
        }
        Event::Write(port, value) => command(vcpu, &[0x1004, port, value.into()]),
        Event::Read(port) => command(vcpu, &[0x100d, port]),
        Event::Take => command(vcpu, &[0x1016]),
    }
}

fn state(guest: &Guest) -> [hypervisor::kvm_pic_state; 2] {
    [Pic::Primary, Pic::Secondary].map(|which| guest.vm.pic(which).unwrap())
}

/// Whether the first PIC has something that is not masked and goes before all in service, whatever the priorities are.
fn surely_asks(guest: &Guest) -> bool {
    let [primary, _] = state(guest);
    primary.irr & !primary.imr != 0 && primary.isr == 0
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let port = || prop::sample::select(vec![0x20_u16, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]);
    let command = prop::sample::select(vec![0x20_u16, 0xa0]);
    let event = prop_oneof![
        4 => (prop::sample::select(vec![0_u32, 1, 3, 5, 7, 8, 9, 12, 15]), any::<bool>()).prop_map(|(gsi, level)| Event::Line(gsi, level)),
        2 => (port(), any::<u8>()).prop_map(|(port, value)| Event::Write(port, value)),
        2 => command.prop_map(|port| Event::Write(port, 0x20)),
        1 => port().prop_map(Event::Read),
        3 => Just(Event::Take),
    ];
    prop::collection::vec(event, 1..24)
}

#[test]
fn any_schedule_leaves_the_same_pics_on_mock_and_kvm() {
    let Some(kvm) = kvm_or_skip("schedules::any_schedule_leaves_the_same_pics_on_mock_and_kvm") else { return };
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&events(), |events| {
            let mut mock = commanded(&Mock::guest_code());
            let mut real = commanded(&kvm);
            for event in &events {
                if matches!(event, Event::Take) {
                    // A line that nobody uses has the PICs look at their output anew, which an initialization has not.
                    for vm in [&mock.vm, &real.vm] {
                        vm.set_irq(Gsi(4), false).unwrap();
                    }
                    if !surely_asks(&mock) {
                        continue;
                    }
                }
                prop_assert_eq!(happens(&mut mock, event), happens(&mut real, event), "{:?}", event);
                prop_assert_eq!(state(&mock), state(&real), "after {:?}", event);
            }
            Ok(())
        })
        .unwrap();
}
