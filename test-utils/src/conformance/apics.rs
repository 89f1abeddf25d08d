//! Interrupts that the guest takes from its local APIC: those of the IOAPIC's pins.
//!
//! What is said in [`interrupts`](super::interrupts) about `sti` holds here too.

use hypervisor::{AddressSpace, Gsi, Vcpu, Vm, kvm_lapic_state};
use zerocopy::IntoBytes;

use super::*;
use crate::guest::apics::{self, entry, register};
use crate::guest::interrupts;
use crate::kvm::skipped;

pub(super) const LINE: Gsi = Gsi(5);
pub(super) const PIN: u8 = 5;
const OTHER: Gsi = Gsi(17);
const OTHER_PIN: u8 = 17;

/// `sti`
pub(super) const STI: &[u8] = &[0xfb];
/// `sti; hlt; cli`
pub(super) const HALT: &[u8] = &[0xfb, 0xf4, 0xfa];

/// A guest with a vector table that has reached the first exit of its program, at PORT; and whether it is KVM's.
macro_rules! apic_guest {
    ($make:expr, $program:expr) => {{
        let program = $program;
        let Some(hypervisor) = $make(&program) else { return };
        let mut guest = Guest::new(&*hypervisor, &program);
        apics::prepare(&mut guest);
        reaches(&mut *guest.vcpu);
        (guest, hypervisor.name() == "kvm")
    }};
}
pub(super) use apic_guest;

/// The guest's next exit is that at PORT.
pub(super) fn reaches(vcpu: &mut dyn Vcpu) {
    assert_eq!(access(vcpu).address(), u64::from(PORT));
}

/// The guest's next exit is that of the handler of this vector.
pub(super) fn takes(vcpu: &mut dyn Vcpu, vector: u8) {
    expect_write(vcpu, AddressSpace::Pio, interrupts::HANDLER_PORT.into(), &[vector]);
}

pub(super) fn local(lapic: &kvm_lapic_state, offset: u16) -> u32 {
    apics::word(lapic, offset)
}

/// Whether a vector's bit is set in an array of the local APIC's.
pub(super) fn has(vcpu: &dyn Vcpu, array: u16, vector: u8) -> bool {
    let lapic = vcpu.lapic().expect("lapic");
    local(&lapic, array + 16 * u16::from(vector / 32)) >> (vector % 32) & 1 == 1
}

/// The entry of a pin.
pub(super) fn redirection(vm: &dyn Vm, pin: u8) -> u64 {
    let state = vm.ioapic().expect("ioapic");
    let bytes = state.redirtbl[usize::from(pin)].as_bytes().try_into().expect("8 bytes");
    u64::from_le_bytes(bytes)
}

/// Whether KVM has ended the interrupt that a guest has just taken. Then `case` is skipped.
pub(super) fn ends_early(is_kvm: bool, vcpu: &dyn Vcpu, vector: u8, case: &str) -> bool {
    let ends = is_kvm && !has(vcpu, register::IN_SERVICE, vector);
    if ends {
        skipped(case, &"this KVM ends an interrupt of the local APIC as it delivers it");
    }
    ends
}

/// No exit, and what they say.
pub fn the_pages_of_the_apics_do_not_exit(make: Make) {
    let locals = [
        (register::ID, 0),
        (register::VERSION, 0x5_0014),
        (register::LOGICAL_ID, 0),
        (register::LOGICAL_FORMAT, u32::MAX),
        (register::SPURIOUS, 0x1ff),
        (register::LINT0, 0x700),
        (register::LINT1, 0x1_0000),
        (register::REQUESTED, 0),
    ];
    let program = apics::ready().output(PORT, 1);
    let program = locals.iter().fold(program, |program, &(offset, _)| program.local_read(offset).output(PORT, 4));
    let ioapics = [(0, 0), (1, 0x17_0011), (2, 0), (0x10, 0x1_0000), (0x3e, 0x1_0000), (0x3f, 0), (0x40, u32::MAX)];
    let program = ioapics.iter().fold(program, |program, &(register, _)| program.ioapic_read(register).output(PORT, 4));
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, program);
    for (offset, value) in locals {
        let _ = access(&mut *vcpu);
        tells_now(&*vcpu, value, offset.into());
    }
    for (register, value) in ioapics {
        let _ = access(&mut *vcpu);
        tells_now(&*vcpu, value, register.into());
    }
}

