//! What any backend must do. [`conformance_tests!`](crate::conformance_tests) makes one test of each case.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hypervisor::{
    Access, AddressSpace, Direction, Error, Exit, Hypervisor, MemoryProblem, ReadProblem, SlotId, Vcpu, VcpuId,
};

use crate::guest::{self, Guest, Program, RAM_END, RAM_LEN, RAM_START};
use crate::{memory, wait};

/// Makes a hypervisor whose vCPUs run `program`, or tells of a skip.
pub type Make<'a> = &'a dyn Fn(&Program) -> Option<Box<dyn Hypervisor>>;

/// Makes one `#[test]` of each case, for the backend that `$make` (a `fn(case: &str, &Program) ->
/// Option<Box<dyn Hypervisor>>`) gives.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!(@cases $make:
            a_port_write_exits_with_its_data
            a_port_read_takes_the_answer
            memory_that_no_slot_backs_exits
            memory_in_a_slot_does_not_exit
            a_write_to_read_only_memory_exits_and_changes_nothing
            overlapping_memory_is_refused_and_nothing_changes
            unmapped_memory_exits_again_and_its_slot_is_free
            a_string_read_keeps_width_and_count_apart
            registers_set_in_a_write_exit_hold
            registers_set_in_a_read_exit_hold_and_the_answer_too
            registers_cannot_be_set_before_a_read_is_committed
            a_straddling_read_comes_in_fragments_that_make_one_value
            registers_set_in_a_straddling_read_wait_for_its_last_fragment
            a_straddling_write_comes_in_fragments
            an_access_half_in_memory_exits_for_the_other_half
            the_rules_of_an_answer_are_kept
            a_kick_before_a_run_ends_it_before_the_guest_moves
            a_kick_during_a_run_ends_it
            a_kick_ends_the_wait_of_a_halted_vcpu
            a_kick_between_runs_waits_for_the_access_to_finish
            a_commit_does_not_eat_a_kick
            a_kick_outlives_the_next_fragment
            a_hundred_thousand_kicks_from_other_threads_and_none_is_lost
            a_kick_of_a_vcpu_that_is_gone_does_nothing
            the_second_vcpu_waits_until_it_is_made_runnable
            a_vcpu_is_made_once
            a_vcpu_begins_in_the_state_after_reset
            state_that_was_set_is_read_back
        );
    };
    (@cases $make:path: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$case(&|program| $make(stringify!($case), program));
            }
        )*
    };
}

const PORT: u16 = 0x3f8;
const OTHER_PORT: u16 = 0x70;
/// An address nobody backs, in the middle of a page.
const HOLE: u16 = 0x9100;
/// Four bytes here lie on two pages, both unbacked.
const STRADDLE: u16 = 0x9ffe;

macro_rules! guest {
    ($make:expr, $program:expr) => {{
        let program = $program;
        match $make(&program) {
            Some(hypervisor) => Guest::new(&*hypervisor, &program),
            None => return,
        }
    }};
}

fn run(vcpu: &mut dyn Vcpu) -> Exit {
    // An interruption that nobody asked for is legal.
    for _ in 0..100 {
        match vcpu.run().expect("run") {
            Exit::Interrupted => {}
            exit => return exit,
        }
    }
    panic!("interrupted a hundred times in a row");
}

fn access(vcpu: &mut dyn Vcpu) -> Access {
    match run(vcpu) {
        Exit::Access(access) => access,
        other => panic!("{other:?} instead of an access"),
    }
}

fn expect_write(vcpu: &mut dyn Vcpu, space: AddressSpace, address: u64, data: &[u8]) {
    let access = access(vcpu);
    assert_eq!((access.space(), access.address(), access.direction()), (space, address, Direction::Write));
    assert_eq!(access.inline_data(), Some(data));
    assert_eq!(vcpu.access_data(), data);
}

fn expect_read(vcpu: &mut dyn Vcpu, space: AddressSpace, address: u64, len: usize) {
    let access = access(vcpu);
    assert_eq!((access.space(), access.address(), access.direction()), (space, address, Direction::Read));
    assert_eq!(access.len(), len);
    assert_eq!(vcpu.access_data(), [0; 0]);
}

fn commit(vcpu: &mut dyn Vcpu) -> Exit {
    vcpu.commit().expect("commit")
}

