//! Segments, protected mode, and the way there.

use hypervisor::{Exit, kvm_segment};
use kvm_bindings::kvm_cpuid_entry2;

use super::*;

/// Where the GDT lies, and the selectors in it.
const GDT: u64 = 0x4000;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const READ_ONLY: u16 = 0x18;
const ABSENT: u16 = 0x20;
const DOWN: u16 = 0x28;
const IDT: u64 = 0x4800;

fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> [u8; 8] {
    let bits = limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24) << 56;
    bits.to_le_bytes()
}

/// GDT and IDT, whose vectors lead to a `hlt` each.
fn tables(machine: &Machine) {
    for (selector, descriptor) in [
        (CODE, descriptor(0, 0xf_ffff, 0x9a, 0xc)),
        (DATA, descriptor(0, 0xf_ffff, 0x92, 0xc)),
        (READ_ONLY, descriptor(0, 0xf_ffff, 0x90, 0xc)),
        (ABSENT, descriptor(0, 0xf_ffff, 0x12, 0xc)),
        (DOWN, descriptor(0, 0x0fff, 0x96, 0x4)),
    ] {
        machine.write(GDT + u64::from(selector), &descriptor);
    }
    for vector in 0..32_u64 {
        let handler = 0x5000 + 0x10 * vector;
        let gate = handler | u64::from(CODE) << 16 | 0x8e00_u64 << 32;
        machine.write(IDT + 8 * vector, &gate.to_le_bytes());
        machine.write(handler, &[0xf4]);
    }
}

/// In flat protected mode.
fn protected(code: &[u8]) -> Machine {
    let mut machine = Machine::new(code);
    tables(&machine);
    machine.set_sregs(|sregs| {
        sregs.cr0 |= 1;
        let data = kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector: DATA,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        sregs.cs = kvm_segment { selector: CODE, type_: 11, ..data };
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x7f);
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0xff);
    });
    machine
}

/// The vector whose handler has halted, the error code or what else is on top of the stack, and where it would return to.
fn fault(machine: &mut Machine) -> (u64, u32, u32) {
    let regs = machine.run();
    let dword = |at| u32::from_le_bytes(machine.read(at));
    ((regs.rip - 0x5001) / 0x10, dword(regs.rsp), dword(regs.rsp + 4))
}

#[test]
fn a_segments_base_is_what_was_set_until_it_is_loaded() {
    // mov al, [0]; mov ds, cx; mov ah, [0]
    let mut machine = Machine::new(&[0xa0, 0, 0, 0x8e, 0xd9, 0x8a, 0x26, 0, 0, 0xf4]);
    machine.write(0x2000, &[0x11]);
    machine.write(0x3000, &[0x22]);
    machine.set_sregs(|sregs| (sregs.ds.base, sregs.ds.selector) = (0x2000, 0x1234));
    machine.set(|regs| regs.rcx = 0x300);
    assert_eq!(machine.run().rax, 0x2211);
    let ds = machine.vcpu.sregs().unwrap().ds;
    assert_eq!((ds.base, ds.selector), (0x3000, 0x300));
}

#[test]
fn an_unreal_limit_outlives_the_load_of_its_segment() {
    // mov ds, cx; mov al, [ebx]
    let mut machine = Machine::new(&[0x8e, 0xd9, 0x67, 0x8a, 0x03, 0xf4]);
    machine.set_sregs(|sregs| sregs.ds.limit = u32::MAX);
    machine.set(|regs| regs.rbx = 0x10_0000);
    let stop = machine.vcpu.run_to(&[]).unwrap();
    assert!(matches!(stop, Stop::Exit(Exit::Access(access)) if access.address() == 0x10_0000), "{stop:?}");
}

#[test]
fn code_goes_to_protected_mode_and_back() {
    #[rustfmt::skip]
    let code = [
        0xfa, //                                cli
        0x0f, 0x01, 0x16, 0x00, 0x30, //        lgdt [0x3000]
        0x0f, 0x20, 0xc0, //                    mov eax, cr0
        0x0c, 0x01, //                          or al, 1
        0x0f, 0x22, 0xc0, //                    mov cr0, eax
        0xea, 0x13, 0x10, 0x08, 0x00, //        jmp 8:0x1013
        0x66, 0xb8, 0x10, 0x00, //              mov ax, 0x10            ; 32-bit code from here on
        0x8e, 0xd8, //                          mov ds, ax
        0xa1, 0x00, 0x20, 0x00, 0x00, //        mov eax, [0x2000]
        0x0f, 0x20, 0xc1, //                    mov ecx, cr0
        0xf4, //                                hlt
    ];
    let mut machine = Machine::new(&code);
    tables(&machine);
    machine.write(0x3000, &[0x7f, 0, 0x00, 0x40, 0, 0]);
    machine.write(0x2000, &0xdead_beef_u32.to_le_bytes());
    let regs = machine.run();
    assert_eq!((regs.rax, regs.rcx), (0xdead_beef, 0x6000_0011));
    let sregs = machine.vcpu.sregs().unwrap();
    assert_eq!((sregs.cs.selector, sregs.cs.db, sregs.cs.limit), (CODE, 1, u32::MAX));
    assert_eq!((sregs.ds.selector, sregs.gdt.base, sregs.gdt.limit), (DATA, GDT, 0x7f));
    let access: [u8; 1] = machine.read(GDT + u64::from(DATA) + 5);
    assert_eq!(access, [0x93], "accessed");
}

