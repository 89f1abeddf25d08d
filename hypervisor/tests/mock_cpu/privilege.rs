//! Privilege levels, call gates, tasks and virtual 8086 mode of protected mode (Intel SDM volume 3, chapters 6, 8 and 22),
//! and 32-bit paging.

use hypervisor::{Exit, kvm_segment};

use super::*;

const GDT: u64 = 0x4000;
const IDT: u64 = 0x4800;
const HANDLERS: u64 = 0x5000;
const USER_CODE: u64 = 0x6000;
/// The stack that the TSS has for ring 0.
const ESP0: u64 = 0x9000;
const TSS: u64 = 0xa000;
const OTHER_TSS: u64 = 0xa100;

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const USER_CODE_SELECTOR: u16 = 0x18 | 3;
const USER_DATA: u16 = 0x20 | 3;
const TR: u16 = 0x28;
const OTHER_TR: u16 = 0x30;
const CALL_GATE: u16 = 0x38 | 3;
const TASK_GATE: u16 = 0x40;

fn segment(selector: u16, type_: u8) -> kvm_segment {
    let dpl = (selector & 3) as u8;
    kvm_segment { limit: u32::MAX, selector, type_, present: 1, dpl, db: 1, s: 1, g: 1, ..Default::default() }
}

fn quad(machine: &Machine, address: u64, value: u64) {
    machine.write(address, &value.to_le_bytes());
}

fn dword(machine: &Machine, address: u64) -> u32 {
    u32::from_le_bytes(machine.read(address))
}

fn gate(selector: u16, offset: u64, kind: u64, parameters: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | parameters << 32 | kind << 40 | (offset >> 16) << 48
}

/// In flat protected mode at ring 0, or at ring 3 with its own stack at 0x7000.
pub(super) fn machine(code: &[u8], ring: u8) -> Machine {
    let mut machine = Machine::new(&[0xf4]);
    let tss = |base: u64, kind: u64| 0x67 | base << 16 | kind << 40;
    for (selector, descriptor) in [
        (CODE, 0x00cf_9b00_0000_ffff_u64),
        (DATA, 0x00cf_9300_0000_ffff),
        (USER_CODE_SELECTOR, 0x00cf_fb00_0000_ffff),
        (USER_DATA, 0x00cf_f300_0000_ffff),
        (TR, tss(TSS, 0x8b)),
        (OTHER_TR, tss(OTHER_TSS, 0xe9)),
        (CALL_GATE, gate(CODE, HANDLERS + 0x400, 0xec, 2)),
        (TASK_GATE, gate(OTHER_TR, 0, 0xe5, 0)),
    ] {
        quad(&machine, GDT + u64::from(selector & !7), descriptor);
    }
    for vector in 0..64 {
        let handler = HANDLERS + 0x10 * vector;
        quad(&machine, IDT + 8 * vector, gate(CODE, handler, 0xee, 0));
        machine.write(handler, &[0xf4]);
    }
    machine.write(HANDLERS + 0x400, &[0xf4]);
    machine.write(TSS + 4, &(ESP0 as u32).to_le_bytes());
    machine.write(TSS + 8, &DATA.to_le_bytes());
    // No map of ports.
    machine.write(TSS + 0x66, &[0x68, 0]);
    machine.write(USER_CODE, code);
    machine.set_sregs(|sregs| {
        sregs.cr0 = 0x31;
        let (cs, data) = if ring == 0 { (CODE, DATA) } else { (USER_CODE_SELECTOR, USER_DATA) };
        sregs.cs = segment(cs, 11);
        let data = segment(data, 3);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment { base: TSS, limit: 0x67, selector: TR, type_: 11, present: 1, ..Default::default() };
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x47);
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0x1ff);
    });
    machine.set(|regs| (regs.rip, regs.rsp, regs.rflags) = (USER_CODE, 0x7000, 0x202));
    machine
}

/// The vector whose handler has halted, and the frame from the top on.
fn frame(machine: &mut Machine) -> (u64, [u32; 6]) {
    let regs = machine.run();
    let frame = [0, 4, 8, 12, 16, 20].map(|at| dword(machine, regs.rsp + at));
    ((regs.rip - 1 - HANDLERS) / 0x10, frame)
}

