//! States in memory, and accesses that exit.

use hypervisor::{Access, AddressSpace, Exit, Hypervisor, Vcpu};
use kvm_bindings::kvm_cpuid_entry2;

use super::*;

const CR4_OSXSAVE: u64 = 1 << 18;
const UD: End = End::Exception(6);
const GP: End = End::Exception(13);
/// Nobody's memory.
const HOLE: u64 = 0x2_0000;

/// ST(0) and ST(1), TOP 6, XMM3.
fn filled() -> Machine {
    let mut machine = machine();
    set_stack(&mut machine, &[ONE, PI]);
    set_fpu(&mut machine, |fpu| fpu.xmm[3] = *b"sixteen bytes :)");
    machine
}

#[test]
fn fnsave_stores_everything_and_begins_anew() {
    // 16-bit and 32-bit: fnsave [0x4000]; frstor [0x4000]
    for (prefix, size, registers) in [(&[][..], 94, 14), (&[0x66], 108, 28)] {
        let mut machine = filled();
        machine.write(DATA, &[0xee; 120]);
        let before = fpu(&machine);
        assert_eq!(execute(&mut machine, &[prefix, &[0xdd, 0x36, 0, 0x40]].concat()), End::Done);
        let image: [u8; 120] = machine.read(DATA);
        assert_eq!((&image[registers..registers + 10], &image[registers + 10..registers + 20]), (&ONE[..], &PI[..]));
        assert!(image[size..].iter().all(|&byte| byte == 0xee));
        let after = fpu(&machine);
        assert_eq!((after.fcw, after.fsw, after.ftwx), (0x37f, 0, 0));
        assert_eq!(execute(&mut machine, &[prefix, &[0xdd, 0x26, 0, 0x40]].concat()), End::Done);
        assert_eq!(fpu(&machine), before);
    }
}

#[test]
fn an_environment_says_where_the_last_instruction_was() {
    let mut machine = machine();
    machine.set_sregs(|sregs| (sregs.ds.selector, sregs.ds.base) = (0x20, 0x200));
    // fld dword [0x3e00]; fnstenv [0x4000 - 0x200]
    let code = [0xd9, 0x06, 0x00, 0x3e, 0xd9, 0x36, 0x00, 0x3e];
    assert_eq!(execute(&mut machine, &code), End::Done);
    let image: [u8; 14] = machine.read(DATA);
    let words: [u16; 7] = std::array::from_fn(|at| u16::from_le_bytes([image[2 * at], image[2 * at + 1]]));
    // 0 is in ST(0), which is physical register 7. In real mode addresses are linear.
    assert_eq!(words, [0x37f, 0x3800, 0x7fff, super::super::ENTRY as u16, 0, 0x4000, 0]);
    // It masks all exceptions: fldcw [0x3e10]; fnstenv [0x3e00]; fnstcw [0x3e00]
    machine.write(DATA + 0x10, &0x340_u16.to_le_bytes());
    let code = [0xd9, 0x2e, 0x10, 0x3e, 0xd9, 0x36, 0x00, 0x3e, 0xd9, 0x3e, 0x00, 0x3e];
    assert_eq!(execute(&mut machine, &code), End::Done);
    assert_eq!(machine.read_word(DATA), 0x37f);
}

#[test]
fn fldenv_changes_which_registers_are_on_top() {
    let mut machine = filled();
    // fnstenv [0x4000]; then TOP 7, which is 6 in the image; fldenv [0x4000]
    assert_eq!(execute(&mut machine, &[0xd9, 0x36, 0, 0x40]), End::Done);
    machine.write(DATA + 2, &(7_u16 << 11).to_le_bytes());
    assert_eq!(execute(&mut machine, &[0xd9, 0x26, 0, 0x40]), End::Done);
    let after = fpu(&machine);
    assert_eq!((after.fsw, st(&after, 0), st(&after, 7), after.ftwx), (7 << 11, PI, ONE, 0xc0));
}

