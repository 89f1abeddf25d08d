//! The IOAPIC and the local APIC of a vCPU.
//!
//! The end of an interrupt is an event of its own. Some backends have ended it when they deliver it; beside one of
//! those the other's guest ends at once what it takes. What is to end later is taken there from outside: moved from the
//! vectors that are requested to those in service.

use std::cell::{Cell, RefCell};

use hypervisor::mock::Mock;
use hypervisor::{Gsi, Hypervisor, Route, Vcpu, kvm_ioapic_state, kvm_lapic_state};
use proptest::prelude::*;
use test_utils::guest::apics::{self, entry, register};
use test_utils::guest::{Guest, Program};
use test_utils::kvm::kvm_or_skip;
use zerocopy::IntoBytes;

use super::{command, handlers_that_do_not_return, runner};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Line(u32, bool),
    /// An entry of the IOAPIC is written, its upper half first.
    Redirect(u8, u64),
    /// A register of the IOAPIC is written as it comes.
    Ioapic(u8, u32),
    Local(u16, u32),
    ReadIoapic(u8),
    ReadLocal(u16),
    /// The guest takes an interrupt, if there is one.
    Take,
    /// The local APIC is set as if the guest had taken one.
    Accept,
}

/// GSIs whose lines lead to the IOAPIC, some of them to its own pins alone, and to messages.
const LINES: [u32; 7] = [3, 9, 16, 23, 30, 31, 32];
/// The pin whose destination is a logical one. It stays so: KVM may not notice that an interrupt which is under way is
/// no more the pin's when that changes.
const LOGICAL_PIN: u8 = 9;
const VECTORS: [u8; 6] = [0x31, 0x41, 0x42, 0x51, 0x5f, 0xf1];
/// Vectors of commands: what ends an interrupt of another source's vector may be told to a pin or not.
const COMMANDS: [u8; 3] = [0x32, 0x43, 0x61];
/// Where the guest's code has what each command does.
const STORE_LOCAL: u32 = 0x1004;
const STORE_IOAPIC: u32 = 0x1011;
const LOAD_LOCAL: u32 = 0x101e;
const LOAD_IOAPIC: u32 = 0x102b;
const TAKE: u32 = 0x1038;
/// Where a handler goes on: to the next command, or to the end of the interrupt before that.
const START: u16 = 0x1000;
const END: u16 = 0x103d;

/// A guest that asks for a command at `COMMAND_PORT`: where it is to go, and then an offset and a value. Its handlers
/// go on at `back`.
fn commanded(hypervisor: &dyn Hypervisor, back: u16) -> Guest {
    let code = [
        0xe5, 0x74, 0xff, 0xe0, // in ax, COMMAND_PORT; jmp ax
        // STORE_LOCAL: in ax, COMMAND_PORT; mov di, ax; in eax, COMMAND_PORT; mov es:[di], eax; jmp START
        0xe5, 0x74, 0x89, 0xc7, 0x66, 0xe5, 0x74, 0x66, 0x26, 0x89, 0x05, 0xeb, 0xef, //
        // STORE_IOAPIC: the same with fs:[di]
        0xe5, 0x74, 0x89, 0xc7, 0x66, 0xe5, 0x74, 0x66, 0x64, 0x89, 0x05, 0xeb, 0xe2, //
        // LOAD_LOCAL: in ax, COMMAND_PORT; mov di, ax; mov eax, es:[di]; out RESULT_PORT, eax; jmp START
        0xe5, 0x74, 0x89, 0xc7, 0x66, 0x26, 0x8b, 0x05, 0x66, 0xe7, 0x76, 0xeb, 0xd5, //
        // LOAD_IOAPIC
        0xe5, 0x74, 0x89, 0xc7, 0x66, 0x64, 0x8b, 0x05, 0x66, 0xe7, 0x76, 0xeb, 0xc8, //
        // TAKE: mov sp, 0x4800; sti; hlt
        0xbc, 0x00, 0x48, 0xfb, 0xf4, //
        // END: mov dword es:[0xb0], 0; jmp START
        0x66, 0x26, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, 0xeb, 0xb7,
    ];
    let mut guest = Guest::new(hypervisor, &Program::new().code_only(&code));
    apics::prepare(&mut guest);
    handlers_that_do_not_return(&guest, back);
    let pin = |gsi, pin| Route::Irqchip { gsi: Gsi(gsi), chip: 2, pin };
    let message = |gsi, address, data| Route::Msi { gsi: Gsi(gsi), address, data };
    let routes = [
        pin(3, 3),
        pin(9, 9),
        pin(16, 16),
        pin(23, 23),
        message(30, 0xfee0_0000, 0x44),
        message(31, 0xfee0_1004, 0x8152),
        message(32, 0xfeef_f00c, 0x45),
    ];
    guest.vm.set_routing(&routes).unwrap();
    assert_eq!(command(&mut *guest.vcpu, &[]), None);
    guest
}

