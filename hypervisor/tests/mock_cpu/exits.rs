//! Accesses to ports and to memory that nobody backs, and what registers show at their exits.

use hypervisor::{Access, AddressSpace, Exit, Vcpu};

use super::*;

/// Nobody's memory, which a segment of 4 GiB reaches.
const HOLE: u64 = 0x2_0000;

fn machine(code: &[u8]) -> Machine {
    let mut machine = Machine::new(code);
    machine.set_sregs(|sregs| {
        (sregs.ds.limit, sregs.es.limit) = (u32::MAX, u32::MAX);
    });
    machine.set(|regs| (regs.rbx, regs.rsi, regs.rdi) = (HOLE, HOLE, HOLE));
    machine
}

fn read(address: u64, width: u8) -> Exit {
    Exit::Access(Access::read(AddressSpace::Mmio, address, width).unwrap())
}

fn write(address: u64, data: &[u8]) -> Exit {
    Exit::Access(Access::write(AddressSpace::Mmio, address, data).unwrap())
}

#[test]
fn an_instruction_that_reads_and_writes_exits_for_both() {
    // add [ebx], al; lock xadd [ebx], ax; xchg [ebx], al
    for (code, answer, written, al) in [
        (&[0x67, 0x00, 0x03][..], &[5][..], &[7][..], 2),
        (&[0x67, 0xf0, 0x0f, 0xc1, 0x03], &[5, 1], &[7, 1], 5),
        (&[0x67, 0x86, 0x03], &[5], &[2], 5),
    ] {
        let mut machine = machine(&[code, &[0xf4]].concat());
        machine.set(|regs| regs.rax = 2);
        assert_eq!(machine.vcpu.run().unwrap(), read(HOLE, answer.len() as u8));
        assert_eq!(machine.regs().rip, 0x1000, "a read's instruction is not done");
        machine.vcpu.answer(answer).unwrap();
        assert_eq!(machine.vcpu.run().unwrap(), write(HOLE, written));
        let regs = machine.regs();
        assert_eq!((regs.rip, regs.rax & 0xff), (0x1000 + code.len() as u64, al), "a write's instruction is");
        assert_eq!(machine.vcpu.commit().unwrap(), Exit::Interrupted);
        machine.run();
    }
}

#[test]
fn a_string_moves_from_and_to_nobodys_memory() {
    // rep movsb, two bytes, from and to the hole
    let mut machine = machine(&[0x67, 0xf3, 0xa4, 0xf4]);
    machine.set(|regs| (regs.rdi, regs.rcx) = (HOLE + 0x100, 2));
    for index in 0..2 {
        assert_eq!(machine.vcpu.run().unwrap(), read(HOLE + index, 1));
        machine.vcpu.answer(&[0x40 + index as u8]).unwrap();
        assert_eq!(machine.vcpu.run().unwrap(), write(HOLE + 0x100 + index, &[0x40 + index as u8]));
        let regs = machine.regs();
        assert_eq!((regs.rip, regs.rcx, regs.rsi), (0x1000, 1 - index, HOLE + index + 1));
    }
    machine.run();
}

#[test]
fn a_string_read_comes_at_once_and_lies_in_memory() {
    // rep insw
    let mut machine = machine(&[0xf3, 0x6d, 0xf4]);
    machine.set(|regs| (regs.rdx, regs.rdi, regs.rcx) = (0x70, 0x3000, 3));
    let Exit::Access(access) = machine.vcpu.run().unwrap() else { panic!("no access") };
    assert_eq!((access.width(), access.count()), (2, 3));
    assert_eq!(machine.regs().rcx, 3);
    machine.vcpu.answer(b"abcdef").unwrap();
    assert_eq!(machine.vcpu.commit().unwrap(), Exit::Interrupted);
    let regs = machine.regs();
    assert_eq!((regs.rcx, regs.rdi), (0, 0x3006));
    assert_eq!(machine.read(0x3000), *b"abcdef\0");
}

#[test]
fn a_string_written_comes_one_item_an_exit() {
    // rep outsb
    let mut machine = machine(&[0xf3, 0x6e, 0xf4]);
    machine.write(0x3000, b"ab");
    machine.set(|regs| (regs.rdx, regs.rsi, regs.rcx) = (0x70, 0x3000, 2));
    for byte in *b"ab" {
        let exit = Exit::Access(Access::write(AddressSpace::Pio, 0x70, &[byte]).unwrap());
        assert_eq!(machine.vcpu.run().unwrap(), exit);
        assert_eq!(machine.vcpu.access_data(), [byte]);
    }
    machine.run();
}

#[test]
fn all_that_one_instruction_writes_comes_in_order() {
    // push sp's worth of everything to the hole: pusha
    let mut machine = machine(&[0x60, 0xf4]);
    machine.set_sregs(|sregs| sregs.ss.base = HOLE);
    machine.set(|regs| (regs.rsp, regs.rax, regs.rdi) = (0x100, 0x1111, 0x8888));
    for (index, value) in [0x1111_u16, 0, 0x600, 0, 0x100, 0, 0, 0x8888].into_iter().enumerate() {
        let value = if index == 3 { HOLE as u16 } else { value };
        assert_eq!(machine.vcpu.run().unwrap(), write(HOLE + 0xfe - 2 * index as u64, &value.to_le_bytes()));
    }
    machine.run();
}

#[test]
fn a_read_that_ends_in_an_exception_changes_nothing_else() {
    // div byte [ebx]
    let mut machine = machine(&[0x67, 0xf6, 0x33]);
    machine.write(0, &[0x00, 0x50, 0, 0]);
    machine.write(0x5000, &[0xf4]);
    assert_eq!(machine.vcpu.run().unwrap(), read(HOLE, 1));
    machine.vcpu.answer(&[0]).unwrap();
    assert_eq!(machine.vcpu.commit().unwrap(), Exit::Interrupted);
    assert_eq!((machine.regs().rip, machine.read_word(0x7ffa)), (0x5000, 0x1000));
}

#[test]
fn code_that_is_changed_from_outside_is_executed_as_it_is_now() {
    // again: inc ax; jmp again
    let mut machine = Machine::new(&[0x40, 0xeb, 0xfd]);
    for _ in 0..4 {
        machine.vcpu.step().unwrap();
    }
    machine.write(0x1000, &[0x48]);
    for _ in 0..4 {
        machine.vcpu.step().unwrap();
    }
    assert_eq!(machine.regs().rax, 0);
}

#[test]
fn code_where_no_memory_is_ends_the_run() {
    let mut machine = Machine::new(&[]);
    machine.set_sregs(|sregs| sregs.cs.base = HOLE);
    let Exit::InternalError(error) = machine.vcpu.run().unwrap() else { panic!("it ran") };
    assert_eq!(error.instruction(), Some((HOLE + 0x1000, vec![], "(no memory)".into())));
}
