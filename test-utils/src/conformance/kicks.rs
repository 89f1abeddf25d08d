//! Kicks.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hypervisor::{Access, AddressSpace, Direction, Exit};

use super::*;
use crate::wait;

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
    // Longer than a vCPU needs that has a processor of its own.
    const LOOKS: usize = 1_000;
    // Where others want the processors all the time there are fewer kicks, which is told.
    const LONGEST: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    let several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
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
                    (0..KICKS_EACH).take_while(|_| begun.elapsed() < LONGEST).find(|n| {
                        let before = interruptions.load(Ordering::SeqCst);
                        // Different moments of the vCPU's round, without a clock.
                        for _ in 0..(n * (kicker + 3)) % 97 {
                            std::hint::spin_loop();
                        }
                        kick.kick();
                        let answered = || interruptions.load(Ordering::SeqCst) != before;
                        // Who lets others run gets the processor back late where there are many.
                        !((0..LOOKS).any(|_| answered()) || wait::holds(answered))
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
                // The guest would keep the kickers from the only processor for as long as the kernel lets it.
                if !several {
                    thread::yield_now();
                }
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
    let kicks = interruptions.load(Ordering::SeqCst);
    if kicks < (KICKERS * KICKS_EACH) as u64 {
        // Past the harness's capture; a closed standard error must not fail the test.
        let _ = writeln!(std::io::stderr(), "LATE: {kicks} kicks on a busy machine, no more in {LONGEST:?}");
    }
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