#[test]
fn fxsave_leaves_what_has_no_register() {
    let mut machine = filled();
    machine.write(DATA, &[0xee; 512]);
    let before = fpu(&machine);
    set_mxcsr(&mut machine, 0x1f81);
    // fxsave [0x4000]; fninit; pxor xmm3, xmm3; fxrstor [0x4000]
    assert_eq!(execute(&mut machine, &[0x0f, 0xae, 0x06, 0, 0x40]), End::Done);
    let image: [u8; 512] = machine.read(DATA);
    assert_eq!(&image[..6], &[0x7f, 3, 0, 0x30, 0xc0, 0]);
    assert_eq!(&image[24..32], &[0x81, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    assert_eq!((&image[32..42], &image[208..224]), (&ONE[..], &b"sixteen bytes :)"[..]));
    assert!(image[288..].iter().all(|&byte| byte == 0xee));
    set_mxcsr(&mut machine, 0x1f80);
    assert_eq!(execute(&mut machine, &[0xdb, 0xe3, 0x66, 0x0f, 0xef, 0xdb]), End::Done);
    assert_ne!(fpu(&machine), before);
    assert_eq!(execute(&mut machine, &[0x0f, 0xae, 0x0e, 0, 0x40]), End::Done);
    assert_eq!((fpu(&machine), mxcsr(&mut machine)), (before, 0x1f81));
}

/// With `xsave` and both components enabled.
fn with_xsave() -> Machine {
    let mut machine = machine();
    let mut cpuid = hypervisor::mock::Mock::guest_code().supported_cpuid().unwrap();
    for leaf in cpuid.iter_mut().filter(|leaf| leaf.function == 1) {
        leaf.ecx |= 1 << 26;
    }
    cpuid.retain(|leaf| leaf.function != 0xd);
    cpuid.push(kvm_cpuid_entry2 { function: 0xd, flags: 1, eax: 3, ebx: 576, ecx: 576, ..Default::default() });
    machine.vcpu.set_cpuid(&cpuid).unwrap();
    machine.set_sregs(|sregs| sregs.cr4 |= CR4_OSXSAVE);
    machine.set(|regs| (regs.rax, regs.rcx, regs.rdx) = (3, 0, 0));
    // xsetbv
    assert_eq!(execute(&mut machine, &[0x0f, 0x01, 0xd1]), End::Done);
    machine
}

const XSAVE: [u8; 5] = [0x0f, 0xae, 0x26, 0, 0x40];
const XRSTOR: [u8; 5] = [0x0f, 0xae, 0x2e, 0, 0x40];

#[test]
fn xsave_and_xrstor_take_the_components_that_are_asked_for() {
    let mut machine = with_xsave();
    set_stack(&mut machine, &[ONE, PI]);
    set_fpu(&mut machine, |fpu| fpu.xmm[3] = *b"sixteen bytes :)");
    // Only SSE: x87's bytes stay, and the header keeps what it says of others.
    machine.write(DATA, &[0xee; 512]);
    machine.write(DATA + 512, &[0; 64]);
    machine.set(|regs| regs.rax = 2);
    assert_eq!(execute(&mut machine, &XSAVE), End::Done);
    let image: [u8; 576] = machine.read(DATA);
    assert!(image[..24].iter().chain(&image[32..160]).all(|&byte| byte == 0xee));
    assert_eq!((&image[208..224], image[512]), (&b"sixteen bytes :)"[..], 2));
    machine.set(|regs| regs.rax = 1);
    assert_eq!(execute(&mut machine, &XSAVE), End::Done);
    let image: [u8; 576] = machine.read(DATA);
    assert_eq!((&image[..2], &image[32..42], image[512]), (&[0x7f, 3][..], &ONE[..], 3));
    // What is not in the header begins as after reset.
    let before = fpu(&machine);
    machine.set(|regs| regs.rax = 3);
    machine.write(DATA + 512, &[1]);
    assert_eq!(execute(&mut machine, &XRSTOR), End::Done);
    assert_eq!((fpu(&machine).xmm[3], st(&fpu(&machine), 0)), ([0; 16], ONE));
    machine.write(DATA + 512, &[2]);
    assert_eq!(execute(&mut machine, &XRSTOR), End::Done);
    assert_eq!((fpu(&machine).xmm[3], fpu(&machine).ftwx, st(&fpu(&machine), 0)), (before.xmm[3], 0, [0; 10]));
    // xgetbv
    machine.set(|regs| (regs.rax, regs.rcx, regs.rdx) = (9, 0, 9));
    assert_eq!(execute(&mut machine, &[0x0f, 0x01, 0xd0]), End::Done);
    assert_eq!((machine.regs().rax, machine.regs().rdx), (3, 0));
}

#[test]
fn xsave_refuses_what_the_manual_refuses() {
    let mut machine = with_xsave();
    machine.write(DATA, &[0; 576]);
    machine.write(DATA + 24, &[0x80, 0x1f]);
    // A component that is not enabled, a reserved byte of the header, an area that is not aligned
    machine.set(|regs| regs.rbx = DATA + 16);
    machine.write(DATA + 512, &[4]);
    assert_eq!(execute(&mut machine, &XRSTOR), GP);
    machine.write(DATA + 512, &[0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(execute(&mut machine, &XRSTOR), GP);
    machine.write(DATA + 520, &[0]);
    assert_eq!(execute(&mut machine, &XRSTOR), End::Done);
    assert_eq!(execute(&mut machine, &[0x0f, 0xae, 0x27]), GP);
    // xsetbv of nothing, of AVX, of another register
    for (eax, ecx) in [(0, 0), (7, 0), (3, 1)] {
        machine.set(|regs| (regs.rax, regs.rcx, regs.rdx) = (eax, ecx, 0));
        assert_eq!(execute(&mut machine, &[0x0f, 0x01, 0xd1]), GP, "{eax} {ecx}");
    }
    machine.set_sregs(|sregs| sregs.cr4 &= !CR4_OSXSAVE);
    for code in [&XSAVE[..], &XRSTOR, &[0x0f, 0x01, 0xd0], &[0x0f, 0x01, 0xd1]] {
        assert_eq!(execute(&mut machine, code), UD, "{code:02x?}");
    }
}

/// About to execute `code` with BX at nobody's memory.
fn outside(code: &[u8]) -> Machine {
    let mut machine = machine();
    machine.set_sregs(|sregs| sregs.ds.limit = u32::MAX);
    machine.write(super::super::ENTRY, &[code, &[0xf4]].concat());
    machine.set(|regs| (regs.rip, regs.rbx) = (super::super::ENTRY, HOLE));
    machine
}

#[test]
fn operands_outside_of_memory_exit_by_eight_bytes() {
    let read = |at, width| Exit::Access(Access::read(AddressSpace::Mmio, at, width).unwrap());
    let write = |at, data: &[u8]| Exit::Access(Access::write(AddressSpace::Mmio, at, data).unwrap());
    // paddb xmm1, [ebx]
    let mut machine = outside(&[0x67, 0x66, 0x0f, 0xfc, 0x0b]);
    for (at, half) in [(HOLE, b"sixteen "), (HOLE + 8, b"bytes :)")] {
        assert_eq!(machine.vcpu.run().unwrap(), read(at, 8));
        machine.vcpu.answer(half).unwrap();
    }
    machine.run();
    assert_eq!(fpu(&machine).xmm[1], *b"sixteen bytes :)");
    // fld tword [ebx]: nothing is pushed before all is read
    let mut machine = outside(&[0x67, 0xdb, 0x2b]);
    assert_eq!(machine.vcpu.run().unwrap(), read(HOLE, 8));
    machine.vcpu.answer(&PI[..8]).unwrap();
    assert_eq!(machine.vcpu.run().unwrap(), read(HOLE + 8, 2));
    assert_eq!(fpu(&machine).ftwx, 0);
    machine.vcpu.answer(&PI[8..]).unwrap();
    machine.run();
    assert_eq!(st(&fpu(&machine), 0), PI);
    // fstp tword [ebx]
    let mut machine = outside(&[0x67, 0xdb, 0x3b]);
    set_stack(&mut machine, &[PI]);
    assert_eq!(machine.vcpu.run().unwrap(), write(HOLE, &PI[..8]));
    assert_eq!(machine.vcpu.run().unwrap(), write(HOLE + 8, &PI[8..]));
    machine.run();
    assert_eq!(fpu(&machine).ftwx, 0);
}