fn tells_now(vcpu: &dyn Vcpu, value: u32, register: u32) {
    assert_eq!(vcpu.access_data(), value.to_le_bytes(), "register {register:#x}");
}

/// Bits that nobody has are not kept, nor what the APICs tell by themselves.
pub fn registers_of_the_apics_keep_what_they_have(make: Make) {
    let locals = [
        (register::TASK_PRIORITY, 0x1234, 0x34),
        (register::LOGICAL_ID, 0x1234_5678, 0x1200_0000),
        (register::LOGICAL_FORMAT, 0, 0x0fff_ffff),
        (register::COMMAND_HIGH, 0x1234_5678, 0x1200_0000),
        (register::VERSION, 7, 0x5_0014),
        (register::PROCESSOR_PRIORITY, 7, 0x34),
        (register::LINT1, u32::MAX, 0x1_f7ff),
        (register::LINT0, 0x1_0000, 0x1_0000),
        // Turned off by software, all local vectors are masked and stay so.
        (register::SPURIOUS, 0x0ff, 0x0ff),
        (register::LINT1, 0x33, 0x1_0033),
    ];
    let program = locals.iter().fold(apics::ready().output(PORT, 1), |program, &(offset, value, _)| {
        program.local(offset, value).local_read(offset).output(PORT, 4)
    });
    let ioapics =
        [(0, u32::MAX, 0x0f00_0000), (1, 7, 0x17_0011), (0x1b, 0x1234_5678, 0x1234_5678), (0x1a, 0x1_ffff, 0x1_afff)];
    let program = ioapics.iter().fold(program, |program, &(register, value, _)| {
        program.ioapic(register, value).ioapic_read(register).output(PORT, 4)
    });
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, program);
    for (offset, _, value) in locals {
        let _ = access(&mut *vcpu);
        tells_now(&*vcpu, value, offset.into());
    }
    for (register, _, value) in ioapics {
        let _ = access(&mut *vcpu);
        tells_now(&*vcpu, value, register.into());
    }
}

/// However long the line is high.
pub fn an_edge_at_the_ioapic_is_one_interrupt(make: Make) {
    let program = apics::ready().redirect(PIN, 0x41).output(PORT, 1).code_only(HALT).local(register::END, 0);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program.code_only(STI).output(PORT, 1));
    vm.set_irq(LINE, true).expect("set_irq");
    assert!(has(&*vcpu, register::REQUESTED, 0x41));
    assert_eq!(vm.ioapic().expect("ioapic").irr, 0, "it was sent");
    takes(&mut *vcpu, 0x41);
    reaches(&mut *vcpu);
    assert_eq!(redirection(&*vm, PIN), 0x41);
}

/// Its end lets it in again.
pub fn a_level_at_the_ioapic_interrupts_until_it_is_low(make: Make) {
    let round = |program: Program| program.code_only(HALT).local(register::END, 0);
    let program = round(round(apics::ready().redirect(PIN, entry::BY_LEVEL | 0x41).output(PORT, 1)));
    let (Guest { vm, mut vcpu, .. }, is_kvm) = apic_guest!(make, program.code_only(STI).output(PORT, 1));
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | entry::REMOTE_REQUEST | 0x41);
    takes(&mut *vcpu, 0x41);
    if ends_early(is_kvm, &*vcpu, 0x41, "a_level_at_the_ioapic_interrupts_until_it_is_low") {
        return;
    }
    takes(&mut *vcpu, 0x41);
    vm.set_irq(LINE, false).expect("set_irq");
    assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | entry::REMOTE_REQUEST | 0x41, "it has not ended");
    reaches(&mut *vcpu);
    assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | 0x41);
}

