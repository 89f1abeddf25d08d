//! Interrupts that the guest takes from the PICs, through its vector table.
//!
//! Under nested virtualization KVM may notice late that the guest's `sti` lets an interrupt in: with the next exit. So
//! where one is to be taken, the guest halts.

use std::thread;

use hypervisor::{AddressSpace, Gsi, Pic, Vcpu, Vm};

use super::*;
use crate::guest::interrupts;
use crate::kvm::skipped;
use crate::wait;

/// On the first PIC, and on the second.
const LINE: Gsi = Gsi(5);
const FAR_LINE: Gsi = Gsi(9);

/// `sti`
const STI: &[u8] = &[0xfb];
/// `sti; hlt; cli`: an interrupt that is pending already ends the halt, not what is before it.
const HALT: &[u8] = &[0xfb, 0xf4, 0xfa];
/// `mov al, 0x20; out 0x20, al`: the end of the first PIC's interrupt.
const END: &[u8] = &[0xb0, 0x20, 0xe6, 0x20];
/// `mov al, 0x20; out 0xa0, al`: of the second's.
const SECONDARY_END: &[u8] = &[0xb0, 0x20, 0xe6, 0xa0];
/// `mov al, 0x20; out 0x4d0, al`: line 5 is triggered by level.
const BY_LEVEL: &[u8] = &[0xb0, 0x20, 0xba, 0xd0, 0x04, 0xee];

/// A program that begins with the PICs ready, all pins open, interrupts off, and has said so.
fn ready() -> Program {
    interrupts::pics().output(PORT, 1)
}

/// A guest with a vector table, `ready`.
macro_rules! ready_guest {
    ($make:expr, $program:expr) => {{
        let mut guest = guest!($make, $program);
        interrupts::prepare(&mut guest);
        reaches(&mut *guest.vcpu);
        guest
    }};
}

/// The guest's next exit is that at PORT.
fn reaches(vcpu: &mut dyn Vcpu) {
    assert_eq!(access(vcpu).address(), u64::from(PORT));
}

/// The guest's next exit is that of the handler of this vector.
fn takes(vcpu: &mut dyn Vcpu, vector: u8) {
    expect_write(vcpu, AddressSpace::Pio, interrupts::HANDLER_PORT.into(), &[vector]);
}

fn pic(vm: &dyn Vm, which: Pic) -> hypervisor::kvm_pic_state {
    vm.pic(which).expect("pic")
}

/// An edge is one interrupt, however long the line is high.
pub fn an_edge_is_one_interrupt(make: Make) {
    let program = ready().code_only(HALT).code_only(END).code_only(STI).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    vm.set_irq(LINE, true).expect("set_irq");
    takes(&mut *vcpu, 0x25);
    let taken = pic(&*vm, Pic::Primary);
    assert_eq!((taken.irr, taken.isr), (0, 1 << 5));
    reaches(&mut *vcpu);
    assert_eq!(pic(&*vm, Pic::Primary).isr, 0);
}

/// A line that is triggered by level interrupts until it is low.
pub fn a_level_interrupts_until_it_is_low(make: Make) {
    let round = |program: Program| program.code_only(HALT).code_only(END);
    let program = round(round(ready().code_only(BY_LEVEL).output(PORT, 1))).code_only(STI).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    reaches(&mut *vcpu);
    vm.set_irq(LINE, true).expect("set_irq");
    takes(&mut *vcpu, 0x25);
    takes(&mut *vcpu, 0x25);
    vm.set_irq(LINE, false).expect("set_irq");
    reaches(&mut *vcpu);
}

/// A level that has gone before it was taken is no interrupt.
pub fn a_level_that_has_gone_is_no_interrupt(make: Make) {
    let Guest { vm, mut vcpu, .. } =
        ready_guest!(make, ready().code_only(BY_LEVEL).output(PORT, 1).code_only(STI).output(PORT, 1));
    reaches(&mut *vcpu);
    vm.set_irq(LINE, true).expect("set_irq");
    vm.set_irq(LINE, false).expect("set_irq");
    reaches(&mut *vcpu);
}