fn happens(guest: &mut Guest, event: &Event) -> Option<u32> {
    let vcpu = &mut *guest.vcpu;
    let mut ioapic = |register: u8, value: u32| {
        command(vcpu, &[STORE_IOAPIC, 0, register.into()]);
        command(vcpu, &[STORE_IOAPIC, 0x10, value])
    };
    match *event {
        Event::Line(gsi, level) => {
            guest.vm.set_irq(Gsi(gsi), level).unwrap();
            None
        }
        Event::Redirect(pin, entry) => {
            ioapic(0x11 + 2 * pin, (entry >> 32) as u32);
            ioapic(0x10 + 2 * pin, entry as u32)
        }
        Event::Ioapic(register, value) => ioapic(register, value),
        Event::Local(offset, value) => command(vcpu, &[STORE_LOCAL, offset.into(), value]),
        Event::ReadIoapic(register) => {
            command(vcpu, &[STORE_IOAPIC, 0, register.into()]);
            command(vcpu, &[LOAD_IOAPIC, 0x10])
        }
        Event::ReadLocal(offset) => command(vcpu, &[LOAD_LOCAL, offset.into()]),
        Event::Take => command(vcpu, &[TAKE]),
        Event::Accept => {
            let vector = most_urgent(&vcpu.lapic().unwrap(), register::REQUESTED).unwrap();
            accept(vcpu, vector);
            Some(vector as u32)
        }
    }
}

/// Moves a vector from those requested to those in service.
fn accept(vcpu: &mut dyn Vcpu, vector: usize) {
    let mut lapic = vcpu.lapic().unwrap();
    let (byte, bit) = (vector / 32 * 16 + vector % 32 / 8, 1 << (vector % 8));
    let bytes = lapic.regs.as_mut_bytes();
    bytes[usize::from(register::REQUESTED) + byte] &= !bit;
    bytes[usize::from(register::IN_SERVICE) + byte] |= bit;
    vcpu.set_lapic(&lapic).unwrap();
}

fn word(lapic: &kvm_lapic_state, offset: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| lapic.regs[offset + byte].cast_unsigned()))
}

/// What the two differ in, by the words of the IOAPIC's state and by the offsets of the local APIC's registers. The
/// processor's priority is not looked at: KVM brings it up to date only when it is asked for or takes part in
/// something.
fn differences(mock: &Guest, real: &Guest) -> Vec<String> {
    let ioapic = |guest: &Guest| {
        let state = guest.vm.ioapic().unwrap();
        let words = state.as_bytes().chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        words.enumerate().map(|(index, word)| (format!("IOAPIC {index}"), word)).collect::<Vec<_>>()
    };
    let local = |guest: &Guest| {
        let lapic = guest.vcpu.lapic().unwrap();
        let offsets = (0..0x400).step_by(0x10).filter(|&offset| offset != usize::from(register::PROCESSOR_PRIORITY));
        offsets.map(|offset| (format!("local {offset:#x}"), word(&lapic, offset))).collect()
    };
    let all = |guest: &Guest| [ioapic(guest), local(guest)].concat();
    let pairs = all(mock).into_iter().zip(all(real));
    let differ = pairs.filter(|((_, mock), (_, real))| mock != real);
    differ.map(|((what, mock), (_, real))| format!("{what}: {mock:#x}, on KVM {real:#x}")).collect()
}

