//! The mock's processor: bytes become a machine, its code, and the answers to its reads.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a body fails by panicking; it is for this project's tests alone"
)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use arbitrary::Unstructured;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vm_memory::GuestAddress;

use super::{Mock, SoftVcpu, SoftVm, Stop};
use crate::{
    Access, Direction, Exit, Gsi, GuestMemoryRegion, Irqs, MAX_ACCESS_BYTES, Vcpu, VcpuId, VcpuState, Vm, VmState,
    kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events,
};

/// RAM lies at 0; above it there is nothing.
const RAM_LEN: u64 = 0x1_0000;
/// Instructions that one input is executed for.
const STEPS: usize = 300;

/// The bits of EFLAGS that are always 0 or do not exist, and the one that is always 1.
const FLAGS_NEVER_SET: u64 = !0x3f_7fd7;
const FLAG_ALWAYS_SET: u64 = 2;

/// Executes any bytes, instruction by instruction, with the rules of [`Vcpu`] checked at each step; then once more from exit
/// to exit, which must be the same ones, and to the same registers and memory.
pub fn mock_cpu(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let start = Start::new(&mut input);
    let mut stepped = Machine::new(&start);
    let (exits, steps_after) = stepped.step(&mut input);
    let mut run = Machine::new(&start);
    exits.iter().for_each(|exit| run.run_to(exit));
    for _ in 0..steps_after {
        run.vcpu.step().expect("no read is pending");
    }
    assert_eq!(run.state(), stepped.state(), "the registers after {exits:?}");
    assert!(run.ram() == stepped.ram(), "the memory after {exits:?}");
}

/// What a machine begins with.
struct Start {
    regs: kvm_regs,
    /// Protected mode, 32-bit code, segments of 4 GiB, ring 3, paging, 64-bit code, no SSE: a bit each.
    mode: u8,
    /// An event that waits to be delivered.
    events: kvm_vcpu_events,
    /// Bits of the interrupt controllers' pins that are raised.
    pins: u16,
    /// The bytes of memory, from an address on.
    memory: Vec<(u64, Vec<u8>)>,
}

impl Start {
    fn new(input: &mut Unstructured<'_>) -> Self {
        let mode = number(input);
        let exception: u8 = number(input);
        let pins = if exception & 1 == 0 { 0 } else { number(input) };
        let mut regs = kvm_regs { rip: address(input), rflags: flags(input), ..kvm_regs::default() };
        let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, .. } = &mut regs;
        for register in [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp] {
            *register = register_value(input);
        }
        let mut events = kvm_vcpu_events::default();
        if exception & 2 != 0 {
            events.exception.nr = exception >> 3;
            // An NMI is no exception.
            events.exception.injected = u8::from(exception >> 3 != 2);
            events.exception.has_error_code = exception >> 2 & 1;
        }
        let code = bytes(input);
        let mut memory = page_tables();
        memory.push((regs.rip, code));
        while memory.len() < 12 && number::<u8>(input) & 1 != 0 {
            memory.push((address(input), bytes(input)));
        }
        Self { regs, mode, events, pins, memory }
    }

    fn sregs(&self, mut sregs: kvm_sregs) -> kvm_sregs {
        let is = |bit: u8| u8::from(self.mode & 1 << bit != 0);
        let segment = kvm_segment {
            limit: if is(2) == 0 { 0xffff } else { u32::MAX },
            base: 0,
            selector: 8,
            type_: 3,
            present: 1,
            s: 1,
            db: is(1),
            dpl: is(3) * 3,
            ..sregs.ds
        };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (segment, segment, segment, segment, segment);
        sregs.cs = kvm_segment { type_: 11, ..segment };
        sregs.cr0 |= u64::from(is(0));
        sregs.gdt.limit = 0xffff;
        sregs.idt.limit = 0x7ff;
        if is(4) != 0 {
            const PE_WP_PG: u64 = 0x8001_0001;
            sregs.cr0 |= PE_WP_PG;
            sregs.cr3 = TABLES;
            if is(5) != 0 {
                const LME_LMA: u64 = 0x500;
                (sregs.cr4, sregs.efer) = (0x20, LME_LMA);
                (sregs.cs.l, sregs.cs.db) = (1, 0);
            }
        }
        if is(6) == 0 {
            const OSFXSR_OSXMMEXCPT: u64 = 0x600;
            sregs.cr4 |= OSFXSR_OSXMMEXCPT;
        }
        sregs
    }
}

