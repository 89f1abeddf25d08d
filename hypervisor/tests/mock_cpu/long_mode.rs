//! Long mode: 64-bit and compatibility code, paging, privilege levels, gates, fast system calls.

use hypervisor::{Exit, kvm_msr_entry, kvm_segment};
use test_utils::asm::*;

use super::*;

/// Page tables: one of each level, that map the first 64 KiB for all, page by page, and 2 MiB behind it at 2 MiB.
const PML4: u64 = 0xa000;
const PDPT: u64 = 0xb000;
const PD: u64 = 0xc000;
const PT: u64 = 0xd000;
const GDT: u64 = 0x4000;
const TSS: u64 = 0x4400;
const IDT: u64 = 0x4800;
/// Handlers are a `hlt` each, 0x10 bytes apart.
const HANDLERS: u64 = 0x5000;
const USER_CODE: u64 = 0x6000;
/// The stack that the TSS has for ring 0, and the first of its others.
const RSP0: u64 = 0x9000;
const IST1: u64 = 0x9800;

const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const USER_CODE_32: u16 = 0x18 | 3;
const USER_DATA: u16 = 0x20 | 3;
const USER_CODE_64: u16 = 0x28 | 3;
const TR: u16 = 0x30;

/// Entries: present, writable, for all.
const ALL: u64 = 7;
const NO_EXECUTE: u64 = 1 << 63;

fn segment(selector: u16, type_: u8, l: u8) -> kvm_segment {
    let dpl = (selector & 3) as u8;
    kvm_segment { limit: u32::MAX, selector, type_, present: 1, dpl, db: 1 - l, s: 1, l, g: 1, ..Default::default() }
}

fn quad(machine: &Machine, address: u64, value: u64) {
    machine.write(address, &value.to_le_bytes());
}

fn read_quad(machine: &Machine, address: u64) -> u64 {
    u64::from_le_bytes(machine.read(address))
}

/// In 64-bit mode at ring 0.
pub(super) fn machine(code: &[u8]) -> Machine {
    let mut machine = Machine::new(code);
    quad(&machine, PML4, PDPT | ALL);
    quad(&machine, PDPT, PD | ALL);
    quad(&machine, PD, PT | ALL);
    for page in 0..16 {
        quad(&machine, PT + 8 * page, page << 12 | ALL);
    }
    for (selector, descriptor) in [
        (CODE, 0x00af_9b00_0000_ffff_u64),
        (DATA, 0x00cf_9300_0000_ffff),
        (USER_CODE_32, 0x00cf_fb00_0000_ffff),
        (USER_DATA, 0x00cf_f300_0000_ffff),
        (USER_CODE_64, 0x00af_fb00_0000_ffff),
        (TR, 0x0000_8b00_0000_0067 | TSS << 16),
    ] {
        quad(&machine, GDT + u64::from(selector & !7), descriptor);
    }
    quad(&machine, TSS + 4, RSP0);
    quad(&machine, TSS + 0x24, IST1);
    for vector in 0..64 {
        let handler = HANDLERS + 0x10 * vector;
        gate(&machine, vector, handler, 0x8e00);
        machine.write(handler, &[0xf4]);
    }
    machine.set_sregs(|sregs| {
        sregs.cr0 = 0x8005_0033;
        sregs.cr3 = PML4;
        sregs.cr4 = 0x6a0;
        sregs.efer = 0xd01;
        sregs.cs = segment(CODE, 11, 1);
        let data = segment(DATA, 3, 0);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = kvm_segment { base: TSS, limit: 0x67, selector: TR, type_: 11, present: 1, ..Default::default() };
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x3f);
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0x3ff);
    });
    machine
}

fn gate(machine: &Machine, vector: u64, handler: u64, kind: u64) {
    let low = handler & 0xffff | u64::from(CODE) << 16 | kind << 32 | (handler >> 16 & 0xffff) << 48;
    quad(machine, IDT + 16 * vector, low);
    quad(machine, IDT + 16 * vector + 8, handler >> 32);
}

