//! General and segment registers, also within exits.

use hypervisor::{Access, AddressSpace, Exit, ReadProblem, VcpuId, kvm_mp_state};

use super::*;

/// Not where programs begin.
const ENTRY_ELSEWHERE: u64 = 0x2000;

/// A write needs no commit.
pub fn registers_set_in_a_write_exit_hold(make: Make) {
    let program = Program::new().mov(1).output(PORT, 1).output(PORT, 4);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    let mut regs = vcpu.regs().expect("regs");
    regs.rax = 0xcafe;
    regs.rbx = 0xbeef;
    vcpu.set_regs(&regs).expect("set_regs");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0xfe, 0xca, 0, 0]);
    assert_eq!(vcpu.regs().expect("regs").rbx, 0xbeef);
}

/// A read is committed first; then registers may be set, and both hold.
pub fn registers_set_in_a_read_exit_hold_and_the_answer_too(make: Make) {
    for (program, space, address) in [
        (Program::new().mov(0).input(PORT, 1).output(OTHER_PORT, 1), AddressSpace::Pio, PORT),
        (Program::new().mov(0).load(HOLE, 1).output(OTHER_PORT, 1), AddressSpace::Mmio, HOLE),
    ] {
        let Guest { mut vcpu, .. } = guest!(make, program);
        expect_read(&mut *vcpu, space, address.into(), 1);
        vcpu.answer(&[0x77]).expect("answer");
        assert_eq!(commit(&mut *vcpu), Exit::Interrupted);
        let mut regs = vcpu.regs().expect("regs");
        assert_eq!(regs.rax & 0xff, 0x77, "the answer is in the register after the commit");
        regs.rbx = 0xbeef;
        vcpu.set_regs(&regs).expect("set_regs");
        expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[0x77]);
        assert_eq!(vcpu.regs().expect("regs").rbx, 0xbeef);
    }
}

/// Where a vCPU pauses, its state is whole and may be changed.
pub fn registers_set_at_an_interruption_hold(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().output(PORT, 1));
    vcpu.kick_handle().kick();
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
    let mut regs = vcpu.regs().expect("regs");
    regs.rax = 0x77;
    vcpu.set_regs(&regs).expect("set_regs");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x77]);
}

/// Setting registers too early, which would lose the answer, is refused; the MP state does no harm.
pub fn registers_cannot_be_set_before_a_read_is_committed(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().input(PORT, 1).output(PORT, 1));
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
    let (regs, sregs) = (vcpu.regs().expect("regs"), vcpu.sregs().expect("sregs"));
    let mp_state = vcpu.mp_state().expect("mp_state");
    for answered in [false, true] {
        if answered {
            vcpu.answer(&[3]).expect("answer");
        }
        assert_eq!(read_problem(vcpu.set_regs(&regs)), ReadProblem::Uncommitted);
        assert_eq!(read_problem(vcpu.set_sregs(&sregs)), ReadProblem::Uncommitted);
        vcpu.set_mp_state(&mp_state).expect("set_mp_state");
    }
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[3]);
}

/// A commit may give the next fragment: the instruction is not done before `Interrupted`.
pub fn registers_set_in_a_straddling_read_wait_for_its_last_fragment(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().load(STRADDLE, 4).output(PORT, 4));
    expect_read(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), 2);
    vcpu.answer(&[1, 2]).expect("answer");
    let next = Access::read(AddressSpace::Mmio, u64::from(STRADDLE) + 2, 2).expect("access");
    assert_eq!(commit(&mut *vcpu), Exit::Access(next));
    let regs = vcpu.regs().expect("regs");
    assert_eq!(read_problem(vcpu.set_regs(&regs)), ReadProblem::Uncommitted);
    vcpu.answer(&[3, 4]).expect("answer");
    assert_eq!(commit(&mut *vcpu), Exit::Interrupted);
    let mut regs = vcpu.regs().expect("regs");
    regs.rbx = 0xbeef;
    vcpu.set_regs(&regs).expect("set_regs");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
    assert_eq!(vcpu.regs().expect("regs").rbx, 0xbeef);
}

/// Intel SDM volume 3, table 11-1.
pub fn a_vcpu_begins_in_the_state_after_reset(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let vcpu = vm.create_vcpu(VcpuId(1)).expect("create_vcpu");
    let regs = vcpu.regs().expect("regs");
    assert_eq!((regs.rip, regs.rflags, regs.rax, regs.rdx), (0xfff0, 2, 0, 0x600));
    let sregs = vcpu.sregs().expect("sregs");
    assert_eq!((sregs.cs.selector, sregs.cs.base, sregs.cs.limit), (0xf000, 0xffff_0000, 0xffff));
    assert_eq!((sregs.ds.selector, sregs.ds.base, sregs.ds.limit), (0, 0, 0xffff));
    assert_eq!((sregs.gdt.limit, sregs.idt.limit), (0xffff, 0xffff));
    assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x6000_0010, 0, 0, 0));
    assert_eq!(sregs.apic_base, 0xfee0_0800);
}

/// What goes in comes out.
pub fn state_that_was_set_is_read_back(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let mut regs = vcpu.regs().expect("regs");
    (regs.rax, regs.r15, regs.rsp, regs.rip) = (1, u64::MAX, 0x2000, ENTRY_ELSEWHERE);
    vcpu.set_regs(&regs).expect("set_regs");
    assert_eq!(vcpu.regs().expect("regs"), regs);
    let mut sregs = vcpu.sregs().expect("sregs");
    (sregs.ds.base, sregs.ds.selector) = (0x1230, 0x123);
    vcpu.set_sregs(&sregs).expect("set_sregs");
    assert_eq!(vcpu.sregs().expect("sregs"), sregs);
}

/// A backend that gives registers with an exit does not go on giving those.
pub fn registers_after_an_exit_are_those_that_were_set_since(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1).mov(2).output(PORT, 1));
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    let mut regs = vcpu.regs().expect("regs");
    assert_eq!(regs.rax, 1);
    regs.rdi = 0xd1;
    vcpu.set_regs(&regs).expect("set_regs");
    assert_eq!(vcpu.regs().expect("regs"), regs);
    assert_eq!(commit(&mut *vcpu), Exit::Interrupted);
    assert_eq!(vcpu.regs().expect("regs").rdi, 0xd1);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[2]);
    let regs = vcpu.regs().expect("regs");
    assert_eq!((regs.rax, regs.rdi), (2, 0xd1));
}

/// A run that does not come to the guest, since the vCPU waits for a start-up interrupt, keeps what was set before it.
pub fn registers_set_before_a_run_that_waits_are_kept(make: Make) {
    const RUNNABLE: u32 = 0;
    const UNINITIALIZED: u32 = 1;
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1).mov(2).output(PORT, 1));
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    let mut regs = vcpu.regs().expect("regs");
    regs.rdi = 0xd2;
    vcpu.set_regs(&regs).expect("set_regs");
    vcpu.set_mp_state(&kvm_mp_state { mp_state: UNINITIALIZED }).expect("set_mp_state");
    vcpu.kick_handle().kick();
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
    assert_eq!(vcpu.regs().expect("regs").rdi, 0xd2);
    vcpu.set_mp_state(&kvm_mp_state { mp_state: RUNNABLE }).expect("set_mp_state");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[2]);
    assert_eq!(vcpu.regs().expect("regs").rdi, 0xd2);
}
