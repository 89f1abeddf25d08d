//! What the plugin's threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};
use plugin_sdk::{GuestMemory, PAGE_SIZE};

use crate::error::Failure;
use crate::soak::counters::Counters;
use crate::soak::layout::{self, VCPUS};
use crate::soak::model::Coalesced;
use crate::soak::plan::Plan;
use crate::soak::timeout::{SLICE, Timeout};

/// How long anything is waited for that is due: longer than a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(30);
/// Lines that have a place here.
const LINES: usize = 8;

/// What a thread tells the main one.
pub(super) enum Word {
    /// A vCPU has done all it had to do.
    Done { vcpu: usize },
    /// The VM ends.
    Told,
    /// Something is wrong.
    Failed(Failure),
}

/// What the plugin's threads share.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) counters: Arc<Counters>,
    /// The two memories that are RAM at times, in turns.
    pub(super) windows: [GuestMemory; 2],
    /// The number of the last pause.
    pub(super) pauses: AtomicU64,
    /// How often each line was raised.
    raised: [AtomicU64; LINES],
    stopping: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    words: Sender<Word>,
}

/// What is waited for.
#[derive(Debug, Default)]
pub(super) struct State {
    /// vCPU 0 takes interrupts.
    pub(super) ready: bool,
    /// The number of the last pause that each vCPU has reported.
    pub(super) paused: [u64; VCPUS],
    /// How often each line's handler has told that it ran.
    pub(super) handled: [u64; LINES],
    /// The coalesced writes of each vCPU that have come.
    pub(super) coalesced: [Coalesced; VCPUS],
    /// Those that it has made, once it has done all it had to do.
    pub(super) coalesced_due: [Option<Coalesced>; VCPUS],
}

impl Shared {
    pub(super) fn new(plan: Plan, counters: Arc<Counters>, words: Sender<Word>) -> Result<Self, plugin_sdk::Error> {
        Ok(Self {
            plan,
            counters,
            windows: [GuestMemory::new(PAGE_SIZE)?, GuestMemory::new(PAGE_SIZE)?],
            pauses: AtomicU64::new(0),
            raised: Default::default(),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            words,
        })
    }

    pub(super) fn say(&self, word: Word) {
        // There is nobody left to hear it when the process ends.
        let _ = self.words.send(word);
    }

    /// Tells how a thread ended. That the VMM has disconnected the main thread learns by itself.
    pub(super) fn tell(&self, ended: Result<(), Failure>) {
        if let Err(failure) = ended
            && !matches!(failure.downcast_ref(), Some(plugin_sdk::Error::Disconnected))
        {
            self.say(Word::Failed(failure));
        }
    }

    /// Lets those who disturb end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Changes what others wait for.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.changed.notify_all();
        changed
    }

    /// Waits until `condition` holds.
    pub(super) fn wait(&self, what: &str, condition: impl Fn(&State) -> bool) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let mut timeout = Timeout::new(LIMIT);
        while !condition(&state) {
            if timeout.is_over() {
                return Err(format!("waited {LIMIT:?} without success until {what}: {state:?}").into());
            }
            self.changed.wait_for(&mut state, SLICE);
        }
        Ok(())
    }

    /// Notes that a line is about to be raised: how often it was then.
    pub(super) fn raise(&self, line: u32) -> u64 {
        self.raised[line as usize].fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes what the handler of `line` tells.
    pub(super) fn handled(&self, line: u32, told: u64) -> Result<(), Failure> {
        let raised = self.raised[line as usize].load(Ordering::SeqCst);
        let before = self.change(|state| std::mem::replace(&mut state.handled[line as usize], told));
        if told == before + 1 && told <= raised {
            return Ok(());
        }
        Err(format!("line {line}: interrupt {told} after {before}, and the line was raised {raised} times").into())
    }

    /// Sees that no interrupt was lost, when no more are to come.
    pub(super) fn check_all_was_handled(&self) -> Result<(), Failure> {
        let raised = self.raised.each_ref().map(|raised| raised.load(Ordering::SeqCst));
        self.wait("all interrupts were handled", |state| state.handled == raised)
    }

    /// Sees that no coalesced write was lost or came twice, when no more are to come.
    pub(super) fn check_all_coalesced_came(&self) -> Result<(), Failure> {
        self.wait("all coalesced writes came", |state| state.coalesced.map(Some) == state.coalesced_due)
    }

    /// What lies in a vCPU's places of the two memories.
    pub(super) fn window(&self, vcpu: usize) -> [u32; 2] {
        self.windows.each_ref().map(|memory| {
            let mut bytes = [0; 4];
            // The places are inside.
            let _ = memory.read(layout::slot(vcpu), &mut bytes);
            u32::from_le_bytes(bytes)
        })
    }
}