/// At ring 3, about to execute `code`.
fn user(code: &[u8]) -> Machine {
    let mut machine = machine(&[0xf4]);
    machine.write(USER_CODE, code);
    machine.set_sregs(|sregs| {
        sregs.cs = segment(USER_CODE_64, 11, 1);
        sregs.ss = segment(USER_DATA, 3, 0);
    });
    machine.set(|regs| (regs.rip, regs.rflags) = (USER_CODE, 0x202));
    machine
}

fn assembled<E: std::fmt::Debug>(ip: u64, write: impl FnOnce(&mut CodeAssembler) -> Result<(), E>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler).unwrap();
    assembler.assemble(ip).unwrap()
}

/// The vector whose handler has halted, and the frame from the error code or RIP on.
fn frame(machine: &mut Machine) -> (u64, [u64; 6]) {
    let regs = machine.run();
    let frame = [0, 8, 16, 24, 32, 40].map(|at| read_quad(machine, regs.rsp + at));
    ((regs.rip - 1 - HANDLERS) / 0x10, frame)
}

#[test]
fn code_of_64_bits_has_sixteen_wide_registers_and_addresses_by_rip() {
    let code = assembled(ENTRY, |a| {
        let mut data = a.create_label();
        a.mov(r15, 0x1122_3344_5566_7788_u64)?;
        a.mov(rax, qword_ptr(data))?;
        a.add(rax, r15)?;
        a.mov(r8d, -1)?;
        a.lea(r9, ptr(r8 + rax * 2 + 4))?;
        a.push(r9)?;
        a.pop(r10)?;
        a.movsxd(r11, r8d)?;
        a.imul_2(r11, r8)?;
        a.hlt()?;
        a.set_label(&mut data)?;
        a.dq(&[0x10])
    });
    let regs = machine(&code).run();
    assert_eq!(regs.rax, 0x1122_3344_5566_7798);
    assert_eq!(regs.r8, 0xffff_ffff);
    assert_eq!(regs.r9, regs.rax.wrapping_mul(2) + 0x1_0000_0003);
    assert_eq!((regs.r10, regs.r11, regs.rsp), (regs.r9, 0xffff_ffff_0000_0001, 0x8000));
}

#[test]
fn page_faults_have_their_error_codes_and_address() {
    // mov al, [rbx]; mov [rbx], al; jmp rbx
    let (load, store, jump) = (&[0x8a, 0x03][..], &[0x88, 0x03][..], &[0xff, 0xe3][..]);
    let page = PT + 8 * 3;
    for (code, entry, is_user, error) in [
        (load, 0, false, 0),
        (store, 0, false, 2),
        (load, 0, true, 4),
        (store, 0x3000 | 5, true, 7),
        (store, 0x3000 | 1, false, 3),
        (load, 0x3000 | 3, true, 5),
        (jump, 0x3000 | NO_EXECUTE | ALL, true, 0x15),
        (jump, 0x3000 | NO_EXECUTE | ALL, false, 0x11),
        (load, 0x3000 | 1 << 51 | ALL, false, 9),
        (jump, 0, true, 0x14),
    ] {
        let mut machine = if is_user { user(code) } else { machine(code) };
        quad(&machine, page, entry);
        machine.set(|regs| regs.rbx = 0x3008);
        let back = if code == jump { 0x3008 } else { machine.regs().rip };
        let (vector, frame) = frame(&mut machine);
        assert_eq!((vector, frame[0], frame[1]), (14, error, back), "{code:02x?} {entry:#x}");
        assert_eq!(machine.vcpu.sregs().unwrap().cr2, 0x3008);
        assert_eq!(frame[2] & 3, if is_user { 3 } else { 0 });
    }
}

