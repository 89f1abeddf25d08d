//! Bytes that nobody wrote as code, page tables, or descriptors, with paging on: they end in something defined, within a
//! bounded number of steps.

use hypervisor::{Exit, kvm_segment};

use super::garbage::{Numbers, execute, finish};
use super::*;

/// The root of page tables that lead to themselves and to garbage.
const ROOT: u64 = 0x1000;
const TABLES: [u64; 4] = [ROOT, 0x2000, 0x3000, 0x4000];
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const CODE: u64 = 0x8000;

/// An entry that mostly leads to one of the tables or to RAM, and now and then anywhere.
fn entry(numbers: &mut Numbers) -> u64 {
    let bits = numbers.next();
    let frame = match bits >> 60 {
        0..6 => TABLES[(bits >> 56) as usize % TABLES.len()],
        6..14 => bits >> 20 & 0xf000,
        14 => bits & 0x3fff_ffff_f000,
        _ => bits & 0x000f_ffff_ffff_f000,
    };
    // Mostly present, writable, for user mode; seldom NX or reserved bits.
    let likely = if bits & 0x70 == 0 { 0 } else { 7 };
    let rare = if bits & 0xf00 == 0 { numbers.next() & 0xfff0_0000_0000_0fff } else { 0 };
    frame | likely | rare | bits >> 12 & 0x1e0
}

/// Fills memory: tables, descriptors, code.
fn fill(machine: &mut Machine, numbers: &mut Numbers) {
    let words = |len: u64, numbers: &mut Numbers, make: &dyn Fn(&mut Numbers) -> u64| -> Vec<u8> {
        (0..len / 8).flat_map(|_| make(numbers).to_le_bytes()).collect()
    };
    for table in TABLES {
        machine.write(table, &words(0x1000, numbers, &entry));
    }
    // The code is mapped one to one, for what begins there.
    for (level, table) in TABLES.iter().enumerate() {
        let next = TABLES.get(level + 1).copied().unwrap_or(0);
        let index = if next == 0 { CODE >> 12 } else { 0 };
        machine.write(table + 8 * index, &(if next == 0 { CODE } else { next } | 7).to_le_bytes());
    }
    // Descriptors and gates of all kinds, mostly present and of ring 0 or 3.
    let descriptor = |numbers: &mut Numbers| {
        let bits = numbers.next();
        bits & !(0xf0 << 40) | 0x80 << 40 | bits >> 3 & 0x60 << 40 | bits >> 5 & 0x10 << 40
    };
    machine.write(GDT, &words(0x400, numbers, &descriptor));
    machine.write(IDT, &words(0x1000, numbers, &descriptor));
    machine.write(CODE, &words(0x1000, numbers, &|numbers| numbers.next()));
}

#[test]
fn garbage_in_paged_modes_is_executed_without_a_panic() {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut machine = Machine::new(&[]);
    let reset = machine.vcpu.sregs().unwrap();
    for round in 0..3_000 {
        fill(&mut machine, &mut numbers);
        let (long, user) = (round % 3 != 0, round % 2 == 0);
        let dpl = if user { 3 } else { 0 };
        let segment = |selector: u16, type_: u8, l: u8| kvm_segment {
            limit: u32::MAX,
            selector: selector | u16::from(dpl),
            type_,
            present: 1,
            dpl,
            db: 1 - l,
            s: 1,
            l,
            g: 1,
            ..Default::default()
        };
        let mut sregs = reset;
        let code = u8::from(long && round % 5 != 0);
        sregs.cs = segment(8, 11, code);
        (sregs.ds, sregs.es, sregs.fs) = (segment(16, 3, 0), segment(16, 3, 0), segment(16, 3, 0));
        (sregs.gs, sregs.ss) = (sregs.ds, sregs.ds);
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x3ff);
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
        // A task state of garbage: what is in the first page.
        sregs.tr =
            kvm_segment { base: 0x400, limit: 0x200, type_: 11, present: 1, selector: 0x18, ..Default::default() };
        sregs.cr3 = ROOT;
        sregs.cr0 = 0x8000_0033 | numbers.next() & 0x5_0000;
        // PAE, and any of DE, PSE, PGE, OSFXSR, OSXMMEXCPT.
        sregs.cr4 = 0x20 | numbers.next() & 0x698;
        sregs.efer = if long { 0xd01 } else { 0x800 };
        machine.vcpu.set_sregs(&sregs).unwrap();
        machine.vcpu.set_mp_state(&Default::default()).unwrap();
        machine.vcpu.set_vcpu_events(&Default::default()).unwrap();
        machine.set(|regs| {
            *regs = kvm_regs {
                rax: numbers.register(),
                rbx: numbers.register(),
                rcx: numbers.register() & 0xfff,
                rdx: numbers.register(),
                rsi: numbers.register(),
                rdi: numbers.register(),
                rbp: numbers.register(),
                rsp: numbers.register(),
                r8: numbers.register(),
                r15: numbers.next(),
                rip: CODE + numbers.next() % 0xf00,
                rflags: numbers.next() & 0x27_7fd7 & !(1 << 17) | 2,
                ..Default::default()
            };
        });
        execute(&mut machine, &mut numbers);
        finish(&mut machine);
    }
}

#[test]
fn tables_that_lead_to_themselves_end_a_walk() {
    let mut machine = Machine::new(&[]);
    let mut sregs = machine.vcpu.sregs().unwrap();
    // Each entry leads to the root: as the last level it maps the root itself.
    for index in 0..512 {
        machine.write(ROOT + 8 * index, &(ROOT | 7).to_le_bytes());
    }
    // In the root, seen as code: `add [rax], al` among others; RAX leads to the same page.
    sregs.cs =
        kvm_segment { limit: u32::MAX, selector: 8, type_: 11, present: 1, s: 1, l: 1, g: 1, ..Default::default() };
    sregs.cr3 = ROOT;
    sregs.cr0 = 0x8000_0033;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    machine.vcpu.set_sregs(&sregs).unwrap();
    machine.set(|regs| (regs.rip, regs.rax) = (0xf00, 0x7fff_ffff_f000));
    for _ in 0..1_000 {
        if let Stop::Exit(exit) = machine.vcpu.step().unwrap() {
            assert!(matches!(exit, Exit::Shutdown | Exit::InternalError(_)), "{exit:?}");
            return;
        }
    }
}
