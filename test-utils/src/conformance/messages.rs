//! Interrupts between local APICs, and those that come as messages: who takes them, and what they do.

use hypervisor::{AddressSpace, Gsi, Route, Vcpu, VcpuId, Vm};
use kvm_bindings::KVM_MP_STATE_UNINITIALIZED;

use super::apics::{HALT, apic_guest, has, reaches, takes};
use super::*;
use crate::guest::apics::{self, entry, register};
use crate::guest::{RAM_START, interrupts};
use crate::kvm::skipped;
use crate::memory;

/// A GSI that no chip has.
const GSI: Gsi = Gsi(30);
/// Where messages go.
const ADDRESS: u64 = 0xfee0_0000;
/// In an address: the destination is logical.
const LOGICAL: u64 = 4;
/// In data: one of those it is for alone, and a non-maskable interrupt.
const LOWEST: u32 = 1 << 8;
const NMI: u32 = 4 << 8;
/// In a command: the sender, all, and all but the sender.
const ITSELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;

/// Routes `GSI` to this message alone, and sends it.
fn send(vm: &dyn Vm, address: u64, data: u32) {
    vm.set_routing(&[Route::Msi { gsi: GSI, address, data }]).expect("set_routing");
    vm.set_irq(GSI, true).expect("set_irq");
    vm.set_irq(GSI, false).expect("set_irq");
}

/// vCPU 1, whose local APIC takes vectors. The logical ids of the two are 1 and 2.
fn second(vm: &dyn Vm, first: &mut dyn Vcpu) -> Box<dyn Vcpu> {
    let mut second = vm.create_vcpu(VcpuId(1)).expect("create_vcpu");
    for (vcpu, logical) in [(first, 1), (&mut *second, 2)] {
        let mut lapic = vcpu.lapic().expect("lapic");
        lapic.regs[usize::from(register::SPURIOUS) + 1] = 1;
        lapic.regs[usize::from(register::LOGICAL_ID) + 3] = logical;
        vcpu.set_lapic(&lapic).expect("set_lapic");
    }
    second
}

/// Which of the two a vector is requested from.
fn requested(vcpus: [&dyn Vcpu; 2], vector: u8) -> [bool; 2] {
    vcpus.map(|vcpu| has(vcpu, register::REQUESTED, vector))
}

/// By a line, each time it is raised, and by an irqfd.
pub fn a_message_is_an_interrupt(make: Make) {
    let round = |program: Program| program.code_only(HALT).local(register::END, 0);
    let program = round(round(round(apics::ready().output(PORT, 1)))).output(PORT, 1);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program);
    vm.set_routing(&[Route::Msi { gsi: GSI, address: ADDRESS, data: 0x41 }]).expect("set_routing");
    for _ in 0..2 {
        vm.set_irq(GSI, true).expect("set_irq");
        takes(&mut *vcpu, 0x41);
    }
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(GSI, &trigger, &resample).expect("register_irqfd");
    trigger.write(1).expect("write");
    takes(&mut *vcpu, 0x41);
    reaches(&mut *vcpu);
    assert!(resample.read().is_err(), "a message has no end");
}

/// By their ids, physical and logical, or one alone.
pub fn messages_find_their_local_apics(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, apics::ready());
    let other = second(&*vm, &mut *vcpu);
    for (destination, logical, data, expected) in [
        (0, 0, 0x40, [true, false]),
        (1, 0, 0x41, [false, true]),
        (7, 0, 0x42, [false, false]),
        (0xff, 0, 0x43, [true, true]),
        (1, LOGICAL, 0x44, [true, false]),
        (2, LOGICAL, 0x45, [false, true]),
        (7, LOGICAL, 0x46, [true, true]),
        (4, LOGICAL, 0x47, [false, false]),
        (0xff, LOGICAL, 0x48, [true, true]),
        (1, 0, 0x49 | LOWEST, [false, true]),
        (4, LOGICAL, 0x4a | LOWEST, [false, false]),
        (2, LOGICAL, 0x4b | LOWEST, [false, true]),
    ] {
        send(&*vm, ADDRESS | destination << 12 | logical, data);
        assert_eq!(requested([&*vcpu, &*other], data as u8), expected, "{data:#x} to {destination}");
    }
    for vector in 0x60..0x64 {
        send(&*vm, ADDRESS | 3 << 12 | LOGICAL, vector | LOWEST);
        let requested = requested([&*vcpu, &*other], vector as u8);
        assert_eq!(requested.into_iter().filter(|&is_requested| is_requested).count(), 1, "{vector:#x}");
    }
}

/// The upper four bits are the cluster's number.
pub fn logical_ids_may_be_in_clusters(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, apics::ready());
    let mut other = second(&*vm, &mut *vcpu);
    for (vcpu, id) in [(&mut vcpu, 0x21), (&mut other, 0x31)] {
        let mut lapic = vcpu.lapic().expect("lapic");
        lapic.regs[usize::from(register::LOGICAL_FORMAT) + 3] = 0x0f;
        lapic.regs[usize::from(register::LOGICAL_ID) + 3] = id;
        vcpu.set_lapic(&lapic).expect("set_lapic");
    }
    for (destination, vector, expected) in [
        (0x21, 0x41, [true, false]),
        (0x33, 0x42, [false, true]),
        (0x32, 0x43, [false, false]),
        (0x11, 0x44, [false; 2]),
    ] {
        send(&*vm, ADDRESS | destination << 12 | LOGICAL, vector);
        assert_eq!(requested([&*vcpu, &*other], vector as u8), expected, "{destination:#x}");
    }
}