struct Machine {
    _vm: SoftVm,
    vcpu: SoftVcpu,
    ram: OwnedFd,
}

/// An exit, and what the guest wrote or was answered.
#[derive(Debug)]
struct Seen {
    exit: Exit,
    data: Vec<u8>,
}

impl Machine {
    fn new(start: &Start) -> Self {
        let vm = Mock::guest_code().create_soft_vm().expect("create_soft_vm");
        // The PIT's counts, which a guest can read, do not change from their beginning.
        vm.advance(Duration::ZERO);
        vm.set_pit(&vm.pit().expect("pit")).expect("set_pit");
        let ram = sealed_memfd();
        for (address, data) in &start.memory {
            let fits = data.len().min((RAM_LEN - address) as usize);
            rustix::io::pwrite(&ram, &data[..fits], *address).expect("pwrite");
        }
        let twin = ram.try_clone().expect("dup");
        let region = GuestMemoryRegion::new(GuestAddress(0), twin, 0, RAM_LEN).expect("region");
        vm.map_memory(region).expect("map_memory");
        let mut vcpu = vm.create_soft_vcpu(VcpuId(0)).expect("create_soft_vcpu");
        let sregs = start.sregs(vcpu.sregs().expect("sregs"));
        vcpu.set_sregs(&sregs).expect("set_sregs");
        vcpu.set_regs(&start.regs).expect("set_regs");
        vcpu.set_vcpu_events(&start.events).expect("set_vcpu_events");
        (0..16).filter(|pin| start.pins & 1 << pin != 0).for_each(|pin| vm.set_irq(Gsi(pin), true).expect("set_irq"));
        Self { _vm: vm, vcpu, ram }
    }

    /// Steps on until it ends, idles, or has had its instructions: its exits, and how many steps followed the last.
    fn step(&mut self, input: &mut Unstructured<'_>) -> (Vec<Seen>, usize) {
        let (mut exits, mut steps_after) = (Vec::new(), 0);
        for _ in 0..STEPS {
            let stop = self.vcpu.step().expect("no read is pending");
            if let Stop::Exit(Exit::Access(access)) = stop {
                let data = self.see_access(&access, input);
                exits.push(Seen { exit: Exit::Access(access), data });
                steps_after = 0;
                continue;
            }
            let regs = self.vcpu.regs().expect("regs");
            assert!(regs.rflags & FLAGS_NEVER_SET == 0 && regs.rflags & FLAG_ALWAYS_SET != 0, "{:#x}", regs.rflags);
            let is_64_bit = self.vcpu.sregs().expect("sregs").cs.l != 0;
            assert!(is_64_bit || u32::try_from(regs.rip).is_ok(), "{:#x}", regs.rip);
            match stop {
                Stop::Stepped | Stop::Breakpoint => steps_after += 1,
                Stop::Exit(exit) => {
                    exits.push(Seen { exit, data: Vec::new() });
                    return (exits, 0);
                }
                Stop::Idle => break,
            }
        }
        (exits, steps_after)
    }

    /// What an access promises: the data of a write, or what a read was answered.
    fn see_access(&mut self, access: &Access, input: &mut Unstructured<'_>) -> Vec<u8> {
        assert!((1..=MAX_ACCESS_BYTES).contains(&access.len()), "{access}");
        let regs = self.vcpu.regs().expect("regs");
        match access.direction() {
            Direction::Write => {
                let data = self.vcpu.access_data().to_vec();
                assert_eq!(data.len(), access.len(), "{access}");
                assert!(access.inline_data().is_none_or(|inline| inline == data), "{access}");
                data
            }
            Direction::Read => {
                assert!(self.vcpu.set_regs(&regs).is_err(), "{access}: registers within a read");
                assert!(self.vcpu.step().is_err(), "{access}: entered without an answer");
                assert!(self.vcpu.answer(&vec![0; access.len() + 1]).is_err(), "{access}: an answer too long");
                let mut data = vec![0; access.len()];
                // Behind the input's end all is 0.
                input.fill_buffer(&mut data).expect("numbers without end");
                self.vcpu.answer(&data).expect("an answer that fits");
                data
            }
        }
    }