#[test]
fn accesses_set_accessed_and_dirty_bits() {
    let bits = |machine: &Machine| [PML4, PDPT, PD, PT + 8 * 3].map(|at| read_quad(machine, at) & 0x60);
    let mut machine = machine(&[0x8a, 0x03, 0x88, 0x03, 0xf4]);
    machine.set(|regs| regs.rbx = 0x3000);
    machine.vcpu.step().unwrap();
    assert_eq!(bits(&machine), [0x20, 0x20, 0x20, 0x20]);
    machine.vcpu.step().unwrap();
    assert_eq!(bits(&machine), [0x20, 0x20, 0x20, 0x60]);
}

#[test]
fn an_access_over_the_end_of_a_page_happens_in_both_or_faults() {
    // mov [rbx], rax; mov rcx, [rbx]
    let mut machine = machine(&[0x48, 0x89, 0x03, 0x48, 0x8b, 0x0b, 0xf4]);
    quad(&machine, PT + 8 * 3, 0x7000 | ALL);
    machine.set(|regs| (regs.rax, regs.rbx) = (0x1122_3344_5566_7788, 0x2ffd));
    assert_eq!(machine.run().rcx, 0x1122_3344_5566_7788);
    assert_eq!((machine.read(0x2ffd), machine.read(0x7000)), ([0x88, 0x77, 0x66], [0x55, 0x44, 0x33, 0x22, 0x11]));

    let mut machine = self::machine(&[0x48, 0x89, 0x03]);
    quad(&machine, PT + 8 * 3, 0);
    machine.set(|regs| (regs.rax, regs.rbx) = (u64::MAX, 0x2ffd));
    assert_eq!((frame(&mut machine).0, machine.vcpu.sregs().unwrap().cr2), (14, 0x3000));
    assert_eq!(machine.read(0x2ffd), [0; 3]);
}

#[test]
fn a_translation_stays_until_it_is_flushed() {
    // mov al, [rbx]; [what flushes]; mov ah, [rbx]
    for (flush, flushes) in [
        (&[0x90][..], false),
        // invlpg [rbx]; mov cr3, rcx
        (&[0x0f, 0x01, 0x3b], true),
        (&[0x0f, 0x22, 0xd9], true),
    ] {
        let mut machine = machine(&[&[0x8a, 0x03], flush, &[0x8a, 0x23, 0xf4]].concat());
        machine.write(0x3000, &[1]);
        machine.write(0x7000, &[2]);
        machine.set(|regs| (regs.rbx, regs.rcx) = (0x3000, PML4));
        machine.vcpu.step().unwrap();
        quad(&machine, PT + 8 * 3, 0x7000 | ALL);
        let second = machine.run().rax >> 8 & 0xff;
        assert!(!flushes || second == 2, "{flush:02x?}: {second}");
    }
}

#[test]
fn large_pages_reach_as_far_as_their_level_says() {
    // mov rax, [rbx]
    for (entry, place, address, physical) in
        [(0x80 | ALL, PD + 8, 0x20_3010, 0x3010), (0x80 | ALL, PDPT + 8, 0x4000_7010, 0x7010)]
    {
        let mut machine = machine(&[0x48, 0x8b, 0x03, 0xf4]);
        quad(&machine, place, entry);
        quad(&machine, physical, 0x1234_5678_9abc);
        machine.set(|regs| regs.rbx = address);
        assert_eq!(machine.run().rax, 0x1234_5678_9abc);
    }
}

#[test]
fn an_exception_of_user_code_takes_the_stack_of_the_tss() {
    let mut machine = user(&[0xcc]);
    machine.set(|regs| regs.rsp = 0x7ff8);
    gate(&machine, 3, HANDLERS + 0x30, 0xee00);
    let (vector, frame) = frame(&mut machine);
    assert_eq!((vector, machine.regs().rsp), (3, RSP0 - 40));
    let expected = [USER_CODE + 1, USER_CODE_64.into(), 0x202, 0x7ff8, USER_DATA.into()];
    assert_eq!(frame[..5], expected);
    let sregs = machine.vcpu.sregs().unwrap();
    assert_eq!((sregs.cs.selector, sregs.ss.selector, sregs.ss.dpl), (CODE, 0, 0));
}

