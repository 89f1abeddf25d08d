//! Moves of XMM registers in blocks of instructions that are executed together.

use hypervisor::{Exit, Vcpu};

use super::*;

/// The ports that code and the handler of #GP and #NM exit by.
const END: u8 = 0x10;
const HANDLER: u8 = 0x11;

/// Executes `code` in long mode up to its exit: the port.
fn run(machine: &mut Machine, code: &[u8]) -> u8 {
    machine.write(super::super::ENTRY, &[code, &[0xe6, END]].concat());
    for vector in [7, 13] {
        machine.write(HANDLERS + 2 * vector, &[0xe6, HANDLER]);
    }
    machine.set(|regs| (regs.rip, regs.rsp) = (super::super::ENTRY, 0x8000));
    let Exit::Access(access) = machine.vcpu.run().unwrap() else { panic!("{code:02x?}") };
    access.address() as u8
}

#[test]
fn moves_in_blocks_are_those_of_single_steps() {
    let mut machine = long_machine();
    let bytes: [u8; 64] = std::array::from_fn(|at| at as u8);
    // Within a page, and over the end of one
    for source in [DATA, 0x5000 - 8] {
        machine.write(source, &bytes);
        machine.write(0x5800, &[0xee; 64]);
        machine.set(|regs| (regs.rbx, regs.rdi) = (source, 0x5800));
        // movups xmm1, [rbx + 3]; movaps [rdi], xmm1; movdqa xmm2, [rdi]; movdqu [rdi + 17], xmm2; movapd xmm11, xmm2
        let code = [
            0x0f, 0x10, 0x4b, 3, 0x0f, 0x29, 0x0f, 0x66, 0x0f, 0x6f, 0x17, 0xf3, 0x0f, 0x7f, 0x57, 17, 0x66, 0x44,
            0x0f, 0x28, 0xda,
        ];
        assert_eq!(run(&mut machine, &code), END);
        let fpu = fpu(&machine);
        assert_eq!((fpu.xmm[1], fpu.xmm[2], fpu.xmm[11]), (bytes[3..19].try_into().unwrap(), fpu.xmm[1], fpu.xmm[1]));
        let stored: [u8; 34] = machine.read(0x5800);
        assert_eq!(
            (&stored[..17], &stored[17..33], stored[33]),
            (&[&bytes[3..19], &[0xee]].concat()[..], &bytes[3..19], 0xee)
        );
    }
}

#[test]
fn moves_in_blocks_fault_as_single_ones_do() {
    let mut machine = long_machine();
    machine.set(|regs| regs.rbx = DATA + 8);
    set_fpu(&mut machine, |fpu| fpu.xmm[1] = [7; 16]);
    // movaps xmm1, [rbx]; movaps [rbx], xmm1; then with TS movaps xmm1, xmm2
    for code in [[0x0f, 0x28, 0x0b], [0x0f, 0x29, 0x0b]] {
        assert_eq!(run(&mut machine, &code), HANDLER);
    }
    machine.set_sregs(|sregs| sregs.cr0 |= CR0_TS);
    for code in [[0x0f, 0x28, 0xca], [0x0f, 0x10, 0x0b], [0x0f, 0x11, 0x0b]] {
        assert_eq!(run(&mut machine, &code), HANDLER);
    }
    assert_eq!((fpu(&machine).xmm[1], machine.read(DATA + 8)), ([7; 16], [0; 16]));
}

#[test]
fn a_move_over_code_behind_it_changes_what_is_executed() {
    let mut machine = long_machine();
    // movups [rip], xmm0, onto: mov al, 1; out END, al; and as many bytes of nothing
    let changed = [0xb0, 2, 0xe6, END, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90];
    set_fpu(&mut machine, |fpu| fpu.xmm[0] = changed);
    let mut code = vec![0x0f, 0x11, 0x05, 0, 0, 0, 0];
    code.extend(changed.map(|byte| if byte == 2 { 1 } else { byte }));
    assert_eq!(run(&mut machine, &code), END);
    assert_eq!(machine.regs().rax & 0xff, 2);
}