/// A pin that is triggered by level waits, and an edge is lost.
pub fn behind_a_mask_of_the_ioapic_a_level_waits_and_an_edge_is_lost(make: Make) {
    let masked = apics::ready().redirect(PIN, entry::MASKED | entry::BY_LEVEL | 0x41).redirect(OTHER_PIN, 0x1_0042);
    let program = masked.output(PORT, 1).code_only(STI).output(PORT, 1).code_only(&[0xfa]);
    let opened = program.redirect(OTHER_PIN, 0x42).redirect(PIN, entry::BY_LEVEL | 0x41);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, opened.output(PORT, 1).code_only(HALT));
    for gsi in [LINE, OTHER] {
        vm.set_irq(gsi, true).expect("set_irq");
    }
    assert_eq!(vm.ioapic().expect("ioapic").irr, 1 << PIN | 1 << OTHER_PIN);
    reaches(&mut *vcpu);
    reaches(&mut *vcpu);
    assert_eq!([0x41, 0x42].map(|vector| has(&*vcpu, register::REQUESTED, vector)), [true, false]);
    takes(&mut *vcpu, 0x41);
}

/// The highest first.
pub fn vectors_come_by_their_number(make: Make) {
    let round = |program: Program| program.code_only(HALT).local(register::END, 0);
    let redirected = apics::ready().redirect(PIN, 0x41).redirect(OTHER_PIN, 0x91).redirect(6, 0x42);
    let (Guest { vm, mut vcpu, .. }, _) =
        apic_guest!(make, round(round(round(redirected.output(PORT, 1)))).output(PORT, 1));
    for gsi in [LINE, OTHER, Gsi(6)] {
        vm.set_irq(gsi, true).expect("set_irq");
    }
    for vector in [0x91, 0x42, 0x41] {
        takes(&mut *vcpu, vector);
    }
    reaches(&mut *vcpu);
}

/// Vectors of its class and below.
pub fn the_task_priority_keeps_interrupts_away(make: Make) {
    let redirected = apics::ready().redirect(PIN, 0x41).redirect(OTHER_PIN, 0x51).local(register::TASK_PRIORITY, 0x4f);
    let program = redirected.output(PORT, 1).code_only(STI).output(PORT, 1).local(register::END, 0).output(PORT, 1);
    let program = program.code_only(&[0xfa]).local(register::TASK_PRIORITY, 0x3f);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program.code_only(HALT));
    vm.set_irq(LINE, true).expect("set_irq");
    reaches(&mut *vcpu);
    vm.set_irq(OTHER, true).expect("set_irq");
    takes(&mut *vcpu, 0x51);
    reaches(&mut *vcpu);
    takes(&mut *vcpu, 0x41);
}

/// As the task's priority does; a higher class comes in between.
pub fn an_interrupt_in_service_keeps_away_its_class(make: Make) {
    let redirected = apics::ready().redirect(PIN, 0x42).redirect(OTHER_PIN, 0x51).redirect(6, 0x4f);
    let program = redirected.output(PORT, 1).code_only(HALT).code_only(STI).output(PORT, 1);
    // Both end, the higher first.
    let program = program.local(register::END, 0).output(PORT, 1).local(register::END, 0).output(PORT, 1);
    let (Guest { vm, mut vcpu, .. }, is_kvm) = apic_guest!(make, program);
    vm.set_irq(LINE, true).expect("set_irq");
    takes(&mut *vcpu, 0x42);
    if ends_early(is_kvm, &*vcpu, 0x42, "an_interrupt_in_service_keeps_away_its_class") {
        return;
    }
    assert_eq!(local(&vcpu.lapic().expect("lapic"), register::PROCESSOR_PRIORITY), 0x40);
    vm.set_irq(Gsi(6), true).expect("set_irq");
    reaches(&mut *vcpu);
    vm.set_irq(OTHER, true).expect("set_irq");
    takes(&mut *vcpu, 0x51);
    assert_eq!(local(&vcpu.lapic().expect("lapic"), register::PROCESSOR_PRIORITY), 0x50);
    reaches(&mut *vcpu);
    takes(&mut *vcpu, 0x4f);
    reaches(&mut *vcpu);
}