#[test]
fn a_gate_with_a_stack_of_its_own_takes_it_always() {
    let mut machine = machine(&[0x0f, 0x0b]);
    gate(&machine, 6, HANDLERS + 0x60, 0x8e01);
    let (vector, frame) = frame(&mut machine);
    assert_eq!((vector, machine.regs().rsp), (6, IST1 - 40));
    assert_eq!((frame[0], frame[3], frame[4]), (ENTRY, 0x8000, DATA.into()));
}

#[test]
fn iretq_goes_to_user_code_and_back_comes_what_a_gate_allows() {
    let code = assembled(ENTRY, |a| {
        a.push(i32::from(USER_DATA))?;
        a.push(0x7000)?;
        a.push(0x3202)?;
        a.push(i32::from(USER_CODE_64))?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    });
    let mut machine = machine(&code);
    // int 0x20, whose gate is not for user code: #GP
    machine.write(USER_CODE, &[0xcd, 0x20]);
    let (vector, frame) = frame(&mut machine);
    assert_eq!((vector, frame[0], frame[1], frame[3] & 0x3202), (13, 0x20 * 8 + 2, USER_CODE, 0x3202));
    assert_eq!((frame[4], frame[5]), (0x7000, USER_DATA.into()));
}

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let kernel = 0x1800;
    let mut machine = user(&assembled(USER_CODE, |a| {
        a.syscall()?;
        a.int3()
    }));
    machine.write(
        kernel,
        &assembled(kernel, |a| {
            a.mov(rdx, cs)?;
            a.mov(rbx, ss)?;
            a.mov(r12, r11)?;
            a.sysretq()
        }),
    );
    gate(&machine, 3, HANDLERS + 0x30, 0xee00);
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let star = u64::from(USER_CODE_32) << 48 | u64::from(CODE) << 32;
    let msrs = [entry(0xc000_0081, star), entry(0xc000_0082, kernel), entry(0xc000_0084, 0x200)];
    assert_eq!(machine.vcpu.set_msrs(&msrs).unwrap(), 3);
    let (vector, frame) = frame(&mut machine);
    let regs = machine.regs();
    assert_eq!((vector, frame[0], frame[1], frame[4]), (3, USER_CODE + 3, USER_CODE_64.into(), USER_DATA.into()));
    assert_eq!((regs.rdx, regs.rbx, regs.r12, frame[2] & 0x200), (CODE.into(), DATA.into(), 0x202, 0x200));
}

#[test]
fn swapgs_is_for_the_kernel_and_its_base_for_both() {
    // mov rax, gs:[0]; swapgs; mov rbx, gs:[0]
    let code = assembled(ENTRY, |a| {
        a.mov(rax, qword_ptr(0x10).gs())?;
        a.swapgs()?;
        a.mov(rbx, qword_ptr(0x10).gs())?;
        a.hlt()
    });
    let mut machine = machine(&code);
    quad(&machine, 0x3010, 3);
    quad(&machine, 0x7010, 7);
    machine.set_sregs(|sregs| sregs.gs.base = 0x3000);
    machine.vcpu.set_msrs(&[kvm_msr_entry { index: 0xc000_0102, data: 0x7000, ..Default::default() }]).unwrap();
    let regs = machine.run();
    assert_eq!((regs.rax, regs.rbx), (3, 7));
    let mut user = user(&[0x0f, 0x01, 0xf8]);
    assert_eq!(frame(&mut user).0, 13);
}

