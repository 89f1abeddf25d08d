//! The signal by which a KVM vCPU is kicked, in a program that has plans of its own for it. One test: it changes what the whole
//! process does on SIGURG.
#![allow(unsafe_code, reason = "sigaction has no safe wrapper")]
#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use hypervisor::Exit;
use test_utils::guest::{Guest, Program};
use test_utils::kvm::kvm_or_skip;
use test_utils::wait;
use vmm_sys_util::signal::{block_signal, register_signal_handler};

/// How often the program's own handler ran.
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

fn dispose(handler: libc::sighandler_t) {
    // SAFETY: the signal is ignored or does what it does by default from here on.
    assert_ne!(unsafe { libc::signal(libc::SIGURG, handler) }, libc::SIG_ERR);
}

#[test]
fn a_kick_arrives_whatever_a_program_does_with_sigurg() {
    // A program with a handler, whose threads all block the signal.
    register_signal_handler(libc::SIGURG, handle).unwrap();
    block_signal(libc::SIGURG).unwrap();
    let Some(kvm) = kvm_or_skip("a_kick_arrives_whatever_a_program_does_with_sigurg") else { return };
    let Guest { mut vcpu, .. } = Guest::new(&kvm, &Program::new());
    let kick = vcpu.kick_handle();
    let (interrupted, awaited) = channel();
    let runner = thread::spawn(move || {
        // Until nobody waits for it any more.
        while interrupted.send(vcpu.run().unwrap()).is_ok() {}
    });
    let served = || assert_eq!(awaited.recv_timeout(wait::LIMIT).unwrap(), Exit::Interrupted);
    // A kick that finds the vCPU in the guest needs the signal. The program's handler gets it.
    wait::until("the program's handler has run", || {
        kick.kick();
        served();
        HANDLED.load(Ordering::SeqCst) > 0
    });
    // A program that ignores the signal later loses kicks, and none that is repeated.
    for ignored in [libc::SIG_IGN, libc::SIG_DFL] {
        for _ in 0..20 {
            dispose(ignored);
            kick.kick();
            wait::until("the kick was served", || !kick.repeat());
            served();
        }
    }
    drop(awaited);
    kick.kick();
    wait::until("the kick was served", || !kick.repeat());
    wait::join("the runner", runner);
}
