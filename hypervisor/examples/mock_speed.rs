//! How fast the mock executes guest code, and what an exit costs there: `cargo run --release -p hypervisor --example
//! mock_speed`, with `-- --json` as JSON, with `-- --exits` exits alone. Measured, not judged: the medians of nine rounds, in processor time, so that what
//! else runs on the machine does not count.

use std::error::Error;
use std::time::Duration;

use hypervisor::mock::Mock;
use hypervisor::{Exit, GuestAddress, GuestMemoryRegion, Hypervisor, Vcpu, VcpuId, kvm_segment};
use rustix::time::{ClockId, clock_gettime};
use test_utils::asm::*;
use test_utils::{guest, memory};

const ROUNDS: usize = 9;
/// Guest memory, and where in it the loops' data, the stack's top and the page tables lie.
const RAM_LEN: u64 = 0x1_0000;
const DATA: u64 = 0x3000;
const STACK: u64 = 0x8000;
const TABLES: u64 = 0xa000;
/// Times that a loop is made in a round.
const TURNS: u32 = 400_000;
/// Exits of a round.
const EXITS: u32 = 200_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Protected,
    Long,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Real, Self::Protected, Self::Long];

    fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Protected => "protected",
            Self::Long => "long, paged",
        }
    }

    fn bits(self) -> u32 {
        match self {
            Self::Real => 16,
            Self::Protected => 32,
            Self::Long => 64,
        }
    }
}

/// A loop: its name, the instructions of one turn, and what assembles it.
struct Loop {
    name: &'static str,
    instructions: u32,
    assemble: fn(&mut CodeAssembler, Mode) -> Result<()>,
}

const LOOPS: [Loop; 3] = [
    Loop { name: "mov, add, cmp, jnz over memory", instructions: 4, assemble: over_memory },
    Loop { name: "calls, stack, memory", instructions: 16, assemble: calls },
    Loop { name: "a mix", instructions: 18, assemble: mix },
];

fn main() -> Result<()> {
    let has = |option| std::env::args().any(|argument| argument == option);
    if has("--exits") {
        println!("an exit and the way back: {:.0} ns", 1e9 * median(time_exits)?);
        return Ok(());
    }
    let as_json = has("--json");
    let mut lines = Vec::new();
    for mode in Mode::ALL {
        for code in &LOOPS {
            let speed = 1e-6 / median(|| time_loop(code, mode))?;
            lines.push(format!(
                "{{\"mode\": \"{}\", \"loop\": \"{}\", \"minsn_per_s\": {speed:.1}}}",
                mode.name(),
                code.name
            ));
            if !as_json {
                println!("{:12} {:32} {speed:6.1} million instructions a second", mode.name(), code.name);
            }
        }
    }
    if as_json {
        println!("[{}]", lines.join(",\n "));
    } else {
        println!("an exit and the way back: {:.0} ns", 1e9 * median(time_exits)?);
    }
    Ok(())
}

/// The median of nine rounds, in seconds for each item.
fn median(round: impl Fn() -> Result<f64>) -> Result<f64> {
    let mut times = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}

/// The processor time that this thread has used.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // It begins at 0 and only grows.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The registers that point to the number 1, and to the counter of turns.
macro_rules! by_mode {
    ($mode:expr, |$source:ident, $counter:ident| $body:expr) => {
        match $mode {
            Mode::Real => {
                let ($source, $counter) = (si, di);
                $body
            }
            Mode::Protected => {
                let ($source, $counter) = (esi, edi);
                $body
            }
            Mode::Long => {
                let ($source, $counter) = (rsi, rdi);
                $body
            }
        }
    };
}

fn over_memory(a: &mut CodeAssembler, mode: Mode) -> Result<()> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    by_mode!(mode, |source, counter| {
        a.mov(eax, dword_ptr(source))?;
        a.add(dword_ptr(counter), eax)?;
        a.cmp(dword_ptr(counter), TURNS as i32)?;
    });
    a.jne(again)?;
    Ok(())
}

