//! A guest whose page tables a test writes: it makes one access at a time, and reports page faults.
//!
//! The guest's own code, tables and stack are mapped one to one by the first entry of the root, which no test changes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hypervisor::{
    AddressSpace, Direction, Exit, Hypervisor, Vcpu, VcpuId, Vm, kvm_cpuid_entry2, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_bindings::kvm_dtable;
use test_utils::memory;

use crate::model::{Access, Controls, Kind, Mode, PHYSICAL_BITS};

/// Bytes of RAM, from address 0.
pub(crate) const RAM_LEN: u64 = 0x20_0000;
/// The root of the page tables.
pub(crate) const ROOT: u64 = 0x6000;
/// Where a test's other tables are.
pub(crate) const POOL: u64 = 0x1_0000;
/// Where pages are that a test maps.
pub(crate) const PAGES: u64 = 0x10_0000;

const CODE: u64 = 0x1000;
/// [`CODE`] as user mode sees it.
const USER_CODE: u64 = 0x1f_0000;
const GDT: u64 = 0x2000;
const TSS: u64 = 0x2800;
const IDT: u64 = 0x3000;
const STACK_TOP: u64 = 0x5000;
const FIXED_TABLES: [u64; 3] = [0x7000, 0x8000, 0x9000];

/// Parts of [`CODE`]: each ends by an `out`.
const READ: u64 = 0;
const WRITE: u64 = 0x10;
const JUMP: u64 = 0x20;
const INVALIDATE: u64 = 0x30;
const LOAD_ROOT: u64 = 0x40;
const LOAD_CR4: u64 = 0x50;
const HANDLERS: u64 = 0x100;
const HANDLER: u64 = 4;
const DONE_PORT: u64 = 0xf0;
/// What the pages consist of, seen as code: `out DONE_PORT, al`.
const PAGE_CODE: [u8; 2] = [0xe6, DONE_PORT as u8];

const USER_FLAGS: u64 = 0x3002;
const AC: u64 = 1 << 18;

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was made in RAM.
    Done,
    /// It was made outside of RAM, at this physical address.
    Outside(u64),
    /// A page fault, with its error code and CR2.
    PageFault { code: u32, address: u64 },
    /// Another exception.
    Exception(u64),
    /// The guest ended.
    Ended,
}

/// The guest.
pub(crate) struct Machine<V: Vcpu + ?Sized = dyn Vcpu> {
    pub(crate) vcpu: Box<V>,
    ram: OwnedFd,
    reset: kvm_sregs,
    controls: Controls,
    _vm: Arc<dyn Vm>,
}

impl Machine {
    /// Makes it of any backend.
    pub(crate) fn new(hypervisor: &dyn Hypervisor) -> Self {
        let vm = hypervisor.create_vm().expect("create_vm");
        let (region, ram) = memory::region(0, RAM_LEN);
        vm.map_memory(region).expect("map_memory");
        let mut vcpu = vm.create_vcpu(VcpuId(0)).expect("create_vcpu");
        vcpu.set_cpuid(&cpuid(hypervisor)).expect("set_cpuid");
        let reset = vcpu.sregs().expect("sregs");
        let controls = Controls {
            mode: Mode::FourLevel,
            wp: false,
            pse: false,
            smep: false,
            smap: false,
            nxe: false,
            pge: false,
            huge: true,
        };
        Self { vcpu, ram, reset, controls, _vm: vm }
    }

    /// Puts the guest's own code and tables in place, clears all others, and sets the mode.
    pub(crate) fn prepare(&mut self, controls: Controls) {
        self.controls = controls;
        memory::write_at(&self.ram, 0, &vec![0; PAGES as usize]);
        let pages = PAGE_CODE.repeat((RAM_LEN - PAGES) as usize / 2);
        memory::write_at(&self.ram, PAGES, &pages);
        self.write_code();
        self.write_tables();
        self.write_descriptors();
        let sregs = self.sregs(false);
        self.vcpu.set_sregs(&sregs).expect("set_sregs");
    }

    fn write_code(&self) {
        let put = |offset: u64, code: &[u8]| memory::write_at(&self.ram, CODE + offset, code);
        let done = [0xe6, DONE_PORT as u8];
        // mov al, [rax]; mov [rax], cl; jmp rax; invlpg [rax]; mov cr3, rcx; mov cr4, rcx
        put(READ, &[&[0x8a, 0x00], &done[..]].concat());
        put(WRITE, &[&[0x88, 0x08], &done[..]].concat());
        put(JUMP, &[0xff, 0xe0]);
        put(INVALIDATE, &[&[0x0f, 0x01, 0x38], &done[..]].concat());
        put(LOAD_ROOT, &[&[0x0f, 0x22, 0xd9], &done[..]].concat());
        put(LOAD_CR4, &[&[0x0f, 0x22, 0xe1], &done[..]].concat());
        for vector in 0..32 {
            put(HANDLERS + HANDLER * vector, &[0xe6, vector as u8, 0xf4]);
        }
    }

