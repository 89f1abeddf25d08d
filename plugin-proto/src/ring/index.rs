//! The words of one ring, and how its two ends use them.
//!
//! `tail` is where the writer stands, `head` where the reader stands, both in bytes, running on past the ring's end and around
//! past 32 bits. Their lowest bit says that their owner has closed the ring.
//!
//! * The writer stores bytes, then `tail` with release; the reader loads `tail` with acquire before it loads bytes.
//! * The reader loads bytes, then stores `head` with release; the writer loads `head` with acquire before it overwrites.
//! * Whoever is about to sleep swaps 1 into its `sleeps` word and looks once more; whoever has moved its index reads the
//!   other's by a read-modify-write, and wakes if there is a 1. One of the two comes first: either the mover finds the 1, or the
//!   sleeper's swap follows the mover's step, and its look sees the new index. Where nobody sleeps the word stays in the mover's
//!   cache, and the step costs what a fence would.
//! * The sleeper alone takes its 1 back. If the mover did, its late step for one move could take a 1 that was meant for the
//!   next, and wake before there is a sleeper.
//! * The word slept on is the index itself, so a change between the last look and the sleep is not missed.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CAPACITY, Fault};

/// In an index: its owner has closed the ring.
pub(super) const CLOSED: u32 = 1;

/// Bytes that an index moves by at least.
pub(super) const STEP: u32 = 8;

/// A word on cache lines of its own: processors fetch lines in pairs.
#[repr(C, align(128))]
pub(super) struct Line(pub(super) AtomicU32);

/// The words of one ring.
#[repr(C)]
pub(super) struct Words {
    /// The writer's.
    pub(super) tail: Line,
    /// The reader's.
    pub(super) head: Line,
    /// Not 0 while the reader sleeps on `tail`.
    reader_sleeps: Line,
    /// Not 0 while the writer sleeps on `head`.
    writer_sleeps: Line,
}

impl Words {
    #[cfg(test)]
    pub(super) fn new() -> Self {
        let line = || Line(AtomicU32::new(0));
        Self { tail: line(), head: line(), reader_sleeps: line(), writer_sleeps: line() }
    }
}

/// One end's view of a ring: where it stands, which it never reads back from shared memory, and where the other end
/// was seen last.
#[derive(Debug)]
struct View {
    mine: u32,
    theirs: u32,
}

