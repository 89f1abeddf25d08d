//! Exceptions and interrupts of real mode.

use hypervisor::{Exit, kvm_vcpu_events};

use super::*;

/// Where handlers are put, 0x10 bytes each, each a `hlt`.
const HANDLERS: u16 = 0x5000;

/// A machine whose vectors lead to a handler each.
fn machine(code: &[u8]) -> Machine {
    let machine = Machine::new(code);
    for vector in 0..32_u16 {
        let handler = HANDLERS + 0x10 * vector;
        machine.write(u64::from(vector) * 4, &[handler.to_le_bytes(), [0, 0]].concat());
        machine.write(handler.into(), &[0xf4]);
    }
    machine
}

/// The vector whose handler has halted.
fn vector(regs: &kvm_regs) -> u64 {
    (regs.rip - 1 - u64::from(HANDLERS)) / 0x10
}

#[test]
fn faults_return_to_their_instruction_and_traps_behind_it() {
    for (code, expected, back) in [
        // div cl by 0; aam 0; div cl, quotient too large
        (&[0xf6, 0xf1][..], 0, 0),
        (&[0xd4, 0], 0, 0),
        // ud2; mov cs, ax; bound ax, [0x2000]
        (&[0x0f, 0x0b], 6, 0),
        (&[0x8e, 0xc8], 6, 0),
        (&[0x62, 0x06, 0x00, 0x20], 5, 0),
        // lldt ax is of protected mode
        (&[0x0f, 0x00, 0xd0], 6, 0),
        // mov ax, [0xffff]; mov [ss:0xffff], ax reach beyond their segments
        (&[0xa1, 0xff, 0xff], 13, 0),
        (&[0x36, 0xa3, 0xff, 0xff], 12, 0),
        // int 0x12; int3
        (&[0xcd, 0x12], 0x12, 2),
        (&[0xcc], 3, 1),
        // rdmsr of none
        (&[0x0f, 0x32], 13, 0),
    ] {
        let mut machine = machine(code);
        machine.set(|regs| (regs.rax, regs.rflags) = (5, 0x202));
        machine.write(0x2000, &[7, 0, 9, 0]);
        let regs = machine.run();
        assert_eq!(vector(&regs), expected, "{code:02x?}");
        assert_eq!(regs.rsp, 0x7ffa);
        assert_eq!([0x7ffa, 0x7ffc, 0x7ffe].map(|at| machine.read_word(at)), [0x1000 + back, 0, 0x202], "{code:02x?}");
        assert_eq!(regs.rflags & 0x200, 0, "interrupts are off");
    }
}

#[test]
fn into_is_taken_with_an_overflow_only() {
    let mut machine = machine(&[0xce, 0xf4]);
    assert_eq!(machine.run().rip, 0x1002);
    machine.vcpu.set_mp_state(&Default::default()).unwrap();
    machine.set(|regs| (regs.rip, regs.rflags) = (0x1000, OF | 2));
    assert_eq!(vector(&machine.run()), 4);
}

#[test]
fn an_instruction_that_faults_has_done_nothing() {
    // push of everything, of which the last parts do not fit; pop to beyond the segment
    for (code, rsp) in [(&[0x60][..], 0x9), (&[0x8f, 0x06, 0xff, 0xff], 0x7000)] {
        let mut machine = machine(code);
        machine.set(|regs| regs.rsp = rsp);
        // Below 0x20 lie the vectors of what may come; the push must not have written there.
        let before: [u8; 32] = machine.read(0);
        let _ = machine.vcpu.step().unwrap();
        let after: [u8; 32] = machine.read(0);
        if rsp == 0x7000 {
            assert_eq!(machine.read_word(rsp - 6), 0x1000, "the fault's own frame lies where the pop began");
        } else {
            assert_eq!(before[10..], after[10..]);
        }
    }
}

#[test]
fn iret_takes_flags_and_comes_back() {
    // int 0x12; hlt, with iret in the handler
    let mut machine = machine(&[0xcd, 0x12, 0xf4]);
    machine.write(u64::from(HANDLERS) + 0x120, &[0xcf]);
    machine.set(|regs| regs.rflags = 0x203);
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rsp, regs.rflags), (0x1003, 0x8000, 0x203));
}

#[test]
fn a_single_step_traps_behind_each_instruction() {
    // nop; nop, with TF
    let mut machine = machine(&[0x90, 0x90, 0xf4]);
    machine.set(|regs| regs.rflags = 0x102);
    let regs = machine.run();
    assert_eq!((vector(&regs), machine.read_word(0x7ffa)), (1, 0x1001));
    assert_eq!(machine.vcpu.debug_regs().unwrap().dr6, 0xffff_4ff0);
}

#[test]
fn a_vector_table_that_is_too_short_ends_in_a_shutdown() {
    let mut machine = machine(&[0xcd, 0x12]);
    machine.set_sregs(|sregs| sregs.idt.limit = 0);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Exit(Exit::Shutdown));
    assert_eq!(machine.regs().rip, 0x1000);
}

#[test]
fn an_injected_interrupt_waits_for_the_flag_and_the_shadow() {
    // sti; nop; nop; hlt
    let mut machine = machine(&[0xfb, 0x90, 0x90, 0xf4]);
    let mut events = kvm_vcpu_events::default();
    (events.interrupt.injected, events.interrupt.nr) = (1, 0x10);
    machine.vcpu.set_vcpu_events(&events).unwrap();
    let regs = machine.run();
    assert_eq!((vector(&regs), machine.read_word(0x7ffa)), (0x10, 0x1002), "one instruction behind sti");
    assert_eq!(machine.vcpu.vcpu_events().unwrap().interrupt.injected, 0);
}

#[test]
fn an_nmi_ends_a_halt_and_the_next_waits_for_iret() {
    // hlt; hlt
    let mut machine = machine(&[0xf4, 0xf4]);
    machine.run();
    let mut events = machine.vcpu.vcpu_events().unwrap();
    events.nmi.pending = 1;
    machine.vcpu.set_vcpu_events(&events).unwrap();
    let regs = machine.run();
    assert_eq!((vector(&regs), machine.read_word(0x7ffa)), (2, 0x1001));
    let events = machine.vcpu.vcpu_events().unwrap();
    assert_eq!((events.nmi.pending, events.nmi.masked), (0, 1));
}

#[test]
fn an_injected_exception_is_delivered_first() {
    let mut machine = machine(&[0xf4]);
    let mut events = kvm_vcpu_events::default();
    (events.exception.injected, events.exception.nr) = (1, 6);
    machine.vcpu.set_vcpu_events(&events).unwrap();
    assert_eq!(vector(&machine.run()), 6);
}

#[test]
fn an_interrupt_is_no_exception_whatever_its_vector() {
    for vector in [8, 10, 13] {
        let mut machine = machine(&[0x90]);
        // Its handler lies beyond the code segment; that of the exception which follows from it does not.
        machine.write(u64::from(vector) * 4, &[0x00, 0x60]);
        machine.set_sregs(|sregs| sregs.cs.limit = 0x5fff);
        machine.set(|regs| regs.rflags = 0x202);
        let mut events = machine.vcpu.vcpu_events().unwrap();
        (events.interrupt.injected, events.interrupt.nr) = (1, vector);
        machine.vcpu.set_vcpu_events(&events).unwrap();
        let expected = if vector == 13 { 8 } else { 13 };
        assert_eq!(self::vector(&machine.run()), expected, "{vector}");
    }
}