#[test]
fn addresses_that_are_not_canonical_are_faults_of_their_segment() {
    // mov al, [rbx]; push through rsp; jmp rbx
    for (code, vector) in [(&[0x8a, 0x03][..], 13), (&[0x50], 12), (&[0xff, 0xe3], 13)] {
        let mut machine = machine(code);
        gate(&machine, 12, HANDLERS + 0xc0, 0x8e01);
        machine.set(|regs| regs.rbx = 0x8000_0000_0000);
        if vector == 12 {
            machine.set(|regs| regs.rsp = 0x8000_0000_0004);
        }
        let (found, frame) = frame(&mut machine);
        assert_eq!((found, frame[0], frame[1]), (vector, 0, ENTRY), "{code:02x?}");
    }
}

#[test]
fn code_of_32_bits_runs_in_compatibility_mode() {
    // inc eax; mov ecx, [0x3000]; int3: bytes that mean something else in 64-bit mode
    let mut machine = user(&[0x40, 0x8b, 0x0d, 0x00, 0x30, 0, 0, 0xcc]);
    machine.set_sregs(|sregs| sregs.cs = segment(USER_CODE_32, 11, 0));
    machine.set(|regs| regs.rax = 0xffff_ffff);
    gate(&machine, 3, HANDLERS + 0x30, 0xee00);
    quad(&machine, 0x3000, 0x5566_7788);
    let (vector, frame) = frame(&mut machine);
    let regs = machine.regs();
    assert_eq!((vector, frame[0], frame[1]), (3, USER_CODE + 8, USER_CODE_32.into()));
    assert_eq!((regs.rax, regs.rcx), (0, 0x5566_7788));
}

#[test]
fn code_goes_from_real_to_long_mode() {
    #[rustfmt::skip]
    let code = [
        0x66, 0xb8, 0xa0, 0x06, 0, 0, //          mov eax, 0x6a0
        0x0f, 0x22, 0xe0, //                      mov cr4, eax
        0x66, 0xb8, 0x00, 0xa0, 0, 0, //          mov eax, PML4
        0x0f, 0x22, 0xd8, //                      mov cr3, eax
        0x66, 0xb9, 0x80, 0, 0, 0xc0, //          mov ecx, EFER
        0x0f, 0x32, //                            rdmsr
        0x0d, 0x00, 0x01, //                      or ax, LME
        0x0f, 0x30, //                            wrmsr
        0x66, 0xb8, 0x31, 0, 0, 0x80, //          mov eax, PG | PE
        0x0f, 0x22, 0xc0, //                      mov cr0, eax
        0x66, 0xea, 0x80, 0x10, 0, 0, 0x08, 0, // jmp CODE:0x1080
    ];
    let mut machine = machine(&code);
    machine.write(0x1080, &[0x48, 0xff, 0xc0, 0xf4]); // inc rax; hlt
    machine.set_sregs(|sregs| {
        let real = kvm_segment { limit: 0xffff, type_: 3, present: 1, s: 1, ..Default::default() };
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x10, 0, 0, 0);
        sregs.cs = kvm_segment { type_: 11, ..real };
        (sregs.ds, sregs.es, sregs.ss) = (real, real, real);
    });
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rax), (0x1084, 0x8000_0032));
    let sregs = machine.vcpu.sregs().unwrap();
    assert_eq!((sregs.efer & 0x500, sregs.cs.l, sregs.cs.db), (0x500, 1, 0));
}

#[test]
fn sixteen_bytes_are_compared_and_exchanged() {
    // lock cmpxchg16b [rdi], twice
    let code = [0xf0, 0x48, 0x0f, 0xc7, 0x0f];
    let mut machine = machine(&[&code[..], &code, &[0xf4]].concat());
    quad(&machine, 0x3000, 1);
    quad(&machine, 0x3008, 2);
    machine.set(|regs| (regs.rdi, regs.rax, regs.rdx, regs.rbx, regs.rcx) = (0x3000, 1, 2, 3, 4));
    let regs = machine.run();
    assert_eq!((read_quad(&machine, 0x3000), read_quad(&machine, 0x3008)), (3, 4));
    assert_eq!((regs.rax, regs.rdx, regs.rflags & ZF), (3, 4, 0));
    let mut machine = self::machine(&code);
    machine.set(|regs| regs.rdi = 0x3008);
    assert_eq!(frame(&mut machine).0, 13, "not aligned");
}

