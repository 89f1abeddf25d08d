//! What time does in a VM: timers expire, vCPUs wait for them, and a virtual clock jumps while nobody has anything to do.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use kvm_bindings::kvm_lapic_state;
use parking_lot::Mutex;
use rustix::event::{Timespec, epoll};

use super::gsi::GsiLines;
use super::irqchip::Irqchip;
use super::time_source::NEVER;
use crate::mock::vcpu::event_inbox::EventInbox;

/// Jumps in a row that wake no vCPU, such as to the ticks of a timer that is masked. After that many a virtual clock keeps pace
/// with the host's, so that a guest that waits for nothing costs no processor time.
const MOST_VAIN_JUMPS: u32 = 1024;

/// How a virtual clock moves while all vCPUs wait.
#[derive(Default)]
pub(super) struct Idle {
    /// Tokens of work that is under way outside of the vCPUs.
    work: AtomicUsize,
    /// Jumps in a row that woke no vCPU.
    vain_jumps: AtomicU32,
    /// By how much the host's clock is ahead of the virtual one, while that keeps pace with it.
    pace: Mutex<Option<u64>>,
}

impl Irqchip {
    /// Adds a vCPU's instructions to the VM's clock.
    pub(in crate::mock) fn report(&self, inbox: &EventInbox) {
        let instructions = inbox.take_unreported();
        if instructions != 0 {
            self.time.count(instructions);
        }
    }

    /// The time as a vCPU sees it.
    pub(in crate::mock) fn now(&self, inbox: &EventInbox) -> u64 {
        self.report(inbox);
        self.time.now()
    }

    /// A vCPU's time-stamp counter, which counts nanoseconds.
    pub(in crate::mock) fn tsc(&self, inbox: &EventInbox) -> u64 {
        self.now(inbox).wrapping_add(inbox.tsc_offset())
    }

    /// A vCPU's time-stamp counter is ahead of the VM's clock by this much now.
    pub(in crate::mock) fn set_tsc_offset(&self, inbox: &EventInbox, offset: u64) {
        inbox.set_tsc_offset(offset, self.now(inbox));
        self.deadline.fetch_min(inbox.deadline(), Ordering::AcqRel);
    }

    pub(in crate::mock) fn set_tsc_deadline(&self, inbox: &EventInbox, deadline: u64) {
        inbox.set_tsc_deadline(deadline, self.now(inbox));
        self.deadline.fetch_min(inbox.deadline(), Ordering::AcqRel);
    }

    /// A vCPU's local APIC.
    pub(in crate::mock) fn lapic(&self, inbox: &EventInbox) -> kvm_lapic_state {
        inbox.lapic(self.now(inbox))
    }

    pub(in crate::mock) fn set_lapic(&self, inbox: &EventInbox, new: &kvm_lapic_state) {
        inbox.set_lapic(new, self.now(inbox));
        self.deadline.fetch_min(inbox.deadline(), Ordering::AcqRel);
    }

    /// A vCPU is about to execute up to `most` instructions: does what time has made due, and returns how many it may execute until
    /// the next timer expires, at least one. It stops earlier where its inbox says [`RETIME`](crate::mock::vcpu::event_inbox::RETIME).
    pub(in crate::mock) fn begin_batch(&self, inbox: &EventInbox, most: u32) -> u32 {
        self.report(inbox);
        inbox.begin_batch();
        self.poll();
        if !self.time.counts_instructions() {
            return most;
        }
        let left = self.deadline.load(Ordering::Acquire).saturating_sub(self.time.now());
        u32::try_from(left).unwrap_or(u32::MAX).clamp(1, most.max(1))
    }

    /// Raises the lines whose triggers were written, and what timers raise whose time has come.
    pub(in crate::mock) fn poll(&self) {
        let deadline = self.deadline.load(Ordering::Acquire);
        // A host's clock takes a while to read.
        if deadline != NEVER && deadline <= self.time.now() {
            let mut lines = self.lines.lock();
            let now = self.time.now();
            self.expire(&mut lines, now);
        }
        self.poll_triggers();
    }

    fn poll_triggers(&self) {
        if !self.has_irqfds.load(Ordering::Acquire) {
            return;
        }
        let mut signalled = [MaybeUninit::uninit()];
        match epoll::wait(self.triggers(), &mut signalled, Some(&Timespec::default())) {
            Ok(([], _)) => {}
            _ => self.raise_triggered(),
        }
    }

