//! Where things are in a user-mode program's machine: page tables, descriptor tables, handlers, and the areas it works on.

use hypervisor::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_bindings::kvm_dtable;

use super::program::Start;
use super::values;
use crate::differential::layout::Area;

/// Page tables, descriptor tables and handlers. No program changes them: accessed and dirty bits are set already.
pub const TABLES: Area = Area { start: 0, len: 0xe000, read_only: false };
/// The stack of ring 0, and behind it where handlers store the x87 and SSE state.
pub const KERNEL: Area = Area { start: 0xe000, len: 0x2000, read_only: false };
/// The program, and constants in its last bytes.
pub const CODE: Area = Area { start: 0x1_0000, len: 0x1000, read_only: false };
/// What the program works on. The linear page above it is not present.
pub const DATA: Area = Area { start: 0x2_0000, len: 0x2000, read_only: false };
/// Memory that page tables let the program write, while the slot does not: writes exit.
pub const FIXED: Area = Area { start: 0x2_8000, len: 0x1000, read_only: true };
/// The stack. The linear pages beside it are not present.
pub const STACK: Area = Area { start: 0x3_0000, len: 0x1000, read_only: false };
/// All RAM there is, in the order in which it is in the memfd.
pub const AREAS: [Area; 6] = [TABLES, KERNEL, CODE, DATA, FIXED, STACK];
/// Bytes of all areas.
pub const RAM_LEN: usize = offset(&STACK) + STACK.len as usize;

/// A page that maps [`DATA`]'s first and cannot be written.
pub const CONSTANT: u64 = 0x2_3000;
/// A page that user mode cannot access.
pub const SUPERVISOR: u64 = 0x2_4000;
/// A page whose entry has a reserved bit set.
pub const RESERVED: u64 = 0x2_5000;
/// A page where there is no memory, so that each access exits.
pub const HOLE: u64 = 0x2_c000;
/// [`DATA`] again, at the top of user space.
pub const HIGH: u64 = 0x7f12_3456_7000;
/// [`DATA`] again, in the upper half of the address space.
pub const UPPER: u64 = 0xffff_8812_3456_7000;
/// The first 2 MiB of memory again, as one large page.
pub const LARGE: u64 = 0x4000_0000;
/// The base of FS.
pub const FS: u64 = DATA.start + 0x100;
/// The base of GS.
pub const GS: u64 = HIGH + 0x200;

/// The stack pointer's first value: with room on both sides.
pub const STACK_TOP: u64 = STACK.start + 0x800;
/// Bytes of what `fxsave` stores.
pub const STATE_LEN: u64 = 512;
/// Where the program finds the x87 and SSE state that it starts with.
pub const FIRST_STATE: u64 = CODE.start + CODE.len - STATE_LEN;
/// Where the program stores its last state.
pub const LAST_STATE: u64 = STACK.start + STACK.len - STATE_LEN;
/// Where handlers store the x87 and SSE state.
pub const FXSAVE: u64 = KERNEL.start + 0x1000;
/// Bytes of a program at most.
pub const PROGRAM_LEN: u64 = CODE.len - STATE_LEN;

/// The selectors of user mode.
pub const USER_CODE: u16 = 0x2b;
/// See [`USER_CODE`].
pub const USER_DATA: u16 = 0x23;
const KERNEL_CODE: u16 = 0x08;
const TASK: u16 = 0x30;

const PML4: u64 = 0x1000;
const LOW_TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];
const HIGH_TABLES: [u64; 3] = [0x5000, 0x6000, 0x7000];
const UPPER_TABLES: [u64; 3] = [0x8000, 0x9000, 0xa000];
const GDT: u64 = 0xb000;
const TSS: u64 = 0xb800;
const IDT: u64 = 0xc000;
const HANDLERS: u64 = 0xd000;
/// Bytes of a handler.
const HANDLER: u64 = 16;

/// A handler writes to the port of its vector; what is below this is the vector of an exception.
pub const VECTORS: u16 = 0x20;
/// The port of the one handler of all other vectors.
pub const SOFTWARE_INTERRUPT: u16 = 0xf2;
/// The last port that the task state lets user mode have.
pub const LAST_PORT: u16 = 0x2ff;