fn read_problem<T: std::fmt::Debug>(result: hypervisor::Result<T>) -> ReadProblem {
    match result {
        Err(Error::Read { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

/// Ports: data of each width.
pub fn a_port_write_exits_with_its_data(make: Make) {
    let program = Program::new().mov(0x4433_2211).output(PORT, 1).output(PORT, 2).output(OTHER_PORT, 4);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11, 0x22]);
    expect_write(&mut *vcpu, AddressSpace::Pio, OTHER_PORT.into(), &[0x11, 0x22, 0x33, 0x44]);
}

/// The answer is what the guest then has.
pub fn a_port_read_takes_the_answer(make: Make) {
    let program = Program::new().mov(0).input(PORT, 1).output(PORT, 4).input(PORT, 4).output(PORT, 4);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
    vcpu.answer(&[0xa5]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0xa5, 0, 0, 0]);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 4);
    vcpu.answer(&[1, 2, 3, 4]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
}

/// MMIO, both ways.
pub fn memory_that_no_slot_backs_exits(make: Make) {
    let program = Program::new().mov(0x1234_5678).store(HOLE, 4).load(HOLE + 4, 2).output(PORT, 2);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[0x78, 0x56, 0x34, 0x12]);
    expect_read(&mut *vcpu, AddressSpace::Mmio, u64::from(HOLE) + 4, 2);
    vcpu.answer(&[0xcd, 0xab]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0xcd, 0xab]);
}

/// Memory is memory.
pub fn memory_in_a_slot_does_not_exit(make: Make) {
    let program = Program::new().mov(0x99).store(0x4000, 1).mov(0).load(0x4000, 1).output(PORT, 1);
    let Guest { mut vcpu, ram, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x99]);
    assert_eq!(memory::read_at(&ram, 0x4000 - RAM_START, 1), [0x99]);
}

/// Read-only slots read as memory and write as MMIO.
pub fn a_write_to_read_only_memory_exits_and_changes_nothing(make: Make) {
    let program = Program::new().mov(7).store(HOLE, 1).load(HOLE, 1).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    let (region, rom) = memory::region(0x9000, 0x1000);
    memory::write_at(&rom, 0x100, &[0x42]);
    vm.map_memory(region.read_only(true)).expect("map_memory");
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[7]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x42]);
    assert_eq!(memory::read_at(&rom, 0x100, 1), [0x42]);
}

/// Slots do not overlap.
pub fn overlapping_memory_is_refused_and_nothing_changes(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new().mov(1).store(RAM_END as u16, 1).output(PORT, 1));
    for (start, len) in [(RAM_START, 0x1000), (0, 0x2000), (RAM_END - 0x1000, 0x2000), (0, 0x10_0000)] {
        match vm.map_memory(memory::region(start, len).0) {
            Err(Error::Memory { problem: MemoryProblem::Overlap, start: told, .. }) => assert_eq!(told, start),
            other => panic!("{start:#x}: {other:?}"),
        }
    }
    // The page behind RAM, which two of them would have covered, is still nobody's.
    expect_write(&mut *vcpu, AddressSpace::Mmio, RAM_END, &[1]);
}

/// A slot that is taken away is gone at once and can be had again.
pub fn unmapped_memory_exits_again_and_its_slot_is_free(make: Make) {
    let program = Program::new().mov(5).store(HOLE, 1).output(PORT, 1).store(HOLE, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    let slot = vm.map_memory(memory::region(0x9000, 0x1000).0).expect("map_memory");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[5]);
    vm.unmap_memory(slot).expect("unmap_memory");
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[5]);
    for _ in 0..2 {
        match vm.unmap_memory(slot) {
            Err(Error::Memory { problem: MemoryProblem::NotMapped, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(vm.map_memory(memory::region(0x9000, 0x1000).0).expect("map_memory"), slot);
    assert_ne!(vm.map_memory(memory::region(0xa000, 0x1000).0).expect("map_memory"), slot);
    assert!(vm.unmap_memory(SlotId(4711)).is_err());
}

/// Exits tell width and count, not just their product.
pub fn a_string_read_keeps_width_and_count_apart(make: Make) {
    let program = Program::new().input_string(PORT, 2, 512).mov(1).output(OTHER_PORT, 1);
    let Guest { mut vcpu, .. } = guest!(make, program);
    let mut items = 0;
    loop {
        // A backend may split a string, but only between items.
        let access = access(&mut *vcpu);
        if access.address() == u64::from(OTHER_PORT) {
            break;
        }
        assert_eq!((access.direction(), access.width()), (Direction::Read, 2));
        items += access.count();
        vcpu.answer(&vec![0x5a; access.len()]).expect("answer");
    }
    assert_eq!(items, 512);
}

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

/// Two pages, two exits, one value.
pub fn a_straddling_read_comes_in_fragments_that_make_one_value(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().load(STRADDLE, 4).output(PORT, 4));
    expect_read(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), 2);
    vcpu.answer(&[1, 2]).expect("answer");
    expect_read(&mut *vcpu, AddressSpace::Mmio, u64::from(STRADDLE) + 2, 2);
    vcpu.answer(&[3, 4]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
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

/// Two pages, two exits.
pub fn a_straddling_write_comes_in_fragments(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(0x4433_2211).store(STRADDLE, 4).output(PORT, 1));
    expect_write(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), &[0x11, 0x22]);
    expect_write(&mut *vcpu, AddressSpace::Mmio, u64::from(STRADDLE) + 2, &[0x33, 0x44]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11]);
}