    fn write_tables(&self) {
        const TABLE: u64 = 0x67;
        match self.controls.mode {
            Mode::TwoLevel => {
                self.write_entry(ROOT, FIXED_TABLES[2] | TABLE, 4);
            }
            Mode::Pae => {
                self.write_entry(ROOT, FIXED_TABLES[1] | 1, 8);
                self.write_entry(FIXED_TABLES[1], FIXED_TABLES[2] | TABLE, 8);
            }
            Mode::FourLevel => {
                self.write_entry(ROOT, FIXED_TABLES[0] | TABLE, 8);
                self.write_entry(FIXED_TABLES[0], FIXED_TABLES[1] | TABLE, 8);
                self.write_entry(FIXED_TABLES[1], FIXED_TABLES[2] | TABLE, 8);
            }
        }
        let size = self.entry_size();
        for page in 0..16 {
            self.write_entry(FIXED_TABLES[2] + size * page, page << 12 | TABLE & !4, size);
        }
        self.write_entry(FIXED_TABLES[2] + size * (USER_CODE >> 12), CODE | TABLE, size);
    }

    fn write_descriptors(&self) {
        let long = self.controls.mode == Mode::FourLevel;
        let flat = |access: u64, flags: u64| 0xffff | access << 40 | 0xf << 48 | flags << 52;
        let code = if long { 0xa } else { 0xc };
        let task = 0x67 | TSS << 16 | 0x8b << 40;
        let gdt = [0, flat(0x9b, code), flat(0x93, 0xc), flat(0xfb, code), flat(0xf3, 0xc), task, 0];
        for (index, descriptor) in (0..).zip(gdt) {
            self.write_entry(GDT + 8 * index, descriptor, 8);
        }
        // RSP0; or ESP0 and SS0.
        self.write_entry(TSS + 4, STACK_TOP, 8);
        if !long {
            self.write_entry(TSS + 8, 0x10, 4);
        }
        for vector in 0..32 {
            let gate = (CODE + HANDLERS + HANDLER * vector) | 0x08 << 16 | 0x8e00 << 32;
            self.write_entry(IDT + vector * if long { 16 } else { 8 }, gate, 8);
        }
    }

    /// Bytes of an entry.
    pub(crate) fn entry_size(&self) -> u64 {
        if self.controls.mode == Mode::TwoLevel { 4 } else { 8 }
    }

    pub(crate) fn write_entry(&self, at: u64, entry: u64, size: u64) {
        memory::write_at(&self.ram, at, &entry.to_le_bytes()[..size as usize]);
    }

