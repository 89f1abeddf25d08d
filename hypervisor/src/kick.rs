//! Ending a vCPU's run from another thread, without ever losing the wish.
//!
//! Two bits, changed atomically, tell all: a kick is *pending*, the vCPU is *inside* the guest. The kicker sets
//! `PENDING`, then raises the backend's flag, then, only if the vCPU was inside, interrupts its thread. The vCPU sets
//! `INSIDE` before it enters and looks at `PENDING` in the same step, so one of the two always sees the other:
//!
//! * the kicker came first: the vCPU sees `PENDING` as it enters, and returns at once;
//! * the vCPU came first: the kicker sees `INSIDE`, and interrupts the thread; an interrupt that lands before the
//!   entry itself finds the flag raised already.
//!
//! The vCPU takes `PENDING` before it lowers the flag. A kick in between keeps its `PENDING`, although its flag is
//! lost, and is seen at the next entry. A flag raised late costs one `Interrupted` that nobody asked for.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const PENDING: u8 = 1;
const INSIDE: u8 = 2;

/// Makes the current or the next [`run`](crate::Vcpu::run) of one vCPU return
/// [`Interrupted`](crate::Exit::Interrupted). Clones kick the same vCPU. A kick of a vCPU that is gone does nothing.
#[derive(Clone)]
pub struct Kick {
    shared: Arc<Shared>,
}

impl Kick {
    /// A kick for something that is no vCPU of a backend: `wake` is called at each kick. For fakes.
    pub fn from_fn(wake: impl Fn() + Send + Sync + 'static) -> Self {
        struct Fake<F>(F);
        impl<F: Fn() + Send + Sync> KickSignal for Fake<F> {
            fn raise(&self) {
                (self.0)();
            }
            fn interrupt(&self) {}
        }
        KickState::new(Fake(wake)).kick_handle()
    }

    /// Ends the current run, or the next one where none is under way. Where an earlier kick waits to have its effect, nothing is
    /// left to be done.
    pub fn kick(&self) {
        let before = self.shared.state.fetch_or(PENDING, Ordering::SeqCst);
        self.shared.kick_signal.raise();
        if before == INSIDE {
            self.shared.kick_signal.interrupt();
        }
    }

    /// Kicks once more where an earlier kick has not ended the run that is under way: whether that was so. A caller that must
    /// be sure of a kick calls this from time to time until it returns false.
    pub fn repeat(&self) -> bool {
        let unserved = self.shared.state.load(Ordering::SeqCst) == PENDING | INSIDE;
        if unserved {
            self.shared.kick_signal.interrupt_again();
        }
        unserved
    }
}

impl std::fmt::Debug for Kick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kick").finish_non_exhaustive()
    }
}

struct Shared {
    state: AtomicU8,
    kick_signal: Box<dyn KickSignal>,
}

/// How a backend's guest entry is stopped.
pub(crate) trait KickSignal: Send + Sync {
    /// Makes an entry that has not happened yet return at once.
    fn raise(&self);
    /// Gets the vCPU's thread out of the guest.
    fn interrupt(&self);
    /// Does so where [`interrupt`](Self::interrupt) seems to have had no effect.
    fn interrupt_again(&self) {
        self.interrupt();
    }
}

/// The vCPU's side of its [`Kick`]s: what it passes on its way into the guest and out.
pub(crate) struct KickState {
    shared: Arc<Shared>,
}

impl KickState {
    pub(crate) fn new(kick_signal: impl KickSignal + 'static) -> Self {
        Self { shared: Arc::new(Shared { state: AtomicU8::new(0), kick_signal: Box::new(kick_signal) }) }
    }

    pub(crate) fn kick_handle(&self) -> Kick {
        Kick { shared: Arc::clone(&self.shared) }
    }

    /// Goes inside; true where a kick is pending, and the guest must not be run.
    #[must_use]
    pub(crate) fn enter(&self) -> bool {
        self.shared.state.fetch_or(INSIDE, Ordering::SeqCst) & PENDING != 0
    }

