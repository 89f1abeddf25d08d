//! x87, MMX, SSE and SSE2.

mod blocks;
mod every;
mod exceptions;
mod hostile;
mod images;
mod long;
mod native;
mod packed;
mod simd;
mod values;
mod x87;

use hypervisor::{VcpuState, kvm_fpu, kvm_mp_state};

use super::Machine;

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// Where operands in memory lie: aligned to 64 bytes.
const DATA: u64 = 0x4000;
/// Where MXCSR is loaded from and stored to.
const ASIDE: u64 = 0x5000;
/// Where handlers of exceptions halt: RIP behind the `hlt` of vector `n` is `HANDLERS + 2 * n + 1`.
const HANDLERS: u64 = 0x6000;

/// 1.0 and pi as x87 has them.
const ONE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
const PI: [u8; 10] = [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40];

/// A machine in real mode whose SSE is enabled, and each of whose exceptions halts.
fn machine() -> Machine {
    let mut machine = Machine::new(&[]);
    machine.set_sregs(|sregs| sregs.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT);
    for vector in 0..32 {
        let handler = HANDLERS + 2 * vector;
        machine.write(4 * vector, &(handler as u32).to_le_bytes());
        machine.write(handler, &[0xf4]);
    }
    machine
}

/// The same in long mode, at privilege level 0: the first 2 MiB are where they are.
fn long_machine() -> Machine {
    const TABLES: u64 = 0x9000;
    const USABLE: u64 = 7;
    const LARGE: u64 = 1 << 7;
    const IDT: u64 = 0xc000;
    const CODE: u64 = 8;
    let mut machine = machine();
    let entry = |table: u64, value: u64| machine.write(table, &(value | USABLE).to_le_bytes());
    entry(TABLES, TABLES + 0x1000);
    entry(TABLES + 0x1000, TABLES + 0x2000);
    entry(TABLES + 0x2000, LARGE);
    for vector in 0..32 {
        let handler = HANDLERS + 2 * vector;
        // An interrupt gate of 16 bytes
        let gate = handler & 0xffff | CODE << 16 | 0x8e << 40;
        machine.write(IDT + 16 * vector, &gate.to_le_bytes());
    }
    // The code segment that gates name
    machine.write(0xd000 + CODE, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    machine.write(0xd100 + 4, &0x8000_u64.to_le_bytes());
    machine.set_sregs(|sregs| {
        sregs.cr0 |= 0x8000_0001;
        sregs.cr3 = TABLES;
        sregs.cr4 |= 1 << 5;
        sregs.efer = 0x500;
        (sregs.idt.base, sregs.idt.limit) = (IDT, 0x1ff);
        (sregs.gdt.base, sregs.gdt.limit) = (0xd000, 0xf);
        // A TSS of zeroes but for the stack of level 0
        (sregs.tr.base, sregs.tr.limit, sregs.tr.type_, sregs.tr.present) = (0xd100, 0x67, 11, 1);
        (sregs.cs.l, sregs.cs.db, sregs.cs.g, sregs.cs.selector, sregs.cs.limit) = (1, 0, 1, CODE as u16, u32::MAX);
    });
    machine
}

/// What `code` ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Exception(u64),
}

/// Executes `code`, which no `hlt` ends, from where the test's code begins.
fn execute(machine: &mut Machine, code: &[u8]) -> End {
    machine.write(super::ENTRY, &[code, &[0xf4]].concat());
    machine.set(|regs| (regs.rip, regs.rsp) = (super::ENTRY, 0x8000));
    // The last code's `hlt` is over.
    machine.vcpu.set_mp_state(&kvm_mp_state { mp_state: 0 }).unwrap();
    let rip = machine.run().rip;
    if rip == super::ENTRY + code.len() as u64 + 1 {
        return End::Done;
    }
    assert!((HANDLERS..HANDLERS + 64).contains(&rip), "{code:02x?} went to {rip:#x}");
    End::Exception((rip - HANDLERS) / 2)
}

fn set_fpu(machine: &mut Machine, change: impl FnOnce(&mut kvm_fpu)) {
    let mut fpu = machine.vcpu.fpu().unwrap();
    change(&mut fpu);
    machine.vcpu.set_fpu(&fpu).unwrap();
}

fn fpu(machine: &Machine) -> kvm_fpu {
    machine.vcpu.fpu().unwrap()
}

/// ST(`index`) without its padding.
fn st(fpu: &kvm_fpu, index: usize) -> [u8; 10] {
    fpu.fpr[index][..10].try_into().unwrap()
}

/// Sets ST(0) and on; the other registers are empty.
fn set_stack(machine: &mut Machine, values: &[[u8; 10]]) {
    set_fpu(machine, |fpu| {
        let top = 8 - values.len() as u16;
        fpu.fsw = (top & 7) << 11;
        fpu.ftwx = !((1_u16 << top) - 1) as u8;
        for (register, value) in fpu.fpr.iter_mut().zip(values) {
            register[..10].copy_from_slice(value);
        }
    });
}

/// Executes `code` with BX and RDI, one of which its operand is at, set to an address that no test uses otherwise.
fn execute_aside(machine: &mut Machine, code: &[u8]) {
    let before = machine.regs();
    machine.set(|regs| (regs.rbx, regs.rdi) = (ASIDE, ASIDE));
    assert_eq!(execute(machine, code), End::Done);
    machine.set(|regs| *regs = before);
}

/// Loads MXCSR.
fn set_mxcsr(machine: &mut Machine, mxcsr: u32) {
    machine.write(ASIDE, &mxcsr.to_le_bytes());
    // ldmxcsr [bx]
    execute_aside(machine, &[0x0f, 0xae, 0x17]);
}

/// Stores MXCSR, and returns it.
fn mxcsr(machine: &mut Machine) -> u32 {
    // stmxcsr [bx]
    execute_aside(machine, &[0x0f, 0xae, 0x1f]);
    u32::from_le_bytes(machine.read(ASIDE))
}