/// The half in a slot is memory, the half outside an exit.
pub fn an_access_half_in_memory_exits_for_the_other_half(make: Make) {
    let edge = RAM_END as u16 - 2;
    let program = Program::new().mov(0x4433_2211).store(edge, 4).mov(0).load(edge, 4).output(PORT, 4);
    let Guest { mut vcpu, ram, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Mmio, RAM_END, &[0x33, 0x44]);
    assert_eq!(memory::read_at(&ram, RAM_LEN - 2, 2), [0x11, 0x22]);
    expect_read(&mut *vcpu, AddressSpace::Mmio, RAM_END, 2);
    vcpu.answer(&[0x55, 0x66]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11, 0x22, 0x55, 0x66]);
}

/// Answers: one, of the right length, to a read.
pub fn the_rules_of_an_answer_are_kept(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1).input(PORT, 2).output(PORT, 2));
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::NothingToAnswer);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::NothingToAnswer);
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 2);
    assert_eq!(read_problem(vcpu.run()), ReadProblem::Unanswered);
    assert_eq!(read_problem(vcpu.commit()), ReadProblem::Unanswered);
    assert_eq!(read_problem(vcpu.answer(&[1])), ReadProblem::WrongLength { expected: 2, given: 1 });
    vcpu.answer(&[1, 2]).expect("answer");
    assert_eq!(read_problem(vcpu.answer(&[1, 2])), ReadProblem::NothingToAnswer);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2]);
}

/// A kick that comes first is not forgotten.
pub fn a_kick_before_a_run_ends_it_before_the_guest_moves(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(1).output(PORT, 1));
    let before = vcpu.regs().expect("regs");
    vcpu.kick_handle().kick();
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
    assert_eq!(vcpu.regs().expect("regs"), before);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
}

/// A guest that never exits is still got out.
pub fn a_kick_during_a_run_ends_it(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let kick = vcpu.kick_handle();
    let runner = thread::spawn(move || vcpu.run().expect("run"));
    kick.kick();
    assert_eq!(wait::join("the run", runner), Exit::Interrupted);
}

/// A halted vCPU waits inside the backend, and is still got out, again and again.
pub fn a_kick_ends_the_wait_of_a_halted_vcpu(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().halt());
    let kick = vcpu.kick_handle();
    let (interrupted, wait_interrupted) = std::sync::mpsc::channel();
    let runner = thread::spawn(move || {
        for _ in 0..100 {
            assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
            interrupted.send(()).expect("send");
        }
    });
    for _ in 0..100 {
        kick.kick();
        wait_interrupted.recv_timeout(wait::LIMIT).expect("an interruption");
    }
    wait::join("the runner", runner);
}

/// The access is finished first; no `Interrupted` comes in its middle.
pub fn a_kick_between_runs_waits_for_the_access_to_finish(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(0).input(PORT, 1).output(PORT, 1));
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
    vcpu.kick_handle().kick();
    vcpu.answer(&[9]).expect("answer");
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
    assert_eq!(vcpu.regs().expect("regs").rax & 0xff, 9);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[9]);
}

/// A commit ends in `Interrupted` by itself; a kick is for the next run.
pub fn a_commit_does_not_eat_a_kick(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().mov(0).input(PORT, 1).output(PORT, 1));
    expect_read(&mut *vcpu, AddressSpace::Pio, PORT.into(), 1);
    vcpu.answer(&[9]).expect("answer");
    vcpu.kick_handle().kick();
    assert_eq!(commit(&mut *vcpu), Exit::Interrupted);
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted, "the kick's own");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[9]);
}