#[test]
fn an_interrupt_of_user_code_changes_the_stack_and_iret_changes_it_back() {
    // int 0x20; hlt (#GP), with iret in the first handler
    let mut machine = machine(&[0xcd, 0x20, 0xf4], 3);
    machine.write(HANDLERS + 0x200, &[0xcf]);
    machine.vcpu.step().unwrap();
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rsp), (HANDLERS + 0x200, ESP0 - 20));
    machine.vcpu.step().unwrap();
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rsp, regs.rflags), (USER_CODE + 2, 0x7000, 0x202));
    let (vector, frame) = frame(&mut machine);
    let expected = [0, USER_CODE as u32 + 2, USER_CODE_SELECTOR.into(), 0x1_0202, 0x7000, USER_DATA.into()];
    assert_eq!((vector, frame), (13, expected));
}

#[test]
fn a_call_gate_takes_parameters_to_the_inner_stack_and_retf_drops_them() {
    // push 1; push 2; call CALL_GATE:0; int3
    let [low, high] = CALL_GATE.to_le_bytes();
    let mut machine = machine(&[0x6a, 1, 0x6a, 2, 0x9a, 0, 0, 0, 0, low, high, 0xcc], 3);
    // retf 8
    machine.write(HANDLERS + 0x400, &[0xca, 8, 0]);
    (0..3).for_each(|_| assert_eq!(machine.vcpu.step().unwrap(), Stop::Stepped));
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rsp), (HANDLERS + 0x400, ESP0 - 24));
    let inner = [0, 4, 8, 12, 16, 20].map(|at| dword(&machine, regs.rsp + at));
    assert_eq!(inner, [USER_CODE as u32 + 11, USER_CODE_SELECTOR.into(), 2, 1, 0x6ff8, USER_DATA.into()]);
    machine.vcpu.step().unwrap();
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rsp), (USER_CODE + 11, 0x7000));
    assert_eq!(machine.vcpu.sregs().unwrap().ss.selector, USER_DATA);
}

#[test]
fn user_code_does_not_get_what_is_the_kernels() {
    // cli; in al, 0x10; mov cr0, eax; lgdt [0x2000]; mov ds, ax of the kernel; call far of the kernel; popf leaves IF
    for (code, error) in [
        (&[0xfa][..], 0),
        (&[0xe4, 0x10], 0),
        (&[0x0f, 0x22, 0xc0], 0),
        (&[0x0f, 0x01, 0x15, 0, 0x20, 0, 0], 0),
        (&[0x8e, 0xd8], DATA.into()),
        (&[0x9a, 0, 0, 0, 0, 8, 0], CODE.into()),
        (&[0x0f, 0x32], 0),
        (&[0xf4], 0),
    ] {
        let mut machine = machine(code, 3);
        machine.set(|regs| regs.rax = DATA.into());
        let (vector, frame) = frame(&mut machine);
        assert_eq!((vector, frame[0], frame[1]), (13, error, USER_CODE as u32), "{code:02x?}");
    }
}

/// A task that begins at `code`, in ring 0.
fn other_task(machine: &Machine, code: u64) {
    for (offset, value) in [
        (0x20, code as u32),
        (0x24, 0x2),
        (0x28, 0x1111),
        (0x38, 0x8800),
        (0x48, DATA.into()),
        (0x4c, CODE.into()),
        (0x50, DATA.into()),
        (0x54, DATA.into()),
    ] {
        machine.write(OTHER_TSS + offset, &value.to_le_bytes());
    }
}

#[test]
fn a_call_to_a_task_and_iret_switch_there_and_back() {
    // call OTHER_TR:0; hlt
    let mut machine = machine(&[0x9a, 0, 0, 0, 0, 0x30, 0, 0xf4], 0);
    other_task(&machine, 0x6100);
    machine.write(0x6100, &[0x40, 0xcf]); // inc eax; iret
    machine.set(|regs| regs.rax = 7);
    machine.vcpu.step().unwrap();
    let (regs, sregs) = (machine.regs(), machine.vcpu.sregs().unwrap());
    assert_eq!((regs.rip, regs.rax, regs.rsp, regs.rflags & 0x4000), (0x6100, 0x1111, 0x8800, 0x4000));
    assert_eq!((sregs.tr.selector, sregs.tr.base, sregs.cr0 & 8), (OTHER_TR, OTHER_TSS, 8));
    assert_eq!((dword(&machine, OTHER_TSS), dword(&machine, TSS + 0x20)), (TR.into(), USER_CODE as u32 + 7));
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rax), (USER_CODE + 8, 7));
    assert_eq!(machine.vcpu.sregs().unwrap().tr.selector, TR);
    assert_eq!(dword(&machine, OTHER_TSS + 0x28), 0x1112, "saved");
    let busy = |selector: u16| machine.read::<1>(GDT + u64::from(selector) + 5)[0] & 2;
    assert_eq!((busy(TR), busy(OTHER_TR)), (2, 0));
}

