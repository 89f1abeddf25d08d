//! Where things lie in a generated program's machine, and the tables of its modes.

use hypervisor::{kvm_regs, kvm_sregs};
use kvm_bindings::{kvm_dtable, kvm_segment};

use super::program::{Mode, Start};

/// Interrupt vectors, handlers, and the tables of protected mode.
pub const LOW: Area = Area { start: 0, len: 0x1000, read_only: false };
/// The program.
pub const CODE: Area = Area { start: 0x8000, len: 0x1000, read_only: false };
/// The most bytes of a program; what follows is there to be changed.
pub const PROGRAM_LEN: u64 = 0xc00;
/// What the program works on. Above it is nobody's memory.
pub const DATA: Area = Area { start: 0x1_0000, len: 0x2000, read_only: false };
/// Memory whose writes exit.
pub const FIXED: Area = Area { start: 0x1_8000, len: 0x1000, read_only: true };
/// The stack, in the lowest page of its segment.
pub const STACK: Area = Area { start: 0x2_0000, len: 0x1000, read_only: false };
/// All RAM there is, in the order in which it lies in the memfd.
pub const AREAS: [Area; 5] = [LOW, CODE, DATA, FIXED, STACK];
/// Bytes of all areas.
pub const RAM_LEN: usize = (LOW.len + CODE.len + DATA.len + FIXED.len + STACK.len) as usize;

/// The stack pointer's first offset: with room on both sides.
pub const STACK_TOP: u32 = 0x800;
/// The end of every segment of 64 KiB.
const LIMIT: u32 = 0xffff;
/// The end of the stack's segment in [`Mode::Segmented`], whose base is 0.
const STACK_LIMIT: u32 = 0x2_ffff;

/// The port that a program ends with.
pub const FINAL_PORT: u16 = 0xf0;
/// A handler writes to the port of its vector; what is below this is such a port.
pub const VECTORS: u16 = 0x20;
/// Vectors whose handlers let the program go on: #DB, #BP and #OF, which are traps.
pub const TRAPS: [u16; 3] = [1, 3, 4];

const HANDLERS: u32 = 0x400;
const RETURN: u32 = 0x480;
const GDT: u64 = 0x600;
const GDT_ENTRIES: u32 = 11;
const IDT: u64 = 0x800;

/// Selectors of the GDT. The first two are flat.
pub mod selector {
    /// Code from 0 to 4 GiB.
    pub const FLAT_CODE: u16 = 0x08;
    /// Data from 0 to 4 GiB.
    pub const FLAT_DATA: u16 = 0x10;
    /// Code that begins at [`super::CODE`].
    pub const CODE: u16 = 0x18;
    /// 64 KiB of data at [`super::DATA`].
    pub const DATA: u16 = 0x20;
    /// Data from 0 to 64 KiB above [`super::STACK`]'s start.
    pub const STACK: u16 = 0x28;
    /// Data at [`super::DATA`] that cannot be written.
    pub const CONSTANT: u16 = 0x30;
    /// Data at [`super::DATA`] that grows down: its offsets are 0x1000 to 0xffff.
    pub const DOWN: u16 = 0x38;
    /// A segment that is not present.
    pub const ABSENT: u16 = 0x40;
    /// A task's state that is not in use.
    pub const TASK: u16 = 0x48;
    /// A local descriptor table: the same as the global one.
    pub const LOCAL: u16 = 0x50;
}

/// Memory in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Guest-physical start.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Whether writes exit.
    pub read_only: bool,
}

impl Area {
    /// Where its first byte lies in the memfd.
    pub fn offset(&self) -> usize {
        let before = AREAS.iter().take_while(|area| area.start < self.start);
        before.map(|area| area.len as usize).sum()
    }
}

/// What a segment's window shows: the segment's base and the selector it is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Linear address of the window's offset 0.
    pub base: u32,
    /// The selector.
    pub selector: u16,
}

/// The windows a mode starts with.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// CS.
    pub code: Window,
    /// DS and ES.
    pub data: Window,
    /// FS.
    pub fixed: Window,
    /// SS and GS.
    pub stack: Window,
}

/// The windows of `mode`.
pub fn windows(mode: Mode) -> Windows {
    let window = |base: u64, selector| Window { base: base as u32, selector };
    match mode {
        Mode::Real => Windows {
            code: window(CODE.start, (CODE.start >> 4) as u16),
            data: window(DATA.start, (DATA.start >> 4) as u16),
            fixed: window(FIXED.start, (FIXED.start >> 4) as u16),
            stack: window(STACK.start, (STACK.start >> 4) as u16),
        },
        Mode::Flat => {
            let data = window(0, selector::FLAT_DATA);
            Windows { code: window(0, selector::FLAT_CODE), data, fixed: data, stack: data }
        }
        Mode::Segmented => Windows {
            code: window(CODE.start, selector::CODE),
            data: window(DATA.start, selector::DATA),
            fixed: window(DATA.start, selector::CONSTANT),
            // See the quirk of frames that are pushed regardless of the stack segment's base.
            stack: window(0, selector::STACK),
        },
    }
}

/// All RAM as it is before `code` runs in `mode`, in the memfd's order.
pub fn image(start: &Start, code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; RAM_LEN];
    low(start.mode, &mut image[..LOW.len as usize]);
    image[CODE.offset()..][..code.len()].copy_from_slice(code);
    let mut random = start.memory;
    for word in image[DATA.offset()..].chunks_exact_mut(8) {
        word.copy_from_slice(&super::random(&mut random).to_le_bytes());
    }
    image
}

