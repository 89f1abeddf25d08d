//! Running a program to its end: answering its reads, noting its exits, and stopping one that runs away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hypervisor::{Access, AddressSpace, Direction, Exit, Kick, Vcpu, kvm_regs};
use rustix::time::{ClockId, clock_gettime};

/// A program that exits more often runs away.
const MOST_EXITS: usize = 4000;
/// A program that is not at its end after this is kicked, again and again.
const KICKED_EVERY: Duration = Duration::from_millis(75);
/// A program that has had the processor for so long and is kicked runs away. One takes less than a millisecond.
const TIMEOUT: Duration = Duration::from_millis(150);
/// One that is kicked so often, and may have halted, runs away too.
const MOST_KICKS: usize = 40;

/// An access that exited.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Port or memory.
    pub space: AddressSpace,
    /// First byte.
    pub address: u64,
    /// Read or write.
    pub direction: Direction,
    /// Bytes of an item.
    pub width: u8,
    /// Items.
    pub count: u16,
    /// What was written, or what the read was answered with.
    pub data: Vec<u8>,
    /// The general registers within the exit, without the flags.
    pub regs: kvm_regs,
}

/// Why a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to its last instruction.
    Done,
    /// An exception's handler told its vector.
    Exception(u16),
    /// A triple fault.
    Shutdown,
    /// The backend gave up, as it does where there is no code.
    InternalError,
    /// It had to be stopped.
    RanAway,
    /// An exit that no program should make.
    Unexpected(Exit),
}

/// How long the calling thread has had a processor: a busy machine makes no program late.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Notes an access; answers a read with what comes next in `answers`.
fn see<V: Vcpu + ?Sized>(vcpu: &mut V, access: &Access, answers: &mut u64) -> Seen {
    let regs = vcpu.regs().expect("regs");
    let data = match access.direction() {
        Direction::Write => vcpu.access_data().to_vec(),
        Direction::Read => {
            let words = std::iter::repeat_with(|| super::random(answers).to_le_bytes());
            let data: Vec<u8> = words.flatten().take(access.len()).collect();
            vcpu.answer(&data).expect("answer");
            data
        }
    };
    Seen {
        space: access.space(),
        address: access.address(),
        direction: access.direction(),
        width: access.width(),
        count: access.count(),
        data,
        regs: kvm_regs { rflags: 0, ..regs },
    }
}

/// Kicks the vCPU when the count of programs does not change.
pub(super) struct Watchdog {
    programs: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(super) fn new(kick: Kick) -> Self {
        let (programs, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (Arc::clone(&programs), Arc::clone(&stop));
        let watch = move || {
            let mut last = 0;
            while !stopped.load(Ordering::Relaxed) {
                thread::park_timeout(KICKED_EVERY);
                let now = count.load(Ordering::Relaxed);
                if now == last && now > 0 {
                    kick.kick();
                }
                last = now;
            }
        };
        Self { programs, stop, thread: Some(thread::spawn(watch)) }
    }
}

impl Watchdog {
    /// Runs a program to its end: an access of which `end` says so, or whatever else ends it. Reads get what follows from
    /// the seed `answers`.
    ///
    /// # Panics
    ///
    /// If the backend refuses what no backend should.
    pub(super) fn drive<V: Vcpu + ?Sized>(
        &self,
        vcpu: &mut V,
        mut answers: u64,
        end: impl Fn(&Seen) -> Option<End>,
    ) -> (Vec<Seen>, End) {
        self.programs.fetch_add(1, Ordering::Relaxed);
        let mut exits = Vec::new();
        let (begun, mut kicks) = (thread_time(), 0);
        let end = loop {
            match vcpu.run().expect("run") {
                Exit::Access(access) => {
                    let seen = see(vcpu, &access, &mut answers);
                    let end = end(&seen);
                    exits.push(seen);
                    if let Some(end) = end {
                        break end;
                    }
                    if exits.len() >= MOST_EXITS {
                        break End::RanAway;
                    }
                }
                Exit::Interrupted => {
                    kicks += 1;
                    // One kick may have been meant for the program before, or comes of a machine that was asleep.
                    if kicks == MOST_KICKS || kicks > 1 && thread_time() - begun >= TIMEOUT {
                        break End::RanAway;
                    }
                }
                Exit::Shutdown => break End::Shutdown,
                Exit::InternalError(_) => break End::InternalError,
                other => break End::Unexpected(other),
            }
        };
        // What is under way is finished, so that registers may be set.
        while let Exit::Access(access) = vcpu.commit().expect("commit") {
            see(vcpu, &access, &mut answers);
        }
        (exits, end)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}