#[test]
fn selectors_are_checked_and_named_by_the_error_code() {
    for (code, selector, expected) in [
        // mov ds, ax: beyond the table, absent
        (&[0x8e, 0xd8][..], 0x100, (13, 0x100, 0x1000)),
        (&[0x8e, 0xd8], ABSENT, (11, ABSENT.into(), 0x1000)),
        // mov ss, ax: read-only, null, absent
        (&[0x8e, 0xd0], READ_ONLY, (13, READ_ONLY.into(), 0x1000)),
        (&[0x8e, 0xd0], 0, (13, 0, 0x1000)),
        (&[0x8e, 0xd0], ABSENT, (12, ABSENT.into(), 0x1000)),
        // jmp far [0x2000]: to data
        (&[0xff, 0x2d, 0x00, 0x20, 0, 0], DATA, (13, DATA.into(), 0x1000)),
        // ltr ax: no TSS
        (&[0x0f, 0x00, 0xd8], DATA, (13, DATA.into(), 0x1000)),
        // int 0x30: beyond the IDT
        (&[0xcd, 0x30], 0, (13, 0x30 * 8 + 2, 0x1000)),
    ] {
        let mut machine = protected(code);
        machine.write(0x2000, &[&[0; 4][..], &selector.to_le_bytes()].concat());
        machine.set(|regs| regs.rax = selector.into());
        assert_eq!(fault(&mut machine), expected, "{code:02x?} with {selector:#x}");
    }
}

#[test]
fn segments_allow_what_their_descriptors_say() {
    // mov ds, ax; mov [ebx], al
    let code = [0x8e, 0xd8, 0x88, 0x03, 0xf4];
    for (selector, address, expected) in [
        (DATA, 0x3000, None),
        (READ_ONLY, 0x3000, Some((13, 0, 0x1002))),
        (0, 0x3000, Some((13, 0, 0x1002))),
        (DOWN, 0x1000, None),
        (DOWN, 0x0fff, Some((13, 0, 0x1002))),
    ] {
        let mut machine = protected(&code);
        machine.set(|regs| (regs.rax, regs.rbx) = (selector.into(), address));
        match expected {
            None => assert_eq!(machine.run().rip, 0x1005),
            Some(expected) => assert_eq!(fault(&mut machine), expected, "{selector:#x} {address:#x}"),
        }
    }
}

#[test]
fn an_interrupt_of_protected_mode_pushes_four_bytes_each_and_iret_takes_them() {
    // int 4; hlt, with iret in the handler
    let mut machine = protected(&[0xcd, 0x04, 0xf4]);
    machine.write(0x5040, &[0xcf]);
    machine.set(|regs| regs.rflags = 0x203);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Stepped);
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rsp, regs.rflags), (0x5040, 0x7ff4, 0x003));
    let frame: [u8; 12] = machine.read(0x7ff4);
    assert_eq!(frame, [0x02, 0x10, 0, 0, 8, 0, 0, 0, 0x03, 0x02, 0, 0]);
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rsp, regs.rflags), (0x1003, 0x8000, 0x203));
}

#[test]
fn two_faults_in_a_row_are_a_double_fault_and_a_third_a_shutdown() {
    // div cl, with the gate of #DE absent
    let mut machine = protected(&[0xf6, 0xf1]);
    machine.write(IDT, &[0; 8]);
    assert_eq!(fault(&mut machine), (8, 0, 0x1000));
    let mut machine = protected(&[0xf6, 0xf1]);
    machine.write(IDT, &[0; 8]);
    machine.write(IDT + 8 * 8, &[0; 8]);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Exit(Exit::Shutdown));
}

#[test]
fn what_is_not_known_is_told_by_address_bytes_and_name() {
    // CPUID offers SSE3, of which there is nothing.
    let leaf = kvm_cpuid_entry2 { function: 1, ecx: 1, edx: 7 << 24, ..Default::default() };
    for (code, bytes, name) in [
        (&[0xf2, 0x0f, 0x7c, 0xc1][..], &[0xf2, 0x0f, 0x7c, 0xc1][..], "haddps"),
        (&[0xf2, 0x0f, 0x12, 0xc1], &[0xf2, 0x0f, 0x12, 0xc1], "movddup"),
        (&[0xf2, 0x0f, 0xf0, 0x00], &[0xf2, 0x0f, 0xf0, 0x00], "lddqu"),
    ] {
        let mut machine = protected(code);
        machine.vcpu.set_cpuid(&[leaf]).unwrap();
        let Stop::Exit(Exit::InternalError(error)) = machine.vcpu.step().unwrap() else { panic!("{name}") };
        assert_eq!(error.instruction(), Some((0x1000, bytes.to_vec(), name.into())));
        assert_eq!(machine.regs().rip, 0x1000);
    }
}