impl View {
    /// Takes note of the other's index, `ahead` bytes before which this end stands at most. False where it has closed.
    fn note(&mut self, word: u32, distance: impl Fn(u32, &Self) -> u32, grows: bool) -> Result<bool, Fault> {
        let index = word & !CLOSED;
        let (was, is) = (distance(self.theirs, self), distance(index, self));
        let is_possible = is <= CAPACITY && index.is_multiple_of(STEP) && if grows { is >= was } else { is <= was };
        if !is_possible {
            return Err(Fault::BadIndex { from: self.theirs, to: word });
        }
        self.theirs = index;
        Ok(word & CLOSED == 0)
    }
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct WriterIndex(View);

impl WriterIndex {
    pub(super) fn new() -> Self {
        Self(View { mine: 0, theirs: 0 })
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u32 {
        self.0.mine
    }

    /// How many bytes may be written, as far as is known.
    pub(super) fn space(&self) -> u32 {
        CAPACITY.wrapping_sub(self.0.mine.wrapping_sub(self.0.theirs))
    }

    /// Looks how far the reader is: the word, or that it is closed.
    pub(super) fn look(&mut self, words: &Words) -> Result<u32, Fault> {
        let word = words.head.0.load(Ordering::Acquire);
        match self.0.note(word, |head, view| view.mine.wrapping_sub(head), false)? {
            true => Ok(word),
            false => Err(Fault::Closed),
        }
    }

    /// Goes on by `bytes`, which were written and fit, but are not to be seen yet.
    pub(super) fn advance(&mut self, bytes: u32) {
        self.0.mine = self.0.mine.wrapping_add(bytes);
    }

    /// Lets the reader see what was written. True where it is to be woken.
    #[must_use]
    pub(super) fn publish(&self, words: &Words) -> bool {
        words.tail.0.store(self.0.mine, Ordering::Release);
        is_asleep(&words.reader_sleeps)
    }

    /// Says that the writer is about to sleep on `head`. It must look once more before it does.
    pub(super) fn arm(words: &Words) {
        arm(&words.writer_sleeps);
    }

    /// Takes that back.
    pub(super) fn disarm(words: &Words) {
        words.writer_sleeps.0.swap(0, Ordering::AcqRel);
    }
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct ReaderIndex(View);

impl ReaderIndex {
    pub(super) fn new() -> Self {
        Self(View { mine: 0, theirs: 0 })
    }

    /// Where the next byte is.
    pub(super) fn position(&self) -> u32 {
        self.0.mine
    }

    /// How many bytes may be read, as far as is known.
    pub(super) fn available(&self) -> u32 {
        self.0.theirs.wrapping_sub(self.0.mine)
    }

    /// Looks how far the writer is: the word. That it has closed counts where fewer bytes than `wanted` are left.
    pub(super) fn look(&mut self, words: &Words, wanted: u32) -> Result<u32, Fault> {
        let word = words.tail.0.load(Ordering::Acquire);
        match self.0.note(word, |tail, view| tail.wrapping_sub(view.mine), true)? {
            false if self.available() < wanted => Err(Fault::Closed),
            _ => Ok(word),
        }
    }

    /// Goes on by `bytes`, which were read, but may not be overwritten yet.
    pub(super) fn advance(&mut self, bytes: u32) {
        self.0.mine = self.0.mine.wrapping_add(bytes);
    }

    /// Gives the writer the space of what was read. True where it is to be woken.
    #[must_use]
    pub(super) fn release(&self, words: &Words) -> bool {
        words.head.0.store(self.0.mine, Ordering::Release);
        is_asleep(&words.writer_sleeps)
    }

    /// Says that the reader is about to sleep on `tail`. It must look once more before it does.
    pub(super) fn arm(words: &Words) {
        arm(&words.reader_sleeps);
    }

    /// Takes that back.
    pub(super) fn disarm(words: &Words) {
        words.reader_sleeps.0.swap(0, Ordering::AcqRel);
    }
}

fn arm(sleeps: &Line) {
    sleeps.0.swap(1, Ordering::AcqRel);
}

/// Whether the other sleeps, or is about to, after an index was moved.
fn is_asleep(sleeps: &Line) -> bool {
    sleeps.0.fetch_add(0, Ordering::AcqRel) != 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(word: &Line, value: u32) {
        word.0.store(value, Ordering::Relaxed);
    }

    #[test]
    fn what_was_published_is_available_and_what_was_released_is_space() {
        let words = Words::new();
        let (mut writer, mut reader) = (WriterIndex::new(), ReaderIndex::new());
        writer.advance(64);
        assert!(!writer.publish(&words));
        assert_eq!((reader.look(&words, STEP), reader.available()), (Ok(64), 64));
        assert_eq!(writer.space(), CAPACITY - 64);
        reader.advance(64);
        assert!(!reader.release(&words));
        assert_eq!((writer.look(&words), writer.space()), (Ok(64), CAPACITY));
    }

    #[test]
    fn a_sleeper_is_told_of_until_it_is_awake() {
        let words = Words::new();
        let writer = WriterIndex::new();
        ReaderIndex::arm(&words);
        assert!(writer.publish(&words));
        assert!(writer.publish(&words));
        ReaderIndex::disarm(&words);
        assert!(!writer.publish(&words));
    }

    #[test]
    fn a_closed_ring_is_read_to_its_end() {
        let words = Words::new();
        let mut reader = ReaderIndex::new();
        set(&words.tail, 64 | CLOSED);
        assert_eq!(reader.look(&words, STEP), Ok(64 | CLOSED));
        reader.advance(64);
        assert_eq!(reader.look(&words, STEP), Err(Fault::Closed));
        set(&words.head, CLOSED);
        assert_eq!(WriterIndex::new().look(&words), Err(Fault::Closed));
    }

    proptest! {
        /// Whatever the other's index is, no more can be read or written than the ring holds, and the index never goes back.
        #[test]
        fn an_impossible_index_is_a_fault(mine in any::<u32>(), moves in prop::collection::vec(any::<u32>(), 1..20)) {
            let words = Words::new();
            let start = mine & !(STEP - 1);
            let mut reader = ReaderIndex(View { mine: start, theirs: start });
            let mut writer = WriterIndex(View { mine: start, theirs: start });
            for to in moves {
                set(&words.tail, to);
                let was = reader.available();
                if reader.look(&words, STEP).is_ok() {
                    prop_assert!(reader.available() <= CAPACITY && reader.available() >= was);
                } else {
                    prop_assert!(reader.available() >= was);
                }
                set(&words.head, to);
                let was = writer.space();
                let _ = writer.look(&words);
                prop_assert!(writer.space() <= CAPACITY && writer.space() >= was);
            }
        }

        #[test]
        fn an_index_within_the_ring_is_taken(start in any::<u32>(), by in 0..=CAPACITY / STEP) {
            let start = start & !(STEP - 1);
            let words = Words::new();
            set(&words.tail, start.wrapping_add(by * STEP));
            let mut reader = ReaderIndex(View { mine: start, theirs: start });
            if by > 0 {
                prop_assert!(reader.look(&words, STEP).is_ok());
            }
            prop_assert_eq!(reader.available(), by * STEP);
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A ring whose bytes are one cell, so that loom sees who touches it when, and the kernel's queue of sleepers.
    struct Ring {
        words: Words,
        cell: UnsafeCell<u32>,
        sleepers: Mutex<()>,
        bell: Condvar,
    }

    // SAFETY: what the tests are about. Loom fails them where the cell is touched by two at once.
    #[allow(unsafe_code, reason = "the cell is shared as the ring's bytes are")]
    unsafe impl Sync for Ring {}
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "the cell is shared as the ring's bytes are")]
    unsafe impl Send for Ring {}

    impl Ring {
        fn new() -> Arc<Self> {
            let (cell, sleepers, bell) = (UnsafeCell::new(0), Mutex::new(()), Condvar::new());
            Arc::new(Self { words: Words::new(), cell, sleepers, bell })
        }

        /// `futex(FUTEX_WAIT)`: it looks at the word and goes to sleep in one step.
        fn sleep(&self, word: &Line, expected: u32) {
            let sleepers = self.sleepers.lock().unwrap();
            if word.0.load(Ordering::SeqCst) == expected {
                drop(self.bell.wait(sleepers).unwrap());
            }
        }

        /// `futex(FUTEX_WAKE)`.
        fn wake(&self) {
            drop(self.sleepers.lock().unwrap());
            self.bell.notify_all();
        }
    }

    /// One that fills the ring with each record, so that the next waits for the reader.
    fn write(ring: &Ring, writer: &mut WriterIndex, value: u32) {
        while writer.space() < CAPACITY {
            WriterIndex::arm(&ring.words);
            let word = writer.look(&ring.words).unwrap();
            if writer.space() < CAPACITY {
                ring.sleep(&ring.words.head, word);
                writer.look(&ring.words).unwrap();
            }
            WriterIndex::disarm(&ring.words);
        }
        ring.cell.with_mut(|cell| {
            // SAFETY: loom checks it.
            #[allow(unsafe_code, reason = "loom's cell lends a pointer")]
            unsafe {
                *cell = value;
            }
        });
        writer.advance(CAPACITY);
        if writer.publish(&ring.words) {
            ring.wake();
        }
    }

    fn read(ring: &Ring, reader: &mut ReaderIndex) -> Result<u32, Fault> {
        reader.look(&ring.words, STEP)?;
        while reader.available() == 0 {
            ReaderIndex::arm(&ring.words);
            let word = reader.look(&ring.words, STEP)?;
            if reader.available() == 0 {
                ring.sleep(&ring.words.tail, word);
                reader.look(&ring.words, STEP)?;
            }
            ReaderIndex::disarm(&ring.words);
        }
        // SAFETY: loom checks it.
        #[allow(unsafe_code, reason = "loom's cell lends a pointer")]
        let value = ring.cell.with(|cell| unsafe { *cell });
        reader.advance(CAPACITY);
        if reader.release(&ring.words) {
            ring.wake();
        }
        Ok(value)
    }

    /// A lost wake-up would be a deadlock, which loom reports; a byte read too early or overwritten too early, a race.
    #[test]
    fn every_record_arrives_in_order_and_nobody_sleeps_for_ever() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Ring::new();
            let other = Arc::clone(&ring);
            let writer = thread::spawn(move || {
                let mut writer = WriterIndex::new();
                (1..=2).for_each(|value| write(&other, &mut writer, value));
            });
            let mut reader = ReaderIndex::new();
            assert_eq!(read(&ring, &mut reader), Ok(1));
            assert_eq!(read(&ring, &mut reader), Ok(2));
            writer.join().unwrap();
        });
    }

    /// Closing is seen by a reader that sleeps, is about to, or has something left to read.
    #[test]
    fn a_closed_ring_wakes_its_reader() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let ring = Ring::new();
            let other = Arc::clone(&ring);
            let closer = thread::spawn(move || {
                write(&other, &mut WriterIndex::new(), 1);
                other.words.tail.0.fetch_or(CLOSED, Ordering::SeqCst);
                other.wake();
            });
            let mut reader = ReaderIndex::new();
            assert_eq!(read(&ring, &mut reader), Ok(1));
            assert_eq!(read(&ring, &mut reader), Err(Fault::Closed));
            closer.join().unwrap();
        });
    }
}