#[test]
fn page_tables_where_no_memory_is_are_page_faults_and_end() {
    let mut machine = machine(&[0x8a, 0x03]);
    quad(&machine, PDPT + 8, 0x1234_5000_0000 | ALL);
    machine.set(|regs| regs.rbx = 0x4000_0000);
    let (vector, frame) = frame(&mut machine);
    assert_eq!((vector, frame[0]), (14, 0));
    let mut machine = self::machine(&[0x90]);
    machine.set_sregs(|sregs| sregs.cr3 = 0x10_0000_0000);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Exit(Exit::Shutdown));
}

#[test]
fn registers_keep_or_lose_their_upper_halves_as_on_processors() {
    // cmpxchg ebx, ecx, with EAX another; the same where EAX is equal; rep movsb and stosb by ECX 0 with 32-bit addresses
    const WIDE: u64 = 0x1_0000_0000;
    for (code, first, expected) in [
        (&[0x0f, 0xb1, 0xcb][..], 1, [0, WIDE, WIDE, WIDE]),
        (&[0x0f, 0xb1, 0xcb], 0, [0, 0, WIDE, WIDE]),
        (&[0x67, 0xf3, 0xa4], 5, [5, WIDE, 0, 0]),
        (&[0x67, 0xf3, 0xaa], 5, [5, WIDE, WIDE, 0]),
    ] {
        let mut machine = machine(&[code, &[0xf4]].concat());
        machine.set(|regs| (regs.rax, regs.rbx, regs.rsi, regs.rdi) = (first, WIDE, WIDE, WIDE));
        let regs = machine.run();
        assert_eq!([regs.rax, regs.rbx, regs.rsi, regs.rdi], expected, "{code:02x?}");
    }
}

#[test]
fn strings_of_many_items_cross_pages_and_stop_where_they_fault() {
    // rep movsq; mov al, 0x5a; rep stosb
    let mut machine = machine(&[0xf3, 0x48, 0xa5, 0xf4]);
    let bytes: Vec<u8> = (0..0x1800_u32).map(|at| (at * 7 >> 3) as u8).collect();
    machine.write(0x2004, &bytes);
    machine.set(|regs| (regs.rsi, regs.rdi, regs.rcx) = (0x2004, 0x6802, 0x300));
    let regs = machine.run();
    assert_eq!((regs.rsi, regs.rdi, regs.rcx, regs.rip), (0x3804, 0x8002, 0, ENTRY + 4));
    assert_eq!(memory::read_at(&machine.ram, 0x6802, 0x1800), bytes);

    // It overlaps itself by one byte: the first is everywhere.
    let mut machine = self::machine(&[0xf3, 0xa4, 0xf4]);
    machine.write(0x2000, &[0x5a]);
    machine.set(|regs| (regs.rsi, regs.rdi, regs.rcx) = (0x2000, 0x2001, 0x1fff));
    machine.run();
    assert_eq!(memory::read_at(&machine.ram, 0x2000, 0x2000), [0x5a; 0x2000]);

    // The second page is absent.
    let mut machine = self::machine(&[0xf3, 0xaa]);
    quad(&machine, PT + 8 * 3, 0);
    machine.set(|regs| (regs.rax, regs.rdi, regs.rcx) = (0x77, 0x2ff0, 0x20));
    let (vector, frame) = frame(&mut machine);
    let regs = machine.regs();
    assert_eq!((vector, frame[1], regs.rdi, regs.rcx), (14, ENTRY, 0x3000, 0x10));
    assert_eq!((machine.vcpu.sregs().unwrap().cr2, machine.read(0x2ff0)), (0x3000, [0x77; 0x10]));
}