/// All lines low, the IOAPIC as after reset, the local APIC too, but that it takes vectors.
fn start_anew(guest: &mut Guest, ioapic: &kvm_ioapic_state, lapic: &kvm_lapic_state) {
    for gsi in LINES {
        guest.vm.set_irq(Gsi(gsi), false).unwrap();
    }
    guest.vm.set_ioapic(ioapic).unwrap();
    let mut ready = *lapic;
    ready.regs[usize::from(register::SPURIOUS) + 1] = 1;
    guest.vcpu.set_lapic(&ready).unwrap();
}

/// The vector that goes before all others of an array.
fn most_urgent(lapic: &kvm_lapic_state, array: u16) -> Option<usize> {
    (0..256).rev().find(|&vector| has(lapic, array, vector))
}

fn has(lapic: &kvm_lapic_state, array: u16, vector: usize) -> bool {
    word(lapic, usize::from(array) + vector / 32 * 16) >> (vector % 32) & 1 == 1
}

/// Whether a vector is requested that goes before the task's priority and what is in service.
fn surely_asks(guest: &Guest) -> bool {
    let lapic = guest.vcpu.lapic().unwrap();
    let task = word(&lapic, register::TASK_PRIORITY.into()) as usize;
    let priority = task.max(most_urgent(&lapic, register::IN_SERVICE).unwrap_or(0));
    most_urgent(&lapic, register::REQUESTED).is_some_and(|vector| vector >> 4 > priority >> 4)
}

/// Whether the interrupt of a pin is under way. Then its entry stays: KVM may not notice that the interrupt is no more
/// the pin's when it changes.
fn is_under_way(guest: &Guest, pin: u8) -> bool {
    let entry = guest.vm.ioapic().unwrap().redirtbl[usize::from(pin)];
    let (lapic, vector) = (guest.vcpu.lapic().unwrap(), entry.as_bytes()[0].into());
    [register::REQUESTED, register::IN_SERVICE].into_iter().any(|array| has(&lapic, array, vector))
}

/// Whether this backend has ended an interrupt when it delivers it.
fn ends_early(hypervisor: &dyn Hypervisor) -> bool {
    let mut guest = commanded(hypervisor, START);
    let mut lapic = guest.vcpu.lapic().unwrap();
    lapic.regs[usize::from(register::SPURIOUS) + 1] = 1;
    guest.vcpu.set_lapic(&lapic).unwrap();
    let vector = VECTORS[1];
    happens(&mut guest, &Event::Redirect(3, vector.into()));
    happens(&mut guest, &Event::Line(3, true));
    assert_eq!(happens(&mut guest, &Event::Take), Some(vector.into()));
    !has(&guest.vcpu.lapic().unwrap(), register::IN_SERVICE, vector.into())
}