    /// Comes out. From here on no kick interrupts the thread.
    pub(crate) fn leave(&self) {
        self.shared.state.fetch_and(!INSIDE, Ordering::SeqCst);
    }

    /// True where a kick is pending.
    pub(crate) fn is_kicked(&self) -> bool {
        self.shared.state.load(Ordering::SeqCst) & PENDING != 0
    }

    /// Takes the pending kick, which is thereby served.
    pub(crate) fn take(&self) {
        self.shared.state.fetch_and(!PENDING, Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A guest that runs for ever unless it is interrupted, entered as KVM is: the flag is looked at on the way in.
    #[derive(Default)]
    struct Guest {
        flag: AtomicBool,
        signalled: Mutex<bool>,
        signal: Condvar,
    }

    impl Guest {
        /// `ioctl(KVM_RUN)`: it ends by the flag, or by a signal that arrives meanwhile. One that arrived before, in user
        /// space, was handled there and is gone.
        fn run(&self) {
            let mut signalled = self.signalled.lock().unwrap();
            *signalled = false;
            while !self.flag.load(Ordering::SeqCst) && !*signalled {
                signalled = self.signal.wait(signalled).unwrap();
            }
        }
    }

    struct GuestBell(Arc<Guest>);

    impl KickSignal for GuestBell {
        fn raise(&self) {
            self.0.flag.store(true, Ordering::SeqCst);
        }
        fn interrupt(&self) {
            *self.0.signalled.lock().unwrap() = true;
            self.0.signal.notify_one();
        }
    }

    /// One run, in the steps of the KVM backend.
    fn run(kick_state: &KickState, guest: &Guest) {
        if kick_state.enter() {
            guest.flag.store(true, Ordering::SeqCst);
        }
        guest.run();
        kick_state.leave();
        kick_state.take();
        guest.flag.store(false, Ordering::SeqCst);
    }

    /// Every kick is followed by the return of a run that was under way or began after it.
    #[test]
    fn no_kick_is_lost_whatever_the_interleaving() {
        loom::model(|| {
            let guest = Arc::new(Guest::default());
            let kick_state = KickState::new(GuestBell(Arc::clone(&guest)));
            let kick = kick_state.kick_handle();
            let wished = Arc::new(AtomicU8::new(0));
            let kicker = {
                let wished = Arc::clone(&wished);
                thread::spawn(move || {
                    wished.fetch_add(1, Ordering::SeqCst);
                    kick.kick();
                })
            };
            // A lost kick would leave this loop waiting in the guest for ever, which loom reports as a deadlock.
            while wished.load(Ordering::SeqCst) == 0 {
                run(&kick_state, &guest);
            }
            kicker.join().unwrap();
        });
    }

    /// Completing an access raises and lowers the flag itself; a kick that comes meanwhile is still there after it.
    #[test]
    fn a_commit_does_not_eat_a_kick() {
        loom::model(|| {
            let guest = Arc::new(Guest::default());
            let kick_state = KickState::new(GuestBell(Arc::clone(&guest)));
            let kick = kick_state.kick_handle();
            let kicker = thread::spawn(move || kick.kick());
            guest.flag.store(true, Ordering::SeqCst);
            guest.flag.store(false, Ordering::SeqCst);
            run(&kick_state, &guest);
            kicker.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts the interrupts.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicUsize>);

    impl KickSignal for Counter {
        fn raise(&self) {}
        fn interrupt(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_kick_is_repeated_until_its_vcpu_has_left_the_guest() {
        let counter = Counter::default();
        let interrupts = || counter.0.load(Ordering::SeqCst);
        let kick_state = KickState::new(counter.clone());
        let kick = kick_state.kick_handle();
        assert!(!kick.repeat(), "nobody kicked");
        assert!(!kick_state.enter());
        kick.kick();
        assert_eq!(interrupts(), 1);
        assert!(kick.repeat() && kick.repeat());
        assert_eq!(interrupts(), 3);
        kick_state.leave();
        assert!(!kick.repeat(), "the next run sees it as it begins");
        assert!(kick_state.is_kicked());
        kick_state.take();
        assert_eq!(interrupts(), 3);
    }
}
