//! What machine code does that no script can.

use hypervisor::{AddressSpace, Exit, kvm_mp_state};

use super::*;
use crate::guest::{ENTRY, RAM_START};
use crate::memory;

/// Where strings go to, in RAM.
const BUFFER: u64 = 0x3000;

/// All of it, in order.
pub fn a_string_that_was_read_lies_in_memory(make: Make) {
    let program = Program::new().input_string(PORT, 2, 700).code_only(&[]).output(OTHER_PORT, 1);
    let Guest { mut vcpu, ram, .. } = guest!(make, program);
    let bytes: Vec<u8> = (0..1400).map(|index| (index % 251) as u8).collect();
    let mut given = 0;
    while given < bytes.len() {
        let len = access(&mut *vcpu).len();
        vcpu.answer(&bytes[given..given + len]).expect("answer");
        given += len;
    }
    assert_eq!(access(&mut *vcpu).address(), u64::from(OTHER_PORT));
    assert_eq!(memory::read_at(&ram, BUFFER - RAM_START, bytes.len()), bytes);
}

/// An exit an item; RAM takes what was answered.
pub fn a_string_moves_out_of_nobodys_memory(make: Make) {
    let ([from_low, from_high], [to_low, to_high]) = (HOLE.to_le_bytes(), (BUFFER as u16).to_le_bytes());
    // cld; mov si, HOLE; mov di, BUFFER; mov cx, 3; rep movsb
    let code = [0xfc, 0xbe, from_low, from_high, 0xbf, to_low, to_high, 0xb9, 3, 0, 0xf3, 0xa4];
    let Guest { mut vcpu, ram, .. } = guest!(make, Program::new().code_only(&code).output(PORT, 1));
    for index in 0..3 {
        expect_read(&mut *vcpu, AddressSpace::Mmio, u64::from(HOLE) + index, 1);
        let regs = vcpu.regs().expect("regs");
        assert_eq!((regs.rcx, regs.rip), (3 - index, ENTRY + 10), "within the instruction");
        vcpu.answer(&[0x61 + index as u8]).expect("answer");
    }
    assert_eq!(access(&mut *vcpu).address(), u64::from(PORT));
    assert_eq!(memory::read_at(&ram, BUFFER - RAM_START, 4), b"abc\0");
}

/// A commit of the read gives the write.
pub fn an_instruction_that_reads_and_writes_exits_for_both(make: Make) {
    let [low, high] = HOLE.to_le_bytes();
    // mov al, 0x12; xchg [HOLE], al
    let code = [0xb0, 0x12, 0x86, 0x06, low, high];
    let Guest { mut vcpu, .. } = guest!(make, Program::new().code_only(&code).output(PORT, 1));
    expect_read(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), 1);
    vcpu.answer(&[0x34]).expect("answer");
    let write = Access::write(AddressSpace::Mmio, HOLE.into(), &[0x12]).expect("access");
    assert_eq!(commit(&mut *vcpu), Exit::Access(write));
    assert_eq!(commit(&mut *vcpu), Exit::Interrupted);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x34]);
}

/// Nobody tells the backend of a write through another mapping.
pub fn code_changed_from_outside_is_executed_as_it_is_now(make: Make) {
    // again: mov al, 1; out PORT, al; jmp again
    let code = [0xb0, 1, 0xe6, 0x70, 0xeb, 0xfa];
    let Guest { mut vcpu, ram, .. } = guest!(make, Program::new().code_only(&code));
    for value in [1, 1, 2, 3] {
        memory::write_at(&ram, ENTRY + 1 - RAM_START, &[value]);
        expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[value]);
    }
}

/// Behind its `hlt`.
pub fn a_halted_vcpu_runs_on_when_it_is_made_runnable(make: Make) {
    let program = Program::new().mov(7).code_only(&[0xf4]).output(PORT, 1);
    let Guest { mut vcpu, .. } = guest!(make, program);
    let kick = vcpu.kick_handle();
    // The run may be kicked before the guest halts.
    while vcpu.mp_state().expect("mp_state").mp_state == 0 {
        let kicker = std::thread::spawn({
            let kick = kick.clone();
            move || {
                std::thread::yield_now();
                kick.kick();
            }
        });
        assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
        kicker.join().expect("a kicker does not panic");
    }
    kick.kick();
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted, "it halts on");
    vcpu.set_mp_state(&kvm_mp_state { mp_state: 0 }).expect("set_mp_state");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[7]);
}

/// Nothing is pending then, and registers may be set.
pub fn a_guest_without_code_ends_the_run(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().shutdown());
    // A script has no code to be without, and shuts down.
    assert!(matches!(run(&mut *vcpu), Exit::InternalError(_) | Exit::Shutdown));
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::NothingToAnswer);
    let regs = vcpu.regs().expect("regs");
    vcpu.set_regs(&regs).expect("set_regs");
}
