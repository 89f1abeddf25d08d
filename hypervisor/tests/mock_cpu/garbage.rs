//! Bytes that nobody wrote as code: whatever they mean, they end in no panic.

use hypervisor::{Exit, Vcpu, kvm_segment};

use super::*;

/// Marsaglia's xorshift: the same numbers in each run.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn register(&mut self) -> u64 {
        match self.next() % 4 {
            0 => self.next() & 0xffff,
            1 => self.next() & 0xffff_ffff,
            2 => [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000][self.next() as usize % 10],
            _ => self.next(),
        }
    }
}

/// Executes up to 200 instructions of garbage, with garbage for answers.
pub(super) fn execute(machine: &mut Machine, numbers: &mut Numbers) {
    for _ in 0..200 {
        match machine.vcpu.step().unwrap() {
            Stop::Stepped | Stop::Breakpoint => {}
            Stop::Exit(Exit::Access(access)) => {
                if access.inline_data().is_none() {
                    let answer: Vec<u8> = (0..access.len()).map(|_| numbers.next() as u8).collect();
                    machine.vcpu.answer(&answer).unwrap();
                }
            }
            Stop::Exit(_) | Stop::Idle => return,
        }
    }
}

/// Finishes a read that was left, so that the registers can be set.
pub(super) fn finish(machine: &mut Machine) {
    while let Ok(Stop::Exit(Exit::Access(access))) = machine.vcpu.step() {
        if access.inline_data().is_none() {
            machine.vcpu.answer(&vec![0; access.len()]).unwrap();
        } else {
            break;
        }
    }
}

#[test]
fn garbage_is_executed_without_a_panic() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut machine = Machine::new(&[]);
    let sregs = machine.vcpu.sregs().unwrap();
    for round in 0..20_000 {
        let bytes: Vec<u8> = (0..64).map(|_| numbers.next() as u8).collect();
        let entry = numbers.next() % (RAM_LEN - 64);
        machine.write(entry, &bytes);
        let mut sregs = sregs;
        let segment = kvm_segment {
            limit: if round % 4 == 0 { 0xffff } else { u32::MAX },
            selector: 8,
            type_: 3,
            present: 1,
            s: 1,
            db: (round % 2) as u8,
            ..sregs.ds
        };
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (segment, segment, segment, segment, segment);
        sregs.cs = kvm_segment { type_: 11, db: (round / 2 % 2) as u8, ..segment };
        sregs.cr0 |= round / 4 % 2;
        // SSE, and its exceptions
        sregs.cr4 |= (round / 16 % 4) << 9;
        if round % 8 == 7 {
            sregs.ss.dpl = 3;
        }
        machine.vcpu.set_sregs(&sregs).unwrap();
        machine.vcpu.set_mp_state(&Default::default()).unwrap();
        machine.set(|regs| {
            *regs = kvm_regs {
                rax: numbers.register(),
                rbx: numbers.register(),
                rcx: numbers.register() & 0xfff,
                rdx: numbers.register(),
                rsi: numbers.register(),
                rdi: numbers.register(),
                rbp: numbers.register(),
                rsp: numbers.register(),
                rip: entry,
                rflags: numbers.next() & 0x27_7fd7 | 2,
                ..Default::default()
            };
        });
        execute(&mut machine, &mut numbers);
        finish(&mut machine);
    }
}