/// Nor is it lost.
pub fn a_masked_interrupt_waits(make: Make) {
    // mov al, 0xff; out 0x21, al; and, behind cli, the same with 0
    let (mask, open) = ([0xb0, 0xff, 0xe6, 0x21], [0xfa, 0xb0, 0, 0xe6, 0x21]);
    let masked = ready().code_only(&mask).code_only(STI).output(PORT, 1).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, masked.code_only(&open).code_only(HALT).output(PORT, 1));
    reaches(&mut *vcpu);
    vm.set_irq(LINE, true).expect("set_irq");
    reaches(&mut *vcpu);
    takes(&mut *vcpu, 0x25);
    reaches(&mut *vcpu);
}

/// The second PIC's go before the first's 3 to 7, and one in service keeps away those behind it.
pub fn interrupts_come_by_their_priority(make: Make) {
    let program = ready().code_only(HALT).output(PORT, 1).code_only(HALT).output(PORT, 1);
    // Ends that of line 1, and then those of the second PIC's.
    let program = program.code_only(END).code_only(SECONDARY_END).code_only(END).code_only(HALT).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    for gsi in [LINE, Gsi(3), FAR_LINE] {
        vm.set_irq(gsi, true).expect("set_irq");
    }
    takes(&mut *vcpu, 0x29);
    assert_eq!((pic(&*vm, Pic::Primary).isr, pic(&*vm, Pic::Secondary).isr), (1 << 2, 1 << 1));
    reaches(&mut *vcpu);
    vm.set_irq(Gsi(1), true).expect("set_irq");
    takes(&mut *vcpu, 0x21);
    assert_eq!(pic(&*vm, Pic::Primary).isr, 1 << 2 | 1 << 1);
    reaches(&mut *vcpu);
    takes(&mut *vcpu, 0x23);
    reaches(&mut *vcpu);
}

/// The instruction behind `sti` comes first; `cli` there lets nothing in.
pub fn the_instruction_behind_sti_comes_first(make: Make) {
    // mov dx, PORT; sti; cli; sti; out dx, al; out dx, al
    let [low, high] = PORT.to_le_bytes();
    let program = ready().code_only(&[0xba, low, high, 0xfb, 0xfa, 0xfb, 0xee, 0xee]);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    vm.set_irq(LINE, true).expect("set_irq");
    reaches(&mut *vcpu);
    takes(&mut *vcpu, 0x25);
    reaches(&mut *vcpu);
}

/// By the 8259A's data sheet. KVM keeps the request at the first PIC, and gives the second's last vector.
pub fn a_level_that_has_gone_leaves_no_vector_of_the_second_pic(make: Make) {
    // mov al, 2; mov dx, 0x4d1; out dx, al: line 9 is triggered by level.
    let by_level = [0xb0, 2, 0xba, 0xd1, 0x04, 0xee];
    let program = ready().code_only(&by_level).output(PORT, 1).code_only(HALT);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    reaches(&mut *vcpu);
    vm.set_irq(FAR_LINE, true).expect("set_irq");
    vm.set_irq(FAR_LINE, false).expect("set_irq");
    // Of a lower priority than the second PIC's.
    vm.set_irq(LINE, true).expect("set_irq");
    assert_eq!(access(&mut *vcpu).address(), u64::from(interrupts::HANDLER_PORT));
    if vcpu.access_data() == [0x2f] {
        skipped("a_level_that_has_gone_leaves_no_vector_of_the_second_pic", &"KVM keeps the request at the first PIC");
        return;
    }
    assert_eq!(vcpu.access_data(), [0x25]);
    assert_eq!((pic(&*vm, Pic::Primary).isr, pic(&*vm, Pic::Secondary).isr), (1 << 5, 0));
}

/// It ends as it is taken (AEOI).
pub fn an_interrupt_may_end_by_itself(make: Make) {
    // ICW1 to ICW4 of the first PIC anew: mov al, n; out port, al
    let icw = [0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x40, 0xe6, 0x21, 0xb0, 4, 0xe6, 0x21, 0xb0, 3, 0xe6, 0x21];
    let round = |program: Program| program.output(PORT, 1).code_only(HALT);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, round(round(ready().code_only(&icw))));
    for _ in 0..2 {
        reaches(&mut *vcpu);
        vm.set_irq(LINE, true).expect("set_irq");
        takes(&mut *vcpu, 0x45);
        assert_eq!(pic(&*vm, Pic::Primary).isr, 0);
        vm.set_irq(LINE, false).expect("set_irq");
    }
}