    #[cold]
    fn raise_triggered(&self) {
        self.change(GsiLines::poll);
    }

    /// Time has come to `now`.
    #[cold]
    fn expire(&self, lines: &mut GsiLines, now: u64) {
        lines.pass(now);
        for inbox in lines.cpus.iter() {
            inbox.pass(now);
        }
        self.deadline.store(next_deadline(lines), Ordering::Release);
        self.publish(lines);
    }

    /// Moves the clock, which from then on is still but for this.
    pub(in crate::mock) fn advance(&self, by: Duration) {
        self.time.advance(by);
        self.poll();
        self.wake_all();
    }

    /// Somebody has work that a virtual clock must not jump over.
    pub(in crate::mock) fn begin_work(&self) {
        self.idle.work.fetch_add(1, Ordering::AcqRel);
    }

    /// That work is done.
    pub(in crate::mock) fn end_work(&self) {
        if self.idle.work.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_all();
        }
    }

    /// A vCPU has nothing to do, and had not when `wakes` was asked for. If that is so of all, a virtual clock jumps to the next timer
    /// that expires: then it returns true, and the vCPU may have something to do.
    pub(in crate::mock) fn idle(&self, inbox: &EventInbox, wakes: u64) -> bool {
        if !inbox.go_idle(wakes) {
            return true;
        }
        self.poll_triggers();
        let mut lines = self.lines.lock();
        let all_idle = lines.cpus.iter().all(EventInbox::is_idle);
        if !self.time.counts_instructions() || !all_idle {
            return !inbox.is_idle();
        }
        let deadline = next_deadline(&lines);
        let is_free = self.idle.work.load(Ordering::Acquire) == 0;
        let is_vain = self.idle.vain_jumps.load(Ordering::Acquire) >= MOST_VAIN_JUMPS;
        if deadline == NEVER || !is_free || is_vain {
            let ahead = || self.time.since_start().wrapping_sub(self.time.now());
            self.idle.pace.lock().get_or_insert_with(ahead);
            return false;
        }
        self.time.move_to(deadline);
        self.expire(&mut lines, deadline);
        if lines.cpus.iter().all(EventInbox::is_idle) {
            self.idle.vain_jumps.fetch_add(1, Ordering::AcqRel);
        } else {
            self.idle.vain_jumps.store(0, Ordering::Release);
        }
        true
    }

    /// A vCPU that is [idle](Self::idle) waits until it is woken, a trigger is written, or a timer expires.
    pub(in crate::mock) fn wait(&self, inbox: &EventInbox) {
        let deadline = self.deadline.load(Ordering::Acquire);
        let pace = *self.idle.pace.lock();
        let from = if self.time.is_hosts() { Some(self.time.now()) } else { pace.map(|ahead| self.paced(ahead)) };
        let timeout =
            from.filter(|_| deadline != NEVER).map(|from| Duration::from_nanos(deadline.saturating_sub(from)));
        inbox.waker().wait(self.triggers(), timeout);
        inbox.leave_idle();
        self.catch_up();
    }

    /// What a virtual clock shows that keeps pace with the host's.
    fn paced(&self, ahead: u64) -> u64 {
        self.time.since_start().wrapping_sub(ahead)
    }

    /// A virtual clock that kept pace with the host's while all waited goes on from there, but not over a timer.
    fn catch_up(&self) {
        let lines = self.lines.lock();
        if let Some(ahead) = self.idle.pace.lock().take() {
            self.time.move_to(self.paced(ahead).min(next_deadline(&lines)));
        }
    }

    /// A vCPU that had nothing to do has something.
    pub(in crate::mock) fn leave_idle(&self, inbox: &EventInbox) {
        inbox.leave_idle();
        self.idle.vain_jumps.store(0, Ordering::Release);
    }

    /// A vCPU is gone, and keeps no jump from happening any more.
    pub(in crate::mock) fn retire(&self, inbox: &EventInbox) {
        inbox.retire();
        self.wake_all();
    }

    fn wake_all(&self) {
        for inbox in self.lines.lock().cpus.iter() {
            inbox.waker().wake();
        }
    }
}

/// When the next timer of all expires.
fn next_deadline(lines: &GsiLines) -> u64 {
    let pit = lines.pit.deadline().unwrap_or(NEVER);
    lines.cpus.iter().map(EventInbox::deadline).fold(pit, u64::min)
}