    /// Runs to the next exit, which must be this one.
    fn run_to(&mut self, seen: &Seen) {
        let exit = self.vcpu.run().expect("no read is pending");
        assert_eq!(exit, seen.exit);
        if let Exit::Access(access) = exit {
            match access.direction() {
                Direction::Write => assert_eq!(self.vcpu.access_data(), seen.data, "{access}"),
                Direction::Read => self.vcpu.answer(&seen.data).expect("an answer that fits"),
            }
        }
    }

    /// The registers that instructions change.
    fn state(&self) -> Vec<u64> {
        let regs = self.vcpu.regs().expect("regs");
        let sregs = self.vcpu.sregs().expect("sregs");
        let events = self.vcpu.vcpu_events().expect("vcpu_events");
        let kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags, .. } = regs;
        let mut state = vec![rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rip, rflags];
        state.extend([regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15]);
        for segment in [sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] {
            state.extend([segment.base, segment.limit.into(), segment.selector.into()]);
        }
        state.extend([sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, events.interrupt.shadow.into()]);
        let fpu = self.vcpu.fpu().expect("fpu");
        state.extend([fpu.fcw.into(), fpu.fsw.into(), fpu.ftwx.into(), fpu.last_ip, fpu.last_dp]);
        let registers = fpu.fpr.iter().chain(&fpu.xmm).flat_map(|register| register.as_chunks::<8>().0);
        state.extend(registers.map(|half| u64::from_le_bytes(*half)));
        state
    }

    fn ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM_LEN as usize];
        rustix::io::pread(&self.ram, &mut bytes[..], 0).expect("pread");
        bytes
    }
}

fn sealed_memfd() -> OwnedFd {
    let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd_create");
    ftruncate(&memfd, RAM_LEN).expect("ftruncate");
    fcntl_add_seals(&memfd, SealFlags::SHRINK).expect("sealing");
    memfd
}

/// Where page tables lie that map all of RAM: four levels, of which the first two are tables of 32-bit paging too.
const TABLES: u64 = 0x8000;

fn page_tables() -> Vec<(u64, Vec<u8>)> {
    const ALL: u64 = 7;
    let pointer =
        |level: u64| (TABLES + 0x1000 * level, ((TABLES + 0x1000 * (level + 1)) | ALL).to_le_bytes().to_vec());
    let entries =
        |width: usize| (0..16_u64).flat_map(move |page| (page << 12 | ALL).to_le_bytes().into_iter().take(width));
    let mut tables: Vec<_> = (0..3).map(pointer).collect();
    // 32-bit paging finds entries of four bytes behind those of the third level.
    tables.push((TABLES + 0x1000 + 8, entries(4).skip(8).collect()));
    tables.push((TABLES + 0x3000, entries(8).collect()));
    tables
}

fn number<'a, T: arbitrary::Arbitrary<'a>>(input: &mut Unstructured<'a>) -> T {
    input.arbitrary().expect("numbers without end")
}

/// An address in RAM.
fn address(input: &mut Unstructured<'_>) -> u64 {
    number::<u16>(input).into()
}

fn flags(input: &mut Unstructured<'_>) -> u64 {
    u64::from(number::<u32>(input)) & !FLAGS_NEVER_SET | FLAG_ALWAYS_SET
}

/// Small, or any of 32 bits.
fn register_value(input: &mut Unstructured<'_>) -> u64 {
    let low = number::<u16>(input);
    if low & 1 == 0 { low.into() } else { u64::from(low) << 16 | u64::from(number::<u16>(input)) }
}

/// Up to 255 bytes.
fn bytes(input: &mut Unstructured<'_>) -> Vec<u8> {
    let len = usize::from(number::<u8>(input));
    input.bytes(len.min(input.len())).expect("as many as there are").to_vec()
}

#[cfg(all(test, not(loom)))]
mod tests {
    /// Marsaglia's xorshift: the same inputs in each run, as many as `OUTBOARD_INPUTS` says.
    #[test]
    fn random_inputs_run_as_they_step() {
        let count = std::env::var("OUTBOARD_INPUTS").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
        let mut number = 0x9e37_79b9_7f4a_7c15_u64;
        let mut byte = || {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number as u8
        };
        for _ in 0..count {
            let len = 64 + usize::from(byte()) * 2;
            super::mock_cpu(&(0..len).map(|_| byte()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn saved_inputs_of_mock_cpu_break_nothing() {
        test_utils::corpus::each_input("mock_cpu", super::mock_cpu);
    }
}
