//! Blocks and fast forms of instructions: what is executed in blocks comes to the same as step by step.

use hypervisor::{Exit, Vcpu};

use super::*;

/// Marsaglia's xorshift: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 11) as u8
    }

    /// Mostly an address of RAM's middle.
    fn register(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => self.next(),
            1 => self.next() & 0xff,
            _ => 0x3000 + (self.next() & 0xff8),
        }
    }
}

/// One of the instructions that have fast forms, with any operands.
fn instruction(numbers: &mut Numbers, code: &mut Vec<u8>) {
    if numbers.byte() % 4 == 0 {
        code.push(0x66);
    }
    if numbers.byte() % 2 == 0 {
        code.push(0x40 | numbers.byte() & 0xf);
    }
    // Opcodes with a ModRM byte, and the bytes of an immediate behind it.
    let opcodes: [(&[u8], usize); 24] = [
        (&[0x01 | numbers.byte() & 0x3a], 0),
        (&[numbers.byte() & 0x3b], 0),
        (&[0x83], 1),
        (&[0x80], 1),
        (&[0x84], 0),
        (&[0x85], 0),
        (&[0x88], 0),
        (&[0x89], 0),
        (&[0x8a], 0),
        (&[0x8b], 0),
        (&[0x8d], 0),
        (&[0xc6], 1),
        (&[0xff], 0),
        (&[0xfe], 0),
        (&[0xf7], 0),
        (&[0xc1], 1),
        (&[0xd3], 0),
        (&[0x63], 0),
        (&[0x0f, 0xb6 | numbers.byte() & 9], 0),
        (&[0x0f, 0x90 | numbers.byte() & 0xf], 0),
        (&[0x0f, 0x40 | numbers.byte() & 0xf], 0),
        (&[0x0f, 0xaf], 0),
        (&[0x0f, 0xba], 1),
        (&[0x50 | numbers.byte() & 0xf], usize::MAX),
    ];
    let (opcode, immediate) = opcodes[usize::from(numbers.byte()) % opcodes.len()];
    code.extend(opcode);
    if immediate == usize::MAX {
        return;
    }
    let modrm = numbers.byte();
    code.push(modrm);
    let has_sib = modrm & 0xc0 != 0xc0 && modrm & 7 == 4;
    let displacement = match modrm >> 6 {
        1 => 1,
        2 => 4,
        0 if modrm & 7 == 5 => 4,
        _ => 0,
    };
    if has_sib {
        code.push(numbers.byte() & 0xf8 | 3);
    }
    // Small ones, so that memory is where registers point.
    (0..displacement).for_each(|at| code.push(if at == 0 { numbers.byte() & 0x3f } else { 0 }));
    (0..immediate).for_each(|_| code.push(numbers.byte()));
}

/// A machine of 64-bit mode, or of flat protected mode, whose handlers end it by a port.
fn machine(code: &[u8], is_long: bool) -> Machine {
    let machine = if is_long { long_mode::machine(code) } else { privilege::machine(code, 0) };
    for vector in 0..64 {
        machine.write(0x5000 + 0x10 * vector, &[0xe6, 0x10]);
    }
    machine
}

#[test]
fn blocks_come_to_the_same_as_steps() {
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let mut compared = 0;
    for round in 0..1500 {
        let mut code = Vec::new();
        (0..10).for_each(|_| instruction(&mut numbers, &mut code));
        code.extend([0xe6, 0x10]);
        let is_long = round % 3 != 0;
        let registers: Vec<u64> = (0..16).map(|_| numbers.register()).collect();
        let set = |regs: &mut kvm_regs| {
            (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (registers[0], registers[1], registers[2], registers[3]);
            (regs.rsi, regs.rdi, regs.rbp, regs.r8) = (registers[4], registers[5], registers[6], registers[7]);
            (regs.r9, regs.r10, regs.r15) = (registers[8], registers[9], registers[10]);
            regs.rflags |= registers[11] & 0x8d5;
        };
        let (mut stepped, mut run) = (machine(&code, is_long), machine(&code, is_long));
        stepped.set(set);
        run.set(set);
        let stop = (0..100).map(|_| stepped.vcpu.step().unwrap()).find(|stop| *stop != Stop::Stepped);
        // Some lose their way, into a loop or a halt.
        let Some(Stop::Exit(exit)) = stop else { continue };
        compared += 1;
        assert_eq!(run.vcpu.run().unwrap(), exit, "{code:02x?}");
        assert_eq!(run.regs(), stepped.regs(), "{code:02x?}");
        assert_eq!(run.vcpu.sregs().unwrap(), stepped.vcpu.sregs().unwrap(), "{code:02x?}");
        let ram = |machine: &Machine| memory::read_at(&machine.ram, 0, RAM_LEN as usize);
        assert!(ram(&run) == ram(&stepped), "{code:02x?}");
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn code_that_changes_what_follows_executes_what_it_has_written() {
    // mov byte [rip + 1], 0x43; inc ax (a prefix becomes another); out 0x10, al: `49 ff c0` (inc r8) becomes `43 ff c0`
    let code = [0xc6, 0x05, 0x01, 0, 0, 0, 0x43, 0x90, 0x49, 0xff, 0xc0, 0xe6, 0x10];
    let mut run = machine(&code, true);
    assert!(matches!(run.vcpu.run().unwrap(), Exit::Access(_)));
    assert_eq!(run.regs().r8, 1, "inc r8 by another prefix");
    // mov word [rip], 0xc3ff (inc ebx) over `ff c1` (inc ecx)
    let code = [0x66, 0xc7, 0x05, 0, 0, 0, 0, 0xff, 0xc3, 0xff, 0xc1, 0xe6, 0x10];
    let mut run = machine(&code, true);
    run.set(|regs| (regs.rbx, regs.rcx) = (5, 7));
    assert!(matches!(run.vcpu.run().unwrap(), Exit::Access(_)));
    assert_eq!((run.regs().rbx, run.regs().rcx), (6, 7));
}

#[test]
fn code_that_another_changes_between_runs_is_executed_as_it_is_now() {
    // again: inc ecx; out 0x10, al; jmp again
    let mut machine = machine(&[0xff, 0xc1, 0xe6, 0x10, 0xeb, 0xfa], true);
    for _ in 0..3 {
        machine.vcpu.run().unwrap();
    }
    machine.write(ENTRY, &[0xff, 0xc9]);
    for _ in 0..3 {
        machine.vcpu.run().unwrap();
    }
    assert_eq!(machine.regs().rcx, 0);
}