fn low(mode: Mode, low: &mut [u8]) {
    let mut put = |at: u64, bytes: &[u8]| low[at as usize..][..bytes.len()].copy_from_slice(bytes);
    for vector in 0..256_u16 {
        let handler = if vector < VECTORS { HANDLERS + 4 * u32::from(vector) } else { RETURN };
        if vector < VECTORS {
            // out vector, al; then iret, or hlt, which is not reached
            let end = if TRAPS.contains(&vector) { 0xcf } else { 0xf4 };
            put(handler.into(), &[0xe6, vector as u8, end]);
        }
        if mode == Mode::Real {
            put(4 * u64::from(vector), &handler.to_le_bytes());
        } else {
            // A 32-bit interrupt gate, or a trap gate for every second vector; both of DPL 3.
            let kind = 0xee00 | (vector & 1) << 8;
            let [a, b] = (handler as u16).to_le_bytes();
            let [c, d] = selector::FLAT_CODE.to_le_bytes();
            let [e, f] = kind.to_le_bytes();
            put(IDT + 8 * u64::from(vector), &[a, b, c, d, e, f, 0, 0]);
        }
    }
    put(RETURN.into(), &[0xcf]);
    if mode != Mode::Real {
        for (index, descriptor) in gdt().iter().enumerate() {
            put(GDT + 8 * index as u64, &descriptor.to_le_bytes());
        }
    }
}

/// Each descriptor is marked as accessed, so that loading it writes nothing.
fn gdt() -> [u64; GDT_ENTRIES as usize] {
    const FLAT: u32 = 0xf_ffff;
    const BIG: u64 = 0xc;
    const BYTES: u64 = 0x4;
    [
        0,
        descriptor(0, FLAT, 0x9b, BIG),
        descriptor(0, FLAT, 0x93, BIG),
        descriptor(CODE.start, LIMIT, 0x9b, BYTES),
        descriptor(DATA.start, LIMIT, 0x93, BYTES),
        descriptor(0, STACK_LIMIT, 0x93, BYTES),
        descriptor(DATA.start, LIMIT, 0x91, BYTES),
        descriptor(DATA.start, 0xfff, 0x97, 0),
        descriptor(DATA.start, LIMIT, 0x13, BYTES),
        descriptor(LOW.start, 0x67, 0x89, 0),
        descriptor(GDT, GDT_ENTRIES * 8 - 1, 0x82, 0),
    ]
}

/// Intel SDM volume 3, figure 3-8.
fn descriptor(base: u64, limit: u32, access: u64, flags: u64) -> u64 {
    let limit = u64::from(limit);
    limit & 0xffff | (base & 0xff_ffff) << 16 | access << 40 | (limit >> 16) << 48 | flags << 52 | (base >> 24) << 56
}

/// Segment and control registers at the start, made from a vCPU's own after reset.
pub fn sregs(mode: Mode, reset: &kvm_sregs) -> kvm_sregs {
    let windows = windows(mode);
    let segment = |window: Window, type_: u8| {
        let stack = mode == Mode::Segmented && window.selector == selector::STACK;
        let (limit, db, g) = match mode {
            Mode::Real => (LIMIT, 0, 0),
            Mode::Flat => (u32::MAX, 1, 1),
            Mode::Segmented => (if stack { STACK_LIMIT } else { LIMIT }, 1, 0),
        };
        kvm_segment {
            base: window.base.into(),
            limit,
            selector: window.selector,
            type_,
            present: 1,
            s: 1,
            db,
            g,
            ..Default::default()
        }
    };
    let mut sregs = *reset;
    let fixed_type = if mode == Mode::Segmented { 1 } else { 3 };
    sregs.cs = segment(windows.code, 11);
    (sregs.ds, sregs.es) = (segment(windows.data, 3), segment(windows.data, 3));
    sregs.fs = segment(windows.fixed, fixed_type);
    (sregs.ss, sregs.gs) = (segment(windows.stack, 3), segment(windows.stack, 3));
    // ET always; no caches to speak of.
    sregs.cr0 = 0x10;
    if mode != Mode::Real {
        sregs.cr0 |= 1;
    }
    let table = |idt| {
        let (base, limit) = table(mode, idt);
        kvm_dtable { base: base.into(), limit: limit as u16, ..Default::default() }
    };
    (sregs.idt, sregs.gdt) = (table(true), table(false));
    sregs
}

/// Base and limit of the interrupt or the segment descriptor table.
pub fn table(mode: Mode, idt: bool) -> (u32, u32) {
    match (mode, idt) {
        (Mode::Real, true) => (0, 0x3ff),
        (_, true) => (IDT as u32, 0x7ff),
        (_, false) => (GDT as u32, GDT_ENTRIES * 8 - 1),
    }
}

/// General registers at the start.
pub fn regs(start: &Start) -> kvm_regs {
    let windows = windows(start.mode);
    let [rax, rcx, rdx, rbx, _, rbp, rsi, rdi] = start.registers.map(u64::from);
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp: (STACK.start - u64::from(windows.stack.base)) + u64::from(STACK_TOP),
        rbp,
        rip: CODE.start - u64::from(windows.code.base),
        rflags: start.flags.into(),
        ..Default::default()
    }
}
