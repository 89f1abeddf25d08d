//! What comes to a vCPU from outside: the interrupts of its local APIC and of the PICs, NMIs, and what starts it.
//!
//! Others put it in; the vCPU polls one word between two instructions, and takes it out. Beside it is what ties the vCPU to the VM's
//! clock: the instructions it has not reported yet, and its timer.
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

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kvm_bindings::kvm_lapic_state;
use parking_lot::Mutex;

use super::waker::Waker;
use crate::mock::irq::apic_message::{Message, Mode};
use crate::mock::irq::lapic::Lapic;
use crate::mock::irq::lapic::register::TASK_PRIORITY;
use crate::mock::irq::lapic_mmio::Written;
use crate::mock::irq::time_source::NEVER;
use crate::{Result, VcpuId};

/// In the word: an interrupt, for a vCPU that lets interrupts in.
pub(in crate::mock) const INTERRUPT: u8 = 1;
/// In the word: there are [`Arrivals`].
pub(in crate::mock) const ARRIVAL: u8 = 2;
/// In the word: the next timer expires earlier than when the vCPU's batch of instructions began, so that the batch is to end. The next
/// batch takes it out.
pub(in crate::mock) const RETIME: u8 = 4;

/// A vCPU's.
pub(in crate::mock) struct EventInbox {
    id: VcpuId,
    word: AtomicU8,
    /// Instructions that were executed and that the VM's clock does not know of.
    unreported: AtomicU64,
    /// When the local APIC's timer expires, by the VM's clock.
    deadline: AtomicU64,
    /// What is added to the VM's clock to give the vCPU's time-stamp counter.
    tsc_offset: AtomicU64,
    inside: Mutex<Inside>,
    /// How often others have put in something new. It changes while `inside` is locked.
    wakes: AtomicU64,
    waker: Waker,
}

struct Inside {
    lapic: Lapic,
    /// The PICs' output.
    pics: bool,
    arrivals: Arrivals,
    retime: bool,
    /// Whether the vCPU waits for something to happen: it halts, or was not started.
    is_idle: bool,
    is_retired: bool,
}

/// What is no interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mock) struct Arrivals {
    /// How many NMIs.
    pub(in crate::mock) nmis: u8,
    /// INIT.
    pub(in crate::mock) init: bool,
    /// A start-up interrupt, and its vector. It comes behind `init`.
    pub(in crate::mock) start: Option<u8>,
}

impl Inside {
    fn word(&self) -> u8 {
        let interrupt = self.lapic.next().is_some() || self.pics && self.lapic.lets_pics_through();
        let arrival = self.arrivals != Arrivals::default();
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        bit(interrupt, INTERRUPT) | bit(arrival, ARRIVAL) | bit(self.retime, RETIME)
    }

    fn receive(&mut self, message: &Message) -> bool {
        let arrivals = &mut self.arrivals;
        let takes_back = message.by_level && !message.asserts;
        match message.mode {
            // Taking something back is for processors of the last century.
            Mode::Fixed | Mode::Lowest | Mode::Init if takes_back => return false,
            Mode::Fixed | Mode::Lowest => return self.lapic.request(message.vector, message.by_level),
            Mode::Nmi => arrivals.nmis = arrivals.nmis.saturating_add(1),
            Mode::Init => *arrivals = Arrivals { init: true, start: None, ..*arrivals },
            Mode::StartUp => arrivals.start = Some(message.vector),
            Mode::Nothing => return false,
        }
        true
    }
}

impl EventInbox {
    pub(in crate::mock) fn new(id: VcpuId) -> Result<Self> {
        let inside = Inside {
            lapic: Lapic::new(id),
            pics: false,
            arrivals: Arrivals::default(),
            retime: false,
            // All but the first wait to be started.
            is_idle: id.0 != 0,
            is_retired: false,
        };
        Ok(Self {
            id,
            wakes: AtomicU64::new(0),
            word: AtomicU8::new(0),
            unreported: AtomicU64::new(0),
            deadline: AtomicU64::new(NEVER),
            tsc_offset: AtomicU64::new(0),
            inside: Mutex::new(inside),
            waker: Waker::new()?,
        })
    }

    pub(in crate::mock) fn id(&self) -> VcpuId {
        self.id
    }

    /// What wakes the vCPU where it has nothing to do.
    pub(in crate::mock) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// What there is to take: [`INTERRUPT`], [`ARRIVAL`], both or nothing.
    #[inline]
    pub(in crate::mock) fn word(&self) -> u8 {
        self.word.load(Ordering::Acquire)
    }

