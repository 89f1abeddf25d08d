//! The mode a vCPU executes in, worked out from its registers once and not by each instruction.

use kvm_bindings::{kvm_segment, kvm_sregs};

use super::flags::{AC, VM};
use super::regs::Regs;
use super::tlb::Right;

/// CR0: protected mode.
pub(in crate::mock) const CR0_PE: u64 = 1;
/// CR0: monitor the coprocessor: `wait` looks at TS.
pub(in crate::mock) const CR0_MP: u64 = 1 << 1;
/// CR0: x87 instructions are emulated by software.
pub(in crate::mock) const CR0_EM: u64 = 1 << 2;
/// CR0: a task switch has happened since x87 and SSE state was loaded.
pub(in crate::mock) const CR0_TS: u64 = 1 << 3;
/// CR0: the extension type, always set.
pub(in crate::mock) const CR0_ET: u64 = 1 << 4;
/// CR0: x87 errors are exceptions, not interrupts.
pub(in crate::mock) const CR0_NE: u64 = 1 << 5;
/// CR0: read-only pages are so for the kernel too.
pub(in crate::mock) const CR0_WP: u64 = 1 << 16;
/// CR0: AC in the flags turns alignment checks on.
pub(in crate::mock) const CR0_AM: u64 = 1 << 18;
/// CR0: not write-through.
pub(in crate::mock) const CR0_NW: u64 = 1 << 29;
/// CR0: caches off.
pub(in crate::mock) const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub(in crate::mock) const CR0_PG: u64 = 1 << 31;

/// CR4: virtual 8086 mode extensions.
pub(in crate::mock) const CR4_VME: u64 = 1;
/// CR4: virtual interrupts in protected mode.
pub(in crate::mock) const CR4_PVI: u64 = 1 << 1;
/// CR4: time stamps for privileged code only.
pub(in crate::mock) const CR4_TSD: u64 = 1 << 2;
/// CR4: debugging extensions.
pub(in crate::mock) const CR4_DE: u64 = 1 << 3;
/// CR4: pages of 4 MiB.
pub(in crate::mock) const CR4_PSE: u64 = 1 << 4;
/// CR4: page table entries of 8 bytes.
pub(in crate::mock) const CR4_PAE: u64 = 1 << 5;
/// CR4: machine checks.
pub(in crate::mock) const CR4_MCE: u64 = 1 << 6;
/// CR4: global pages.
pub(in crate::mock) const CR4_PGE: u64 = 1 << 7;
/// CR4: performance counters for any code.
pub(in crate::mock) const CR4_PCE: u64 = 1 << 8;
/// CR4: SSE is on.
pub(in crate::mock) const CR4_OSFXSR: u64 = 1 << 9;
/// CR4: SSE's exceptions are #XM.
pub(in crate::mock) const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4: what tells of descriptor tables is for privileged code only.
pub(in crate::mock) const CR4_UMIP: u64 = 1 << 11;
/// CR4: `rdfsbase` and its like.
pub(in crate::mock) const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4: process-context identifiers.
pub(in crate::mock) const CR4_PCIDE: u64 = 1 << 17;
/// CR4: `xsave` is on.
pub(in crate::mock) const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: the kernel does not execute the user's pages.
pub(in crate::mock) const CR4_SMEP: u64 = 1 << 20;
/// CR4: the kernel does not touch the user's pages unless AC says so.
pub(in crate::mock) const CR4_SMAP: u64 = 1 << 21;

/// EFER: `syscall` is on.
pub(in crate::mock) const EFER_SCE: u64 = 1;
/// EFER: long mode begins with paging.
pub(in crate::mock) const EFER_LME: u64 = 1 << 8;
/// EFER: long mode is active.
pub(in crate::mock) const EFER_LMA: u64 = 1 << 10;
/// EFER: pages may forbid execution.
pub(in crate::mock) const EFER_NXE: u64 = 1 << 11;

/// The bytes of code segment kinds: how a vCPU decodes and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Mode {
    /// The default size of code: 16, 32 or 64.
    pub(in crate::mock) bits: u8,
    /// The current privilege level.
    pub(in crate::mock) cpl: u8,
    /// Bytes of the stack pointer that count: 2, 4 or 8.
    pub(in crate::mock) stack_width: u8,
    /// Segments come from descriptor tables: protected mode, not virtual 8086 mode.
    pub(in crate::mock) is_protected: bool,
    /// Virtual 8086 mode.
    pub(in crate::mock) is_virtual_8086: bool,
    /// Long mode is active: 64-bit or compatibility mode.
    pub(in crate::mock) is_long: bool,
    pub(in crate::mock) is_paged: bool,
    /// Misaligned accesses are #AC.
    pub(in crate::mock) checks_alignment: bool,
    /// Debug registers watch code, data or ports.
    pub(in crate::mock) has_breakpoints: bool,
    /// The bits that a linear address has here.
    pub(in crate::mock) linear_mask: u64,
    /// The rights that an access of the program needs.
    pub(in crate::mock) read: Right,
    pub(in crate::mock) write: Right,
    pub(in crate::mock) fetch: Right,
}

/// DR7: the bits that enable a breakpoint each.
const DR7_ENABLES: u64 = 0xff;

impl Mode {
    pub(in crate::mock) fn of(regs: &Regs, sregs: &kvm_sregs, dr7: u64) -> Self {
        let has_pe = sregs.cr0 & CR0_PE != 0;
        let is_virtual_8086 = has_pe && regs.has(VM) && sregs.efer & EFER_LMA == 0;
        let is_long = has_pe && sregs.efer & EFER_LMA != 0;
        let is_64_bit = is_long && sregs.cs.l != 0;
        let cpl = if is_virtual_8086 {
            3
        } else if has_pe {
            sregs.ss.dpl & 3
        } else {
            0
        };
        let wide = |segment: &kvm_segment| segment.db != 0;
        let guards_user_pages = sregs.cr4 & CR4_SMAP != 0 && !regs.has(AC);
        let (read, write, fetch) = match cpl {
            3 => (Right::USER_READ, Right::USER_WRITE, Right::USER_FETCH),
            _ if guards_user_pages => (Right::GUARDED_READ, Right::GUARDED_WRITE, Right::KERNEL_FETCH),
            _ => (Right::KERNEL_READ, Right::KERNEL_WRITE, Right::KERNEL_FETCH),
        };
        Self {
            bits: if is_64_bit {
                64
            } else if wide(&sregs.cs) {
                32
            } else {
                16
            },
            cpl,
            stack_width: if is_64_bit {
                8
            } else if wide(&sregs.ss) {
                4
            } else {
                2
            },
            is_protected: has_pe && !is_virtual_8086,
            is_virtual_8086,
            is_long,
            is_paged: has_pe && sregs.cr0 & CR0_PG != 0,
            checks_alignment: cpl == 3 && sregs.cr0 & CR0_AM != 0 && regs.has(AC),
            has_breakpoints: dr7 & DR7_ENABLES != 0,
            linear_mask: if is_64_bit { u64::MAX } else { u32::MAX.into() },
            read,
            write,
            fetch,
        }
    }

    #[inline]
    pub(in crate::mock) fn is_64_bit(&self) -> bool {
        self.bits == 64
    }

    /// The bits that a linear address has here.
    #[inline]
    pub(in crate::mock) fn linear_mask(&self) -> u64 {
        self.linear_mask
    }
}