/// From a pin and by a message, whether the guest lets interrupts in or not.
pub fn a_non_maskable_interrupt_is_not_kept_away(make: Make) {
    let program = apics::ready().redirect(5, entry::NMI).output(PORT, 1).output(PORT, 1).code_only(&[0xf4]);
    let (Guest { vm, mut vcpu, .. }, _) = apic_guest!(make, program.output(PORT, 1));
    vm.set_irq(Gsi(5), true).expect("set_irq");
    takes(&mut *vcpu, 2);
    reaches(&mut *vcpu);
    send(&*vm, ADDRESS, NMI);
    takes(&mut *vcpu, 2);
    // Which came before the halt, or ended it.
    vcpu.set_mp_state(&hypervisor::kvm_mp_state { mp_state: 0 }).expect("set_mp_state");
}

/// It is handled behind the first's `iret`.
pub fn a_non_maskable_interrupt_waits_for_the_one_before(make: Make) {
    const CASE: &str = "a_non_maskable_interrupt_waits_for_the_one_before";
    let (Guest { vm, mut vcpu, .. }, is_kvm) = apic_guest!(make, apics::ready().output(PORT, 1).output(PORT, 1));
    send(&*vm, ADDRESS, NMI);
    takes(&mut *vcpu, 2);
    for _ in 0..2 {
        send(&*vm, ADDRESS, NMI);
    }
    let events = vcpu.vcpu_events().expect("vcpu_events");
    assert_eq!((events.nmi.masked, events.nmi.pending), (1, 1), "no more than one waits");
    let next = access(&mut *vcpu).address();
    if is_kvm && next == u64::from(PORT) {
        skipped(CASE, &"this KVM's emulator does not let the next NMI in at `iret`");
        return;
    }
    assert_eq!((next, vcpu.access_data()), (interrupts::HANDLER_PORT.into(), &[2][..]));
    reaches(&mut *vcpu);
    assert_eq!(vcpu.vcpu_events().expect("vcpu_events").nmi.masked, 0);
}

/// To one, to all, to itself or to all but itself.
pub fn a_command_interrupts_others(make: Make) {
    let commands = [
        (0, 0x4040, [true, false]),
        (1 << 24, 0x4041, [false, true]),
        (0, 0x4042 | ITSELF, [true, false]),
        (0, 0x4043 | ALL, [true, true]),
        (0, 0x4044 | OTHERS, [false, true]),
        (3 << 24, 0x4845, [true, true]),
        (0xff << 24, 0x4046, [true, true]),
    ];
    let program = commands.iter().fold(apics::ready().output(PORT, 1), |program, &(high, low, _)| {
        program.local(register::COMMAND_HIGH, high).local(register::COMMAND, low).output(PORT, 1)
    });
    let (Guest { vm, mut vcpu, .. }, _) =
        apic_guest!(make, program.local(register::COMMAND, NMI | 0x4000 | OTHERS).output(PORT, 1));
    let other = second(&*vm, &mut *vcpu);
    for (_, low, expected) in commands {
        reaches(&mut *vcpu);
        assert_eq!(requested([&*vcpu, &*other], low as u8), expected, "{low:#x}");
    }
    reaches(&mut *vcpu);
    assert_eq!(other.vcpu_events().expect("vcpu_events").nmi.pending, 1);
    assert_eq!(vcpu.vcpu_events().expect("vcpu_events").nmi.pending, 0);
}

/// By INIT and a start-up interrupt, which names the page that it begins at.
pub fn a_vcpu_starts_another(make: Make) {
    const CASE: &str = "a_vcpu_starts_another";
    const INIT: u32 = 0x4500;
    const START: u32 = 0x4600;
    const PAGE: u32 = 4;
    let program = apics::ready().output(PORT, 1).local(register::COMMAND_HIGH, 1 << 24).local(register::COMMAND, INIT);
    let program = program.output(PORT, 1).local(register::COMMAND, START | PAGE).output(PORT, 1);
    let (Guest { vm, mut vcpu, ram }, is_kvm) = apic_guest!(make, program);
    // mov al, 0x5a; out OTHER_PORT, al
    memory::write_at(&ram, u64::from(PAGE << 12) - RAM_START, &[0xb0, 0x5a, 0xe6, OTHER_PORT as u8]);
    let mut other = vm.create_vcpu(VcpuId(1)).expect("create_vcpu");
    reaches(&mut *vcpu);
    if is_kvm && other.mp_state().expect("mp_state").mp_state == KVM_MP_STATE_UNINITIALIZED {
        skipped(CASE, &"this KVM leaves a vCPU as it is that gets INIT");
        return;
    }
    reaches(&mut *vcpu);
    expect_write(&mut *other, AddressSpace::Pio, OTHER_PORT.into(), &[0x5a]);
    let sregs = other.sregs().expect("sregs");
    assert_eq!((sregs.cs.base, sregs.cs.selector), (u64::from(PAGE) << 12, (PAGE << 8) as u16));
}