#[test]
fn an_exception_through_a_task_gate_leaves_its_error_code_there() {
    // mov ds, ax: beyond the table
    let mut machine = machine(&[0x8e, 0xd8], 0);
    other_task(&machine, 0x6100);
    machine.write(0x6100, &[0xf4]);
    quad(&machine, IDT + 8 * 13, gate(OTHER_TR, 0, 0xe5, 0));
    machine.set(|regs| regs.rax = 0x100);
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rsp, dword(&machine, 0x87fc)), (0x6101, 0x87fc, 0x100));
}

#[test]
fn what_is_wrong_with_a_task_is_found_in_it_or_before_it() {
    // jmp OTHER_TR:0, with a stack segment of another privilege: found in the new task; with a TSS too short: in the old
    for (is_short, vector, error, back) in [(false, 10, USER_DATA & !3, 0x6100), (true, 10, OTHER_TR, USER_CODE)] {
        let mut machine = machine(&[0xea, 0, 0, 0, 0, 0x30, 0], 0);
        other_task(&machine, 0x6100);
        machine.write(OTHER_TSS + 0x50, &USER_DATA.to_le_bytes());
        // The handler has a stack of its own, for the new task has none.
        quad(&machine, IDT + 8 * 10, gate(TR, 0, 0xe5, 0));
        if is_short {
            quad(&machine, GDT + u64::from(OTHER_TR), 0x66 | OTHER_TSS << 16 | 0xe9 << 40);
            quad(&machine, IDT + 8 * 10, gate(CODE, HANDLERS + 0xa0, 0xee, 0));
            let (found, frame) = frame(&mut machine);
            assert_eq!((found, frame[0], frame[1]), (vector, error.into(), back as u32));
        } else {
            // The old task is its handler; it continues behind the jump with the error code.
            machine.write(USER_CODE + 7, &[0xf4]);
            let regs = machine.run();
            assert_eq!((regs.rip, dword(&machine, regs.rsp)), (USER_CODE + 8, error.into()));
            assert_eq!(u64::from(dword(&machine, OTHER_TSS + 0x20)), back);
        }
    }
}

#[test]
fn iret_goes_to_virtual_8086_mode_and_a_fault_comes_back() {
    // push gs, fs, ds, es, ss, esp, eflags, cs, eip; iret
    let mut code = Vec::new();
    for value in [0x500_u32, 0x400, 0x300, 0x200, 0x700, 0x100, 0x2_0202, 0x610, 0x4] {
        code.push(0x68);
        code.extend(value.to_le_bytes());
    }
    code.push(0xcf);
    let mut machine = machine(&code, 0);
    // mov al, [0]; cli, which IOPL 0 forbids
    machine.write(0x6104, &[0xa0, 0, 0, 0xfa]);
    machine.write(0x3000, &[0x42]);
    machine.set(|regs| regs.rax = 0);
    let (vector, frame) = frame(&mut machine);
    assert_eq!((vector, frame[0], frame[1], frame[2]), (13, 0, 7, 0x610));
    assert_eq!((frame[3] & 0x2_0202, frame[4], frame[5]), (0x2_0202, 0x100, 0x700));
    let (regs, sregs) = (machine.regs(), machine.vcpu.sregs().unwrap());
    assert_eq!((regs.rax & 0xff, regs.rsp, regs.rflags & 0x2_0000), (0x42, ESP0 - 40, 0));
    assert_eq!((sregs.ds.unusable, sregs.cs.selector, sregs.ss.selector), (1, CODE, DATA));
    let rest = [24, 28, 32, 36].map(|at| dword(&machine, regs.rsp + at));
    assert_eq!(rest, [0x200, 0x300, 0x400, 0x500], "ES, DS, FS, GS");
}

/// Page tables of two levels at 0xb000, for all, which map the first 64 KiB page by page.
fn paged(code: &[u8], ring: u8) -> Machine {
    let mut machine = machine(code, ring);
    machine.write(0xb000, &0xc007_u32.to_le_bytes());
    (0..16_u32).for_each(|page| machine.write(0xc000 + 4 * u64::from(page), &(page << 12 | 7).to_le_bytes()));
    machine.set_sregs(|sregs| (sregs.cr0, sregs.cr3) = (0x8001_0031, 0xb000));
    machine
}