    /// The vCPU itself looks, or changes something.
    fn own<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.inside.lock();
        let result = look(&mut inside);
        self.publish(&mut inside);
        result
    }

    /// Somebody else changes something: the vCPU may have to be woken.
    fn other<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.inside.lock();
        let before = self.word();
        let result = change(&mut inside);
        let word = self.publish(&mut inside);
        let wakes = word & !before != 0;
        if wakes {
            self.wakes.fetch_add(1, Ordering::AcqRel);
            inside.is_idle = false;
        }
        drop(inside);
        if wakes {
            self.waker.wake();
        }
        result
    }

    /// Shows outside of the lock what changed within it.
    fn publish(&self, inside: &mut Inside) -> u8 {
        let expires = inside.lapic.timer.expires();
        inside.retime |= expires < self.deadline.swap(expires, Ordering::AcqRel);
        self.tsc_offset.store(inside.lapic.timer.tsc_offset(), Ordering::Release);
        let word = inside.word();
        self.word.store(word, Ordering::Release);
        word
    }

    /// The vCPU has executed so many instructions.
    #[inline]
    pub(in crate::mock) fn count(&self, instructions: u64) {
        // Nobody else writes it.
        let before = self.unreported.load(Ordering::Relaxed);
        self.unreported.store(before.wrapping_add(instructions), Ordering::Relaxed);
    }

    /// Takes the instructions that the VM's clock does not know of.
    pub(in crate::mock) fn take_unreported(&self) -> u64 {
        let count = self.unreported.load(Ordering::Relaxed);
        if count != 0 {
            self.unreported.store(0, Ordering::Relaxed);
        }
        count
    }

    /// When the local APIC's timer expires, by the VM's clock.
    pub(in crate::mock) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Acquire)
    }

    /// What is added to the VM's clock to give the time-stamp counter.
    pub(in crate::mock) fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Acquire)
    }

    pub(in crate::mock) fn set_tsc_offset(&self, offset: u64, now: u64) {
        self.own(|inside| inside.lapic.set_tsc_offset(offset, now));
    }

    /// `IA32_TSC_DEADLINE`.
    pub(in crate::mock) fn tsc_deadline(&self) -> u64 {
        self.inside.lock().lapic.tsc_deadline()
    }

    pub(in crate::mock) fn set_tsc_deadline(&self, deadline: u64, now: u64) {
        self.own(|inside| inside.lapic.set_tsc_deadline(deadline, now));
    }

    /// Whether CPUID offers the timer's deadline mode.
    pub(in crate::mock) fn set_has_deadline_mode(&self, has: bool) {
        self.own(|inside| inside.lapic.timer.set_has_deadline_mode(has));
    }

    /// Time has come to `now`: the timer may have expired.
    pub(in crate::mock) fn pass(&self, now: u64) {
        if self.deadline() <= now {
            self.other(|inside| inside.lapic.pass(now));
        }
    }

    /// The next timer of the VM expires earlier than before.
    pub(in crate::mock) fn retime(&self) {
        self.other(|inside| inside.retime = true);
    }

    /// The vCPU itself asks that its batch of instructions ends.
    pub(in crate::mock) fn end_batch(&self) {
        self.own(|inside| inside.retime = true);
    }

    /// A batch of instructions begins, which knows when the next timer expires.
    pub(in crate::mock) fn begin_batch(&self) {
        if self.word() & RETIME != 0 {
            self.own(|inside| inside.retime = false);
        }
    }

    /// How often others have put in something new, for [`go_idle`](Self::go_idle).
    pub(in crate::mock) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Acquire)
    }

    /// The vCPU has nothing to do; false where something has come since `wakes` was asked for.
    pub(in crate::mock) fn go_idle(&self, wakes: u64) -> bool {
        let mut inside = self.inside.lock();
        inside.is_idle = self.wakes() == wakes;
        inside.is_idle
    }

    /// The vCPU runs, or its thread is elsewhere and may have it run.
    pub(in crate::mock) fn leave_idle(&self) {
        self.inside.lock().is_idle = false;
    }

    /// There is no vCPU any more: nobody waits for its timer, and it is idle whatever comes.
    pub(in crate::mock) fn retire(&self) {
        self.own(|inside| {
            inside.lapic.init_timer();
            inside.is_retired = true;
        });
    }

    pub(in crate::mock) fn is_idle(&self) -> bool {
        let inside = self.inside.lock();
        inside.is_idle || inside.is_retired
    }

    pub(in crate::mock) fn is_addressed(&self, message: &Message) -> bool {
        self.inside.lock().lapic.is_addressed(message)
    }

    /// The bits of a logical destination that stand for one local APIC each.
    pub(in crate::mock) fn named_in(&self, destination: u8) -> u8 {
        if self.inside.lock().lapic.is_in_cluster() { destination & 0xf } else { destination }
    }

    pub(in crate::mock) fn logical_id(&self) -> u8 {
        self.inside.lock().lapic.logical_id()
    }

    /// Takes a message in; false where nothing becomes of it.
    pub(in crate::mock) fn receive(&self, message: &Message) -> bool {
        self.other(|inside| inside.receive(message))
    }

    /// The PICs' output has changed.
    pub(in crate::mock) fn set_pics(&self, output: bool) {
        self.other(|inside| inside.pics = output);
    }

    /// Whether an interrupt of the PICs reaches the vCPU.
    pub(in crate::mock) fn lets_pics_through(&self) -> bool {
        self.inside.lock().lapic.lets_pics_through()
    }

    /// Takes the local APIC's next interrupt: its vector.
    pub(in crate::mock) fn take_interrupt(&self) -> Option<u8> {
        self.own(|inside| inside.lapic.take())
    }

    /// Takes what has arrived.
    pub(in crate::mock) fn take_arrivals(&self) -> Arrivals {
        self.own(|inside| std::mem::take(&mut inside.arrivals))
    }

    /// NMIs that have arrived.
    pub(in crate::mock) fn nmis(&self) -> u8 {
        self.inside.lock().arrivals.nmis
    }

    /// The local APIC gets its state after INIT.
    pub(in crate::mock) fn init(&self) {
        self.own(|inside| inside.lapic.init());
    }

    pub(in crate::mock) fn lapic(&self, now: u64) -> kvm_lapic_state {
        self.inside.lock().lapic.state(now)
    }

    pub(in crate::mock) fn set_lapic(&self, new: &kvm_lapic_state, now: u64) {
        self.own(|inside| inside.lapic.set_state(new, now));
    }

    /// CR8: the upper half of the task's priority.
    pub(in crate::mock) fn task_priority(&self) -> u8 {
        (self.inside.lock().lapic.register(TASK_PRIORITY) >> 4) as u8 & 0xf
    }

    /// CR8 is this now.
    pub(in crate::mock) fn set_task_priority(&self, cr8: u8) {
        self.own(|inside| {
            inside.lapic.set_register(TASK_PRIORITY, u32::from(cr8 & 0xf) << 4);
            inside.lapic.update_priority();
        });
    }

    /// `IA32_APIC_BASE` is this now.
    pub(in crate::mock) fn set_base(&self, base: u64) {
        self.own(|inside| inside.lapic.set_base(base));
    }

    /// The vCPU reads at an address, if that is its local APIC's.
    pub(in crate::mock) fn read(&self, address: u64, width: usize, now: u64) -> Option<u64> {
        let inside = self.inside.lock();
        inside.lapic.offset_of(address).map(|offset| inside.lapic.read(offset, width, now))
    }

    /// The vCPU writes to an address, if that is its local APIC's.
    pub(in crate::mock) fn write(&self, address: u64, data: &[u8], now: u64) -> Option<Written> {
        self.own(|inside| inside.lapic.offset_of(address).map(|offset| inside.lapic.write(offset, data, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(mode: Mode) -> Message {
        Message { mode, ..Message::of_msi(0, 9) }
    }

    #[test]
    fn the_word_says_what_there_is() {
        let inbox = EventInbox::new(VcpuId(0)).unwrap();
        assert_eq!(inbox.word(), 0);
        inbox.set_pics(true);
        assert_eq!(inbox.word(), INTERRUPT);
        assert!(inbox.receive(&message(Mode::Nmi)));
        assert_eq!(inbox.word(), INTERRUPT | ARRIVAL);
        assert_eq!(inbox.take_arrivals(), Arrivals { nmis: 1, ..Default::default() });
        inbox.set_pics(false);
        assert_eq!(inbox.word(), 0);
    }

    #[test]
    fn an_init_takes_back_a_start_before_it() {
        let inbox = EventInbox::new(VcpuId(1)).unwrap();
        for mode in [Mode::StartUp, Mode::Init] {
            assert!(inbox.receive(&message(mode)));
        }
        assert!(!inbox.receive(&Message { by_level: true, asserts: false, ..message(Mode::Init) }));
        assert_eq!(inbox.take_arrivals(), Arrivals { init: true, ..Default::default() });
        assert!(inbox.receive(&message(Mode::StartUp)));
        assert_eq!(inbox.take_arrivals().start, Some(9));
    }

    #[test]
    fn an_earlier_deadline_ends_the_batch() {
        const SPURIOUS: u64 = 0xfee0_00f0;
        const TIMER: u64 = 0xfee0_0320;
        const INITIAL_COUNT: u64 = 0xfee0_0380;
        let inbox = EventInbox::new(VcpuId(0)).unwrap();
        for (register, value) in [(SPURIOUS, 0x1ff_u32), (TIMER, 0x41), (INITIAL_COUNT, 100)] {
            inbox.write(register, &value.to_le_bytes(), 1000);
        }
        assert_eq!((inbox.word(), inbox.deadline()), (RETIME, 1200));
        inbox.begin_batch();
        assert_eq!(inbox.word(), 0);
        inbox.write(INITIAL_COUNT, &200_u32.to_le_bytes(), 1000);
        assert_eq!((inbox.word(), inbox.deadline()), (0, 1400));
        inbox.pass(1399);
        assert_eq!(inbox.word(), 0);
        inbox.pass(1400);
        assert_eq!((inbox.word(), inbox.deadline()), (INTERRUPT, NEVER));
    }

    #[test]
    fn what_came_before_the_wait_keeps_the_vcpu_from_it() {
        let inbox = EventInbox::new(VcpuId(0)).unwrap();
        let wakes = inbox.wakes();
        assert!(inbox.go_idle(wakes) && inbox.is_idle());
        inbox.receive(&message(Mode::Nmi));
        assert!(!inbox.is_idle());
        assert!(!inbox.go_idle(wakes) && !inbox.is_idle());
        assert!(inbox.go_idle(inbox.wakes()));
    }
}