/// Trigger, interrupt, end, resample, and again.
pub fn an_irqfd_at_the_ioapic_interrupts_again_after_its_interrupt_has_ended(make: Make) {
    let round = |program: Program| program.code_only(HALT).local(register::END, 0).output(PORT, 1);
    let program = round(round(apics::ready().redirect(PIN, entry::BY_LEVEL | 0x41).output(PORT, 1)));
    let (Guest { vm, mut vcpu, .. }, is_kvm) = apic_guest!(make, program);
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    for _ in 0..2 {
        trigger.write(1).expect("write");
        takes(&mut *vcpu, 0x41);
        if ends_early(is_kvm, &*vcpu, 0x41, "an_irqfd_at_the_ioapic_interrupts_again_after_its_interrupt_has_ended") {
            return;
        }
        assert!(resample.read().is_err(), "it has not ended yet");
        reaches(&mut *vcpu);
        assert_eq!(resample.read().expect("a signal"), 1);
        assert_eq!(vm.ioapic().expect("ioapic").irr, 0);
        assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | 0x41);
    }
}

/// The device that holds the line high may have let go of it meanwhile.
pub fn an_irqfd_is_asked_again_when_the_mask_is_taken_away(make: Make) {
    let program = apics::ready().redirect(PIN, entry::MASKED | entry::BY_LEVEL | 0x41).output(PORT, 1);
    let program = program.redirect(PIN, entry::BY_LEVEL | 0x41).output(PORT, 1).code_only(HALT);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program);
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    trigger.write(1).expect("write");
    crate::wait::until("the line is high", || vm.ioapic().expect("ioapic").irr != 0);
    assert!(resample.read().is_err());
    reaches(&mut *vcpu);
    assert_eq!(resample.read().expect("a signal"), 1);
    assert!(!has(&*vcpu, register::REQUESTED, 0x41), "the answer is awaited");
    assert_eq!(vm.ioapic().expect("ioapic").irr, 0);
    trigger.write(1).expect("write");
    takes(&mut *vcpu, 0x41);
}

/// A pin's message to a local APIC that nobody has, or that does not take it, is not under way.
pub fn a_level_that_nobody_takes_is_not_under_way(make: Make) {
    let nobody = 7 << 56 | entry::BY_LEVEL | 0x41;
    let program = apics::ready().redirect(PIN, nobody).output(PORT, 1).local(register::SPURIOUS, 0xff);
    let program = program.redirect(PIN, entry::BY_LEVEL | 0x41).output(PORT, 1).local(register::SPURIOUS, 0x1ff);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program.output(PORT, 1));
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(redirection(&*vm, PIN), nobody);
    reaches(&mut *vcpu);
    assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | 0x41, "software has turned it off");
    reaches(&mut *vcpu);
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(redirection(&*vm, PIN), entry::BY_LEVEL | entry::REMOTE_REQUEST | 0x41);
}

/// If LINT0 lets them through.
pub fn the_pics_go_before_the_local_apic(make: Make) {
    // mov al, 0xdf; out 0x21, al: pin 5 of the first PIC is open, whose vectors begin at 0 as they do after reset.
    let program = apics::ready().code_only(&[0xb0, 0xdf, 0xe6, 0x21]).redirect(PIN, 0xf1).output(PORT, 1);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program.code_only(HALT).code_only(HALT));
    vm.set_irq(LINE, true).expect("set_irq");
    takes(&mut *vcpu, 5);
    takes(&mut *vcpu, 0xf1);
}

/// As if its pins had risen.
pub fn an_ioapic_that_is_set_sends_what_is_high(make: Make) {
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, apics::ready().output(PORT, 1).code_only(HALT));
    let mut state = vm.ioapic().expect("ioapic");
    state.redirtbl[usize::from(PIN)].bits = 0x41;
    state.irr = 1 << PIN;
    vm.set_ioapic(&state).expect("set_ioapic");
    takes(&mut *vcpu, 0x41);
}

/// As if it had been sent.
pub fn a_vector_that_was_set_is_taken(make: Make) {
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, apics::ready().output(PORT, 1).code_only(HALT).output(PORT, 1));
    let mut lapic = vcpu.lapic().expect("lapic");
    lapic.regs[usize::from(register::REQUESTED) + 0x20] = 2;
    vcpu.set_lapic(&lapic).expect("set_lapic");
    takes(&mut *vcpu, 0x41);
    reaches(&mut *vcpu);
    assert!(!has(&*vcpu, register::REQUESTED, 0x41));
}