#[test]
fn two_levels_of_tables_map_pages_and_fault() {
    // mov eax, [ebx]; mov [ebx], eax
    for (entry, ring, expected) in
        [(0x7007_u32, 3, None), (0x7006, 3, Some(4)), (0x7003, 3, Some(5)), (0x7005, 3, Some(7)), (0x7001, 0, Some(3))]
    {
        let mut machine = paged(&[0x8b, 0x03, 0x89, 0x03, 0xcc], ring);
        machine.write(0xc000 + 4 * 3, &entry.to_le_bytes());
        machine.write(0x7010, &0x1234_u32.to_le_bytes());
        machine.set(|regs| regs.rbx = 0x3010);
        let (vector, frame) = frame(&mut machine);
        match expected {
            None => {
                assert_eq!((vector, machine.regs().rax), (3, 0x1234));
                assert_eq!(dword(&machine, 0xc00c) & 0x60, 0x60, "accessed and dirty");
            }
            Some(error) => {
                assert_eq!((vector, frame[0], machine.vcpu.sregs().unwrap().cr2), (14, error, 0x3010), "{entry:#x}");
            }
        }
    }
}

#[test]
fn pages_of_4_mib_need_pse() {
    for (cr4, expected) in [(0x10, (3, 0x1234)), (0, (14, 0))] {
        let mut machine = paged(&[0x8b, 0x03, 0xcc], 0);
        machine.set_sregs(|sregs| sregs.cr4 = cr4);
        machine.write(0xb004, &0x87_u32.to_le_bytes());
        machine.write(0x7010, &0x1234_u32.to_le_bytes());
        machine.set(|regs| (regs.rax, regs.rbx) = (0, 0x40_7010));
        let (vector, _) = frame(&mut machine);
        assert_eq!((vector, machine.regs().rax), expected);
    }
}

#[test]
fn pae_has_a_third_table_that_a_load_of_cr3_reads() {
    // mov cr3, ecx; mov eax, [ebx]; hlt
    let code = [0x0f, 0x22, 0xd9, 0x8b, 0x03, 0xf4];
    for (reserved, expected) in [(0, None), (1 << 1, Some(13))] {
        let mut machine = machine(&code, 0);
        quad(&machine, 0xb000, 0xc001);
        quad(&machine, 0xb020, 0xc001 | reserved);
        quad(&machine, 0xc000, 0xd007);
        (0..16).for_each(|page| quad(&machine, 0xd000 + 8 * page, page << 12 | 7));
        machine.set_sregs(|sregs| (sregs.cr0, sregs.cr3, sregs.cr4) = (0x8001_0031, 0xb000, 0x20));
        machine.write(0x3010, &0x1234_u32.to_le_bytes());
        machine.set(|regs| (regs.rbx, regs.rcx) = (0x3010, 0xb020));
        match expected {
            None => assert_eq!(machine.run().rax, 0x1234),
            Some(vector) => assert_eq!(frame(&mut machine).0, vector),
        }
    }
}

#[test]
fn a_misaligned_access_of_user_code_faults_where_it_asked_for_it() {
    // mov eax, [ebx]
    for (rflags, ring, address, faults) in [
        (0x4_0202, 3, 0x3001, true),
        (0x202, 3, 0x3001, false),
        (0x4_0202, 0, 0x3001, false),
        (0x4_0202, 3, 0x3004, false),
    ] {
        let mut machine = machine(&[0x8b, 0x03, 0xcc], ring);
        machine.set_sregs(|sregs| sregs.cr0 |= 1 << 18);
        machine.set(|regs| (regs.rbx, regs.rflags) = (address, rflags));
        let (vector, frame) = frame(&mut machine);
        assert_eq!(vector == 17 && frame[0] == 0, faults, "{rflags:#x} {ring} {address:#x}: {vector}");
    }
}

#[test]
fn a_triple_fault_in_paged_mode_is_a_shutdown() {
    let mut machine = paged(&[0x0f, 0x0b], 0);
    machine.write(0xc000 + 4 * 4, &[0; 4]);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Exit(Exit::Shutdown));
    assert_eq!(machine.regs().rip, USER_CODE);
}