/// Bytes of the task state before its map of ports.
const TASK_LEN: u16 = 0x68;
/// The map ends by a byte of ones.
const TASK_LIMIT: u64 = TASK_LEN as u64 + (LAST_PORT as u64 + 1) / 8;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 3 << 5;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const NX: u64 = 1 << 63;
/// Above the 46 bits of a physical address that the processor is given.
const RESERVED_BIT: u64 = 1 << 51;

/// Where the first byte of `area` is in the memfd.
pub const fn offset(area: &Area) -> usize {
    let mut offset = 0;
    let mut index = 0;
    while AREAS[index].start < area.start {
        offset += AREAS[index].len as usize;
        index += 1;
    }
    offset
}

/// Where a byte of RAM is in the memfd.
pub fn in_memfd(physical: u64) -> Option<usize> {
    let area = AREAS.iter().find(|area| (area.start..area.start + area.len).contains(&physical))?;
    Some(offset(area) + (physical - area.start) as usize)
}

/// The page tables, descriptor tables and handlers: the content of [`TABLES`].
pub fn tables() -> Vec<u8> {
    let mut image = vec![0; TABLES.len as usize];
    let mut put = |at: u64, bytes: &[u8]| image[at as usize..][..bytes.len()].copy_from_slice(bytes);
    let mut entry = |table: u64, index: u64, entry: u64| put(table + 8 * (index & 511), &entry.to_le_bytes());
    let table = |at: u64| at | PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
    let data = |at: u64| table(at) | NX;
    for (linear, [third, second, first]) in [(0, LOW_TABLES), (HIGH, HIGH_TABLES), (UPPER, UPPER_TABLES)] {
        entry(PML4, linear >> 39, table(third));
        entry(third, linear >> 30, table(second));
        entry(second, linear >> 21, table(first));
    }
    for area in [TABLES, KERNEL] {
        for page in (area.start..area.start + area.len).step_by(0x1000) {
            entry(LOW_TABLES[2], page >> 12, page | PRESENT | WRITABLE | ACCESSED_DIRTY);
        }
    }
    for area in [DATA, FIXED, STACK, Area { start: HOLE, len: 0x1000, read_only: false }] {
        for page in (area.start..area.start + area.len).step_by(0x1000) {
            entry(LOW_TABLES[2], page >> 12, data(page));
        }
    }
    for page in [DATA.start, DATA.start + 0x1000] {
        let at = |alias: u64| (alias + page - DATA.start) >> 12;
        entry(HIGH_TABLES[2], at(HIGH), data(page));
        entry(UPPER_TABLES[2], at(UPPER), data(page));
    }
    entry(LOW_TABLES[2], CODE.start >> 12, table(CODE.start) & !WRITABLE);
    entry(LOW_TABLES[2], CONSTANT >> 12, data(DATA.start) & !WRITABLE);
    entry(LOW_TABLES[2], SUPERVISOR >> 12, data(DATA.start) & !USER);
    entry(LOW_TABLES[2], RESERVED >> 12, data(DATA.start) | RESERVED_BIT);
    // The large page has a second-level table of its own: that of [`HIGH`], whose entries are far from its first.
    entry(LOW_TABLES[0], LARGE >> 30, table(HIGH_TABLES[1]));
    entry(HIGH_TABLES[1], LARGE >> 21, data(0) | PAGE_SIZE_BIT);
    for (index, descriptor) in gdt().iter().enumerate() {
        put(GDT + 8 * index as u64, &descriptor.to_le_bytes());
    }
    put(TSS + 4, &(KERNEL.start + 0x1000).to_le_bytes());
    put(TSS + 0x66, &TASK_LEN.to_le_bytes());
    put(TSS + TASK_LIMIT, &[0xff]);
    for (slot, port) in (0..).zip((0..VECTORS).chain([SOFTWARE_INTERRUPT])) {
        // fxsave [FXSAVE]; out port, al; hlt, which is not reached
        let [a, b, c, d] = (FXSAVE as u32).to_le_bytes();
        put(HANDLERS + HANDLER * slot, &[0x0f, 0xae, 0x04, 0x25, a, b, c, d, 0xe6, port as u8, 0xf4]);
    }
    for vector in 0..256 {
        // A 64-bit interrupt gate of DPL 3.
        let handler = HANDLERS + HANDLER * u64::from(VECTORS).min(vector);
        let gate = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0xee00 << 32 | (handler >> 16) << 48;
        put(IDT + 16 * vector, &gate.to_le_bytes());
    }
    image
}

