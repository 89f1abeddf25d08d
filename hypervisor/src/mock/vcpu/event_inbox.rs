//! What comes to a vCPU from outside: the interrupts of its local APIC and of the PICs, NMIs, and what starts it.
//!
//! Others put it in; the vCPU looks at one word between two instructions, and takes it out.
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

use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_lapic_state;
use parking_lot::Mutex;

use super::waker::Waker;
use crate::mock::irq::apic_message::{Message, Mode};
use crate::mock::irq::lapic::Lapic;
use crate::mock::irq::lapic::register::TASK_PRIORITY;
use crate::mock::irq::lapic_mmio::Written;
use crate::{Result, VcpuId};

/// In the word: an interrupt, for a vCPU that lets interrupts in.
pub(in crate::mock) const INTERRUPT: u8 = 1;
/// In the word: there are [`Arrivals`].
pub(in crate::mock) const ARRIVAL: u8 = 2;

/// A vCPU's.
pub(in crate::mock) struct EventInbox {
    id: VcpuId,
    word: AtomicU8,
    inside: Mutex<Inside>,
    waker: Waker,
}

struct Inside {
    lapic: Lapic,
    /// The PICs' output.
    pics: bool,
    arrivals: Arrivals,
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
        (if interrupt { INTERRUPT } else { 0 }) | (if arrival { ARRIVAL } else { 0 })
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
        let inside = Inside { lapic: Lapic::new(id), pics: false, arrivals: Arrivals::default() };
        Ok(Self { id, word: AtomicU8::new(0), inside: Mutex::new(inside), waker: Waker::new()? })
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
        self.word.store(inside.word(), Ordering::Release);
        result
    }

    /// Somebody else changes something: the vCPU may have to be woken.
    fn other<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.inside.lock();
        let result = change(&mut inside);
        let word = inside.word();
        let before = self.word.swap(word, Ordering::AcqRel);
        drop(inside);
        if word & !before != 0 {
            self.waker.wake();
        }
        result
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

    pub(in crate::mock) fn lapic(&self) -> kvm_lapic_state {
        self.inside.lock().lapic.state()
    }

    pub(in crate::mock) fn set_lapic(&self, new: &kvm_lapic_state) {
        self.own(|inside| inside.lapic.set_state(new));
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
    pub(in crate::mock) fn read(&self, address: u64, width: usize) -> Option<u64> {
        let inside = self.inside.lock();
        inside.lapic.offset_of(address).map(|offset| inside.lapic.read(offset, width))
    }

    /// The vCPU writes to an address, if that is its local APIC's.
    pub(in crate::mock) fn write(&self, address: u64, data: &[u8]) -> Option<Written> {
        self.own(|inside| inside.lapic.offset_of(address).map(|offset| inside.lapic.write(offset, data)))
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
}