/// The eventfd's way: trigger, interrupt, end, resample, and again.
pub fn an_irqfd_interrupts_again_after_its_interrupt_has_ended(make: Make) {
    let round = |program: Program| program.code_only(HALT).code_only(END).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, round(round(ready())));
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    for _ in 0..2 {
        trigger.write(1).expect("write");
        takes(&mut *vcpu, 0x25);
        assert!(resample.read().is_err(), "it has not ended yet");
        reaches(&mut *vcpu);
        assert_eq!(resample.read().expect("a signal"), 1);
        assert_eq!(vm.ioapic().expect("ioapic").irr, 0);
    }
}

/// By a line and by an irqfd, from another thread.
pub fn a_halted_vcpu_is_woken_by_an_interrupt(make: Make) {
    // The second interrupt goes behind the first, so it is not taken before its own halt.
    let program = ready().code_only(HALT).code_only(SECONDARY_END).code_only(END).code_only(HALT).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    let (taken, wait_taken) = std::sync::mpsc::channel();
    let runner = thread::spawn(move || {
        takes(&mut *vcpu, 0x29);
        taken.send(()).expect("send");
        takes(&mut *vcpu, 0x25);
        reaches(&mut *vcpu);
    });
    vm.set_irq(FAR_LINE, true).expect("set_irq");
    wait_taken.recv_timeout(wait::LIMIT).expect("the first interrupt");
    trigger.write(1).expect("write");
    wait::join("the runner", runner);
}

/// A guest that never exits takes it too.
pub fn a_guest_that_spins_is_interrupted(make: Make) {
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, ready().code_only(STI));
    let (trigger, resample) = (event(), event());
    vm.register_irqfd(LINE, &trigger, &resample).expect("register_irqfd");
    let runner = thread::spawn(move || takes(&mut *vcpu, 0x25));
    trigger.write(1).expect("write");
    wait::join("the runner", runner);
}

/// No exit, and what they say.
pub fn the_ports_of_the_pics_do_not_exit(make: Make) {
    // mov al, 0x5a; out 0x21, al; in al, 0x21
    let mask = [0xb0, 0x5a, 0xe6, 0x21, 0xe4, 0x21];
    // mov al, 0x0a; out 0x20, al; in al, 0x20
    let requests = [0xb0, 0x0a, 0xe6, 0x20, 0xe4, 0x20];
    let program = ready().code_only(&mask).output(PORT, 1).code_only(&requests).output(PORT, 1);
    // Two bytes are without effect, and begin at the first of two ports: in ax, 0x20; in ax, 0x21
    let program = program.code_only(&[0xe5, 0x20]).output(PORT, 2).code_only(&[0xe5, 0x21]);
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, program);
    vm.set_irq(LINE, true).expect("set_irq");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x5a]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1 << 5]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0, 0]);
    expect_read(&mut *vcpu, AddressSpace::Pio, 0x21, 2);
    vcpu.answer(&[0, 0]).expect("answer");
}

/// As if its line had been raised.
pub fn a_request_that_was_set_is_taken(make: Make) {
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, ready().code_only(HALT));
    let state = hypervisor::kvm_pic_state { irr: 1 << 6, ..pic(&*vm, Pic::Primary) };
    vm.set_pic(Pic::Primary, &state).expect("set_pic");
    takes(&mut *vcpu, 0x26);
}

/// Its local APIC says whether the PICs' interrupts reach a vCPU.
pub fn a_local_apic_that_masks_lint0_keeps_interrupts_away(make: Make) {
    let Guest { vm, mut vcpu, .. } = ready_guest!(make, ready().code_only(STI).output(PORT, 1).output(PORT, 1));
    let open = vcpu.lapic().expect("lapic");
    let mut masked = open;
    masked.regs[0x352] = 1;
    vcpu.set_lapic(&masked).expect("set_lapic");
    vm.set_irq(LINE, true).expect("set_irq");
    reaches(&mut *vcpu);
    vcpu.set_lapic(&open).expect("set_lapic");
    takes(&mut *vcpu, 0x25);
    reaches(&mut *vcpu);
}