/// Fragments come first, then the `Interrupted`.
pub fn a_kick_outlives_the_next_fragment(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().load(STRADDLE, 4).output(PORT, 4));
    expect_read(&mut *vcpu, AddressSpace::Mmio, STRADDLE.into(), 2);
    vcpu.kick_handle().kick();
    vcpu.answer(&[1, 2]).expect("answer");
    let next = Access::read(AddressSpace::Mmio, u64::from(STRADDLE) + 2, 2).expect("access");
    assert_eq!(vcpu.run().expect("run"), Exit::Access(next));
    vcpu.answer(&[3, 4]).expect("answer");
    assert_eq!(vcpu.run().expect("run"), Exit::Interrupted);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1, 2, 3, 4]);
}

/// Two threads, one after the other so that neither's kick can stand in for a lost one of the other's, kick while the
/// vCPU runs, exits, commits and rests; each kick must be followed by an `Interrupted`. The guest ends in a spin, so a
/// lost kick is a run that does not end.
pub fn a_hundred_thousand_kicks_from_other_threads_and_none_is_lost(make: Make) {
    const KICKERS: usize = 2;
    const KICKS_EACH: usize = 50_000;
    let Guest { mut vcpu, .. } = guest!(make, Program::new().input(PORT, 1).load(STRADDLE, 4));
    let start_of_program = vcpu.regs().expect("regs");
    let interruptions = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let kickers = {
        let (kick, interruptions, over) = (vcpu.kick_handle(), Arc::clone(&interruptions), Arc::clone(&over));
        thread::spawn(move || {
            let lost = (0..KICKERS).find_map(|kicker| {
                let (kick, interruptions) = (kick.clone(), Arc::clone(&interruptions));
                let kicking = thread::spawn(move || {
                    (0..KICKS_EACH).find(|n| {
                        let before = interruptions.load(Ordering::SeqCst);
                        // Different moments of the vCPU's round, without a clock.
                        for _ in 0..(n * (kicker + 3)) % 97 {
                            std::hint::spin_loop();
                        }
                        kick.kick();
                        !wait::holds(|| interruptions.load(Ordering::SeqCst) != before)
                    })
                });
                kicking.join().expect("a kicker does not panic").map(|n| (kicker, n))
            });
            over.store(true, Ordering::SeqCst);
            // The vCPU may have entered before it was over.
            kick.kick();
            lost
        })
    };
    let mut round = 0_u64;
    while !over.load(Ordering::SeqCst) {
        match vcpu.run().expect("run") {
            Exit::Interrupted => {
                interruptions.fetch_add(1, Ordering::SeqCst);
                round += 1;
                // Every few rounds the guest starts over, to be kicked amid its exits too.
                if round.is_multiple_of(4) {
                    vcpu.set_regs(&start_of_program).expect("set_regs");
                }
            }
            Exit::Access(access) if access.direction() == Direction::Read => {
                vcpu.answer(&[1, 2, 3, 4][..access.len()]).expect("answer");
                if round.is_multiple_of(3) && vcpu.commit().expect("commit") != Exit::Interrupted {
                    vcpu.answer(&[3, 4]).expect("answer");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let lost = wait::join("the kickers", kickers);
    assert_eq!(lost, None, "the thread and the number of a kick that was lost");
}

/// A kick held longer than its vCPU is harmless.
pub fn a_kick_of_a_vcpu_that_is_gone_does_nothing(make: Make) {
    let Guest { vcpu, vm, .. } = guest!(make, Program::new());
    let kick = vcpu.kick_handle();
    drop(vcpu);
    drop(vm);
    kick.kick();
    kick.clone().kick();
}

/// As on a machine: only the first processor starts by itself.
pub fn the_second_vcpu_waits_until_it_is_made_runnable(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new().mov(6).output(PORT, 1));
    let mut second = vm.create_vcpu(VcpuId(1)).expect("create_vcpu");
    let mp_state = second.mp_state().expect("mp_state");
    assert_ne!(mp_state.mp_state, 0, "not runnable");
    guest::boot(&mut *second);
    second.set_mp_state(&mp_state).expect("set_mp_state");
    second.kick_handle().kick();
    assert_eq!(second.run().expect("run"), Exit::Interrupted);
    guest::boot(&mut *second);
    expect_write(&mut *second, AddressSpace::Pio, PORT.into(), &[6]);
}

/// Ids are unique.
pub fn a_vcpu_is_made_once(make: Make) {
    let Guest { vm, vcpu, .. } = guest!(make, Program::new());
    assert_eq!(vcpu.id(), VcpuId(0));
    assert!(vm.create_vcpu(VcpuId(0)).is_err());
    assert_eq!(vm.create_vcpu(VcpuId(3)).expect("create_vcpu").id(), VcpuId(3));
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

const ENTRY_ELSEWHERE: u64 = 0x2000;