fn calls(a: &mut CodeAssembler, mode: Mode) -> Result<()> {
    let (mut again, mut function, mut end) = (a.create_label(), a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.call(function)?; //                1
    by_mode!(mode, |source, counter| {
        a.mov(ecx, dword_ptr(source))?; // 13
        a.add(dword_ptr(counter), ecx)?;
        a.cmp(dword_ptr(counter), TURNS as i32)?;
    });
    a.jne(again)?;
    a.jmp(end)?;
    a.set_label(&mut function)?;
    match mode {
        Mode::Real => {
            a.push(bp)?; //              2 to 12
            a.mov(bp, sp)?;
            a.sub(sp, 8)?;
            a.mov(dword_ptr(bp - 4), eax)?;
            a.mov(edx, dword_ptr(bp - 4))?;
            a.push(bx)?;
            a.lea(bx, ptr(bp + 8))?;
            a.add(edx, eax)?;
            a.pop(bx)?;
            a.leave()?;
        }
        Mode::Protected => {
            a.push(ebp)?;
            a.mov(ebp, esp)?;
            a.sub(esp, 8)?;
            a.mov(dword_ptr(ebp - 4), eax)?;
            a.mov(edx, dword_ptr(ebp - 4))?;
            a.push(ebx)?;
            a.lea(ebx, ptr(ebp + 8))?;
            a.add(edx, eax)?;
            a.pop(ebx)?;
            a.leave()?;
        }
        Mode::Long => {
            a.push(rbp)?;
            a.mov(rbp, rsp)?;
            a.sub(rsp, 16)?;
            a.mov(qword_ptr(rbp - 8), rax)?;
            a.mov(rdx, qword_ptr(rbp - 8))?;
            a.push(rbx)?;
            a.lea(rbx, ptr(rbp + 8))?;
            a.add(rdx, rax)?;
            a.pop(rbx)?;
            a.leave()?;
        }
    }
    a.ret()?;
    a.set_label(&mut end)?;
    Ok(())
}

/// With what has no fast form too: a division, a string, a bit test.
fn mix(a: &mut CodeAssembler, mode: Mode) -> Result<()> {
    let (mut again, mut over) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.mov(eax, 1000)?;
    a.mov(ecx, 7)?;
    a.xor(edx, edx)?;
    a.div(ecx)?;
    a.movzx(ebx, al)?;
    a.shl(ebx, 3)?;
    a.imul_2(ebx, ecx)?;
    a.test(ebx, ebx)?;
    a.je(over)?;
    a.bt(ebx, 5)?;
    a.setb(dl)?;
    a.set_label(&mut over)?;
    a.inc(edx)?;
    a.cld()?;
    by_mode!(mode, |source, counter| {
        a.mov(ecx, dword_ptr(source))?;
        a.xchg(ebx, ecx)?;
        a.add(dword_ptr(counter), ebx)?;
        a.cmp(dword_ptr(counter), TURNS as i32)?;
    });
    a.jne(again)?;
    Ok(())
}

/// A vCPU about to execute `code` in a mode.
fn vcpu(code: &[u8], mode: Mode) -> Result<Box<dyn Vcpu>> {
    let vm = Mock::guest_code().create_vm()?;
    let ram = memory::sealed_memfd(RAM_LEN);
    memory::write_at(&ram, guest::ENTRY, code);
    memory::write_at(&ram, DATA - 0x1000, &1_u32.to_le_bytes());
    let quad = |address: u64, value: u64| memory::write_at(&ram, address, &value.to_le_bytes());
    for level in 0..3 {
        quad(TABLES + 0x1000 * level, (TABLES + 0x1000 * (level + 1)) | 7);
    }
    (0..16).for_each(|page| quad(TABLES + 0x3000 + 8 * page, (page << 12) | 7));
    vm.map_memory(GuestMemoryRegion::new(GuestAddress(0), ram, 0, RAM_LEN)?)?;
    let mut vcpu = vm.create_vcpu(VcpuId(0))?;
    guest::boot(&mut *vcpu);
    let mut regs = vcpu.regs()?;
    (regs.rsp, regs.rsi, regs.rdi) = (STACK, DATA - 0x1000, DATA);
    vcpu.set_regs(&regs)?;
    if mode == Mode::Real {
        return Ok(vcpu);
    }
    let mut sregs = vcpu.sregs()?;
    let is_long = mode == Mode::Long;
    let data =
        kvm_segment { limit: u32::MAX, selector: 0x10, type_: 3, present: 1, db: 1, s: 1, g: 1, ..Default::default() };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.cs = kvm_segment { type_: 11, db: u8::from(!is_long), l: u8::from(is_long), ..data };
    sregs.cr0 |= 1;
    if is_long {
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8000_0011, TABLES, 0x20, 0x500);
    }
    vcpu.set_sregs(&sregs)?;
    Ok(vcpu)
}

fn time_loop(code: &Loop, mode: Mode) -> Result<f64> {
    let mut assembler = CodeAssembler::new(mode.bits())?;
    (code.assemble)(&mut assembler, mode)?;
    assembler.out(0x10, al)?;
    let mut vcpu = vcpu(&assembler.assemble(guest::ENTRY)?, mode)?;
    let start = now();
    let exit = vcpu.run()?;
    let time = now() - start;
    if !matches!(exit, Exit::Access(_)) {
        return Err(format!("{} in {} mode ended in {exit:?}", code.name, mode.name()).into());
    }
    Ok(time.as_secs_f64() / f64::from(TURNS) / f64::from(code.instructions))
}

fn time_exits() -> Result<f64> {
    // again: out 0x10, al; jmp again
    let mut vcpu = vcpu(&[0xe6, 0x10, 0xeb, 0xfc], Mode::Real)?;
    let start = now();
    for _ in 0..EXITS {
        let exit = vcpu.run()?;
        if !matches!(exit, Exit::Access(_)) {
            return Err(format!("{exit:?} instead of an access").into());
        }
    }
    Ok((now() - start).as_secs_f64() / f64::from(EXITS))
}