    pub(crate) fn read_entry(&self, at: u64) -> u64 {
        let size = self.entry_size() as usize;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&memory::read_at(&self.ram, at, size));
        u64::from_le_bytes(bytes)
    }

    fn sregs(&self, user: bool) -> kvm_sregs {
        let controls = self.controls;
        let long = controls.mode == Mode::FourLevel;
        let dpl = u8::from(user) * 3;
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
        let data = segment(if user { 0x20 } else { 0x10 }, 3, 0);
        let table = |base, limit| kvm_dtable { base, limit, ..Default::default() };
        let bit = |set: bool, bit: u32| u64::from(set) << bit;
        kvm_sregs {
            cs: segment(if user { 0x18 } else { 0x08 }, 11, u8::from(long)),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: kvm_segment { base: TSS, limit: 0x67, selector: 0x28, type_: 11, present: 1, ..Default::default() },
            gdt: table(GDT, 0x37),
            idt: table(IDT, if long { 0x1ff } else { 0xff }),
            cr0: 0x8000_0033 | bit(controls.wp, 16),
            cr2: 0,
            cr3: ROOT,
            cr4: self.cr4(),
            efer: if long { 0x500 } else { 0 } | bit(controls.nxe, 11),
            ..self.reset
        }
    }

    fn cr4(&self) -> u64 {
        let controls = self.controls;
        let bit = |set: bool, bit: u32| u64::from(set) << bit;
        bit(controls.pse, 4)
            | bit(controls.mode != Mode::TwoLevel, 5)
            | bit(controls.pge, 7)
            | bit(controls.smep, 20)
            | bit(controls.smap, 21)
    }

    /// Makes an access.
    pub(crate) fn access(&mut self, access: Access) -> Outcome {
        let part = match access.kind {
            Kind::Read => READ,
            Kind::Write => WRITE,
            Kind::Fetch => JUMP,
        };
        let flags = USER_FLAGS | if access.ac { AC } else { 0 };
        self.execute(access.user, part, flags, access.linear, u64::from(PAGE_CODE[access.linear as usize % 2]))
    }

    /// `invlpg`
    pub(crate) fn invalidate(&mut self, linear: u64) -> Outcome {
        self.execute(false, INVALIDATE, 2, linear, 0)
    }

    /// `mov cr3`
    pub(crate) fn load_root(&mut self) -> Outcome {
        self.execute(false, LOAD_ROOT, 2, 0, ROOT)
    }

    /// `mov cr4`, twice: without PGE and with it.
    pub(crate) fn toggle_global_pages(&mut self) -> [Outcome; 2] {
        let cr4 = self.cr4();
        [cr4 ^ 1 << 7, cr4].map(|cr4| self.execute(false, LOAD_CR4, 2, 0, cr4))
    }

    fn execute(&mut self, user: bool, part: u64, rflags: u64, rax: u64, rcx: u64) -> Outcome {
        // Registers alone are set, so that nothing is flushed that the guest has not flushed.
        let mut sregs = self.vcpu.sregs().expect("sregs");
        let wanted = self.sregs(user);
        (sregs.cs, sregs.ds, sregs.es, sregs.ss) = (wanted.cs, wanted.ds, wanted.es, wanted.ss);
        sregs.cr2 = 0;
        self.vcpu.set_sregs(&sregs).expect("set_sregs");
        let rip = if user { USER_CODE } else { CODE } + part;
        let regs = kvm_regs { rip, rax, rcx, rflags, rsp: STACK_TOP, ..Default::default() };
        self.vcpu.set_regs(&regs).expect("set_regs");
        let mut outside = None;
        let end = loop {
            match self.vcpu.run().expect("run") {
                Exit::Access(access) if access.space() == AddressSpace::Mmio => {
                    outside.get_or_insert(access.address());
                    if access.direction() == Direction::Read {
                        self.vcpu.answer(&vec![PAGE_CODE[0]; access.len()]).expect("answer");
                    }
                }
                Exit::Access(access) if access.address() == DONE_PORT => {
                    break outside.map_or(Outcome::Done, Outcome::Outside);
                }
                Exit::Access(access) if access.address() == 14 => break self.page_fault(),
                Exit::Access(access) => break Outcome::Exception(access.address()),
                // Code outside of RAM.
                Exit::InternalError(_) | Exit::Shutdown => break Outcome::Ended,
                Exit::Interrupted => {}
                other => panic!("{other:?}"),
            }
        };
        while let Exit::Access(_) = self.vcpu.commit().expect("commit") {}
        if end == Outcome::Ended {
            self.vcpu.set_vcpu_events(&Default::default()).expect("set_vcpu_events");
            self.vcpu.set_mp_state(&Default::default()).expect("set_mp_state");
        }
        end
    }

    /// The error code on the stack, and CR2.
    fn page_fault(&self) -> Outcome {
        let (regs, sregs) = (self.vcpu.regs().expect("regs"), self.vcpu.sregs().expect("sregs"));
        let bytes = memory::read_at(&self.ram, regs.rsp, 4);
        let code = bytes.iter().rev().fold(0, |code, byte| code << 8 | u32::from(*byte));
        Outcome::PageFault { code, address: sregs.cr2 }
    }
}

/// Bits of leaf 7, EBX.
const SMEP: u32 = 1 << 7;
const SMAP: u32 = 1 << 20;
/// Bits of leaf 0x80000001, EDX.
const SYSCALL: u32 = 1 << 11;
const NX: u32 = 1 << 20;
const HUGE: u32 = 1 << 26;
const LONG_MODE: u32 = 1 << 29;
/// PSE, PAE, PGE and PSE-36 in leaf 1, EDX.
const PAGING: u32 = 1 << 3 | 1 << 6 | 1 << 13 | 1 << 17;

/// What the backend supports, with physical addresses of as many bits as the model has.
fn cpuid(hypervisor: &dyn Hypervisor) -> Vec<kvm_cpuid_entry2> {
    let mut entries = hypervisor.supported_cpuid().expect("supported_cpuid");
    if hypervisor.name() == "mock" {
        // What the mock has beside its default: it does what its CPUID offers.
        entries.retain(|entry| entry.function != 7 && entry.function != 0x8000_0001);
        let leaf = |function, ebx, edx| kvm_cpuid_entry2 { function, ebx, edx, ..Default::default() };
        entries.push(leaf(7, SMEP | SMAP, 0));
        entries.push(leaf(0x8000_0001, 0, SYSCALL | NX | HUGE | LONG_MODE));
        entries.iter_mut().filter(|entry| entry.function == 1).for_each(|entry| entry.edx |= PAGING);
    }
    for entry in entries.iter_mut().filter(|entry| entry.function == 0x8000_0008) {
        entry.eax = 48 << 8 | PHYSICAL_BITS;
    }
    entries
}

/// A bit of a CPUID leaf's register, by the register's place among EAX, EBX, ECX, EDX.
pub(crate) fn offers(hypervisor: &dyn Hypervisor, function: u32, register: usize, bit: u32) -> bool {
    let entries = cpuid(hypervisor);
    let leaf = entries.iter().find(|entry| entry.function == function && entry.index == 0);
    leaf.is_some_and(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][register] >> bit & 1 == 1)
}