fn entries() -> impl Strategy<Value = u64> {
    let vector = prop::sample::select(VECTORS.to_vec());
    // Fixed, lowest priority, ExtINT; the vCPU, nobody, all, and some logical ones.
    let mode = prop::sample::select(vec![0_u64, 0, 0, 0x100, 0x700]);
    let destination = prop::sample::select(vec![0_u64, 0, 0, 1, 7, 0x12, 0xff]);
    let flags =
        prop::sample::select(vec![0, entry::BY_LEVEL, entry::BY_LEVEL, entry::MASKED, entry::MASKED | entry::BY_LEVEL]);
    (vector, mode, destination, flags).prop_map(|(vector, mode, to, flags)| u64::from(vector) | mode | flags | to << 56)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let pin = prop::sample::select(vec![3, LOGICAL_PIN, 16, 23]);
    let command = (prop::sample::select(COMMANDS.to_vec()), any::<bool>())
        .prop_map(|(vector, by_level)| 0x4_4000 | u32::from(vector) | if by_level { 0x8000 } else { 0 });
    let local = prop_oneof![
        3 => any::<u32>().prop_map(|value| (register::TASK_PRIORITY, value)),
        1 => any::<bool>().prop_map(|is_on| (register::SPURIOUS, if is_on { 0x1ff } else { 0xff })),
        // Others, KVM does not keep in its table, and then takes for accepted what nobody takes.
        1 => prop::sample::select(vec![0, 1, 2, 0x40]).prop_map(|id| (register::LOGICAL_ID, id << 24)),
        1 => prop::sample::select(vec![0, u32::MAX]).prop_map(|format| (register::LOGICAL_FORMAT, format)),
        1 => any::<u32>().prop_map(|value| (register::LINT1, value)),
        6 => Just((register::END, 0)),
        3 => command.prop_map(|command| (register::COMMAND, command)),
    ];
    let read = prop::sample::select(vec![
        register::TASK_PRIORITY,
        register::PROCESSOR_PRIORITY,
        register::LOGICAL_ID,
        register::LOGICAL_FORMAT,
        register::SPURIOUS,
        register::IN_SERVICE,
        register::REQUESTED,
        register::COMMAND,
        register::LINT0,
        register::LINT1,
    ]);
    let event = prop_oneof![
        6 => (prop::sample::select(LINES.to_vec()), any::<bool>()).prop_map(|(gsi, level)| Event::Line(gsi, level)),
        4 => (pin, entries()).prop_map(|(pin, entry)| {
            Event::Redirect(pin, if pin == LOGICAL_PIN { entry | entry::LOGICAL } else { entry })
        }),
        1 => any::<u32>().prop_map(|value| Event::Ioapic(0, value)),
        5 => local.prop_map(|(offset, value)| Event::Local(offset, value)),
        1 => (0..0x42_u8).prop_map(Event::ReadIoapic),
        1 => read.prop_map(Event::ReadLocal),
        3 => Just(Event::Take),
        4 => Just(Event::Accept),
    ];
    prop::collection::vec(event, 1..32)
}

/// Runs schedules on both guests; where `accepts`, the second is given what the first takes.
fn assert_same_after_any_schedule(guests: [Guest; 2], accepts: bool) {
    let (ioapic, lapic) = (guests[0].vm.ioapic().unwrap(), guests[0].vcpu.lapic().unwrap());
    let (guests, ends) = (RefCell::new(guests), Cell::new(0));
    runner()
        .run(&events(), |events| {
            let [mock, other] = &mut *guests.borrow_mut();
            start_anew(mock, &ioapic, &lapic);
            start_anew(other, &ioapic, &lapic);
            for event in &events {
                let is_meant = match *event {
                    Event::Take | Event::Accept => surely_asks(mock),
                    Event::Redirect(pin, _) => !is_under_way(mock, pin),
                    _ => true,
                };
                if !is_meant {
                    continue;
                }
                let in_service = most_urgent(&mock.vcpu.lapic().unwrap(), register::IN_SERVICE);
                if matches!(event, Event::Local(register::END, _)) && in_service.is_some() {
                    ends.set(ends.get() + 1);
                }
                let others = if accepts && matches!(event, Event::Take) { &Event::Accept } else { event };
                prop_assert_eq!(happens(mock, event), happens(other, others), "{:?}", event);
                let differences = differences(mock, other);
                prop_assert!(differences.is_empty(), "after {:?}: {:?}", event, differences);
            }
            Ok(())
        })
        .unwrap();
    println!("{} interrupts were ended as events of their own", ends.get());
    assert!(ends.get() > 0);
}

#[test]
fn any_schedule_leaves_the_same_apics_on_mock_and_kvm() {
    let Some(kvm) = kvm_or_skip("schedules::any_schedule_leaves_the_same_apics_on_mock_and_kvm") else { return };
    let mocks = if ends_early(&kvm) { END } else { START };
    assert_same_after_any_schedule([commanded(&Mock::guest_code(), mocks), commanded(&kvm, START)], false);
}

#[test]
fn what_the_mock_takes_is_as_if_it_was_set_in_service() {
    let mock = Mock::guest_code();
    assert!(!ends_early(&mock));
    assert_same_after_any_schedule([commanded(&mock, START), commanded(&mock, START)], true);
}