/// Null, kernel code and data, user code of 32 bits, user data, user code, task state.
fn gdt() -> [u64; 8] {
    let flat = |access: u64, flags: u64| 0xffff | access << 40 | 0xf << 48 | flags << 52;
    let task = TASK_LIMIT | (TSS & 0xff_ffff) << 16 | 0x8b << 40;
    [0, flat(0x9b, 0xa), flat(0x93, 0xc), flat(0xfb, 0xc), flat(0xf3, 0xc), flat(0xfb, 0xa), task, TSS >> 32]
}

/// All RAM above [`TABLES`] as it is before `code` runs, in the memfd's order.
pub fn image(start: &Start, code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; RAM_LEN - TABLES.len as usize];
    let at = |area: &Area| offset(area) - TABLES.len as usize;
    image[at(&CODE)..][..code.len()].copy_from_slice(code);
    image[at(&CODE) + (FIRST_STATE - CODE.start) as usize..][..STATE_LEN as usize].copy_from_slice(&state(start));
    let mut seed = start.memory;
    for block in image[at(&DATA)..].chunks_exact_mut(16) {
        block.copy_from_slice(&values::block(&mut seed));
    }
    image
}

/// Segment and control registers at the start, made from a vCPU's own after reset.
pub fn sregs(reset: &kvm_sregs) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, l: u8| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    let data = segment(USER_DATA, 3, 0);
    let table = |base, limit| kvm_dtable { base, limit, ..Default::default() };
    kvm_sregs {
        cs: segment(USER_CODE, 11, 1),
        ds: data,
        es: data,
        fs: kvm_segment { base: FS, ..data },
        gs: kvm_segment { base: GS, ..data },
        ss: data,
        tr: kvm_segment {
            base: TSS,
            limit: TASK_LIMIT as u32,
            selector: TASK,
            type_: 11,
            present: 1,
            ..Default::default()
        },
        gdt: table(GDT, 8 * 8 - 1),
        idt: table(IDT, 0xfff),
        // PG, AM, WP, NE, ET, MP, PE.
        cr0: 0x8005_0033,
        cr2: 0,
        cr3: PML4,
        // PAE, OSFXSR, OSXMMEXCPT.
        cr4: 0x620,
        // NXE, LMA, LME, SCE.
        efer: 0xd01,
        ..*reset
    }
}

/// General registers at the start.
pub fn regs(start: &Start) -> kvm_regs {
    let [rax, rcx, rdx, rbx, _, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = start.registers;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp: STACK_TOP,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: CODE.start,
        // With IF and IOPL 0, as this KVM has them in user mode, whatever the registers say.
        rflags: u64::from(start.flags) | 0x200,
    }
}

/// The x87 and SSE state at the start, as `fxrstor` loads it (Intel SDM volume 1, table 10-2).
fn state(start: &Start) -> [u8; STATE_LEN as usize] {
    let mut seed = start.memory ^ 0x5555;
    let mut image = [0; STATE_LEN as usize];
    let depth = depth(start);
    let status = ((8 - depth as u16) % 8) << 11;
    image[..2].copy_from_slice(&start.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = !(0xff_u16 >> depth) as u8;
    image[24..28].copy_from_slice(&start.mxcsr.to_le_bytes());
    let (x87, sse) = image[32..416].split_at_mut(128);
    for register in x87.chunks_exact_mut(16) {
        register[..10].copy_from_slice(&values::extended(&mut seed));
    }
    for register in sse.chunks_exact_mut(16) {
        register.copy_from_slice(&values::block(&mut seed));
    }
    image
}

/// How many x87 registers are in use at the start. MMX programs start with none, as after `emms`.
pub fn depth(start: &Start) -> u32 {
    (start.memory >> 60) as u32 % 9
}
