//! The words of one ring, and how its two ends use them.
//!
//! A record lies in a slot of one cache line, whose first word holds its **stamp**: the record's number, counted from 1. A reader that
//! waits for record `n` looks at the slot it will lie in, and nowhere else: what it waits for and what it then reads come
//! in one cache line. A stamp of another number is nothing yet, whatever it is.
//!
//! * The writer stores the record, then its stamp with release; the reader loads the stamp with acquire, then the record.
//! * The reader copies records out, then stores how many it is done with into `head` with release; the writer loads `head`
//!   with acquire before it overwrites.
//! * The side that is about to sleep swaps 1 into its `sleeps` word, looks once more, and sleeps as long as that word is 1. The
//!   side that has stored a stamp or `head` looks at the other's `sleeps` word by a read-modify-write, and where there is a 1 puts a 0 and
//!   wakes. One of the two comes first: either the mover finds the 1, or the sleeper's swap follows the mover's step,
//!   and its look finds what was stored. A 0 that comes late only ends a sleep too early.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::handing_over::hand_over;
use super::{Fault, SLOTS};

/// A word on cache lines of its own: processors fetch lines in pairs.
#[repr(C, align(128))]
pub(super) struct Line(pub(super) AtomicU32);

/// The words of one ring.
#[repr(C)]
pub(super) struct Words {
    /// How many records the reader is done with.
    head: Line,
    /// 1 while the reader sleeps, or is about to.
    pub(super) reader_sleeps: Line,
    /// The same of the writer.
    pub(super) writer_sleeps: Line,
    /// Not 0 once the VMM has closed the ring.
    closed: Line,
}

impl Words {
    #[cfg(test)]
    pub(super) fn new() -> Self {
        let line = || Line(AtomicU32::new(0));
        Self { head: line(), reader_sleeps: line(), writer_sleeps: line(), closed: line() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.0.load(Ordering::Acquire) != 0
    }

    /// Closes the ring. Both ends are to be woken.
    pub(super) fn close(&self) {
        self.closed.0.store(1, Ordering::SeqCst);
        self.reader_sleeps.0.swap(0, Ordering::AcqRel);
        self.writer_sleeps.0.swap(0, Ordering::AcqRel);
    }
}

/// The slot of the record after `before` others.
pub(super) fn slot(before: u32) -> usize {
    (before % SLOTS) as usize
}

/// A first word: stamp, and above it what else the record begins with.
pub(super) const STAMP: u64 = u32::MAX as u64;

/// The writer's end: how many records it has written, and how many the reader was done with when last looked.
#[derive(Debug)]
pub(super) struct WriterIndex {
    written: u32,
    done: u32,
}

impl WriterIndex {
    pub(super) fn new() -> Self {
        Self { written: 0, done: 0 }
    }

    /// How many records were written.
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// How many of them the reader is done with, as far as is known.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    /// Whether a slot is free, as far as is known.
    pub(super) fn has_room(&self) -> bool {
        self.written.wrapping_sub(self.done) < SLOTS
    }

    /// Looks how far the reader is.
    pub(super) fn look(&mut self, words: &Words) -> Result<(), Fault> {
        let done = words.head.0.load(Ordering::Acquire);
        // It neither goes back nor passes the writer.
        if self.written.wrapping_sub(done) > self.written.wrapping_sub(self.done) {
            return Err(Fault::BadIndex { from: self.done, to: done });
        }
        self.done = done;
        if words.is_closed() { Err(Fault::Closed) } else { Ok(()) }
    }

    /// Lets the reader see the record in the slot that begins with `word`, `first` being what the word is to hold beside the stamp.
    /// True where the reader is to be woken. `is_looked_for` says that it looks on another processor.
    #[must_use]
    pub(super) fn publish(&mut self, word: &AtomicU64, first: u64, words: &Words, is_looked_for: bool) -> bool {
        self.written = self.written.wrapping_add(1);
        word.store(first & !STAMP | u64::from(self.written), Ordering::Release);
        if is_looked_for {
            // Behind the next step, which waits for the line, it would come too late.
            hand_over(word);
        }
        is_to_be_woken(&words.reader_sleeps)
    }
}

/// The reader's end: how many records it has read, and of how many the writer knows that.
#[derive(Debug)]
pub(super) struct ReaderIndex {
    read: u32,
    released: u32,
}

impl ReaderIndex {
    pub(super) fn new() -> Self {
        Self { read: 0, released: 0 }
    }

    /// How many records were read.
    pub(super) fn read(&self) -> u32 {
        self.read
    }

    /// How many of them still take the writer's room.
    pub(super) fn unreleased(&self) -> u32 {
        self.read.wrapping_sub(self.released)
    }

    /// The first word of the next record, if it is there.
    pub(super) fn look(&self, word: &AtomicU64) -> Option<u64> {
        let first = word.load(Ordering::Acquire);
        (first & STAMP == u64::from(self.read.wrapping_add(1))).then_some(first)
    }

    /// The record was copied out.
    pub(super) fn advance(&mut self) {
        self.read = self.read.wrapping_add(1);
    }

    /// Gives the writer the room of what was read. True where it is to be woken.
    #[must_use]
    pub(super) fn release(&mut self, words: &Words) -> bool {
        if self.released == self.read {
            return false;
        }
        self.released = self.read;
        words.head.0.store(self.read, Ordering::Release);
        is_to_be_woken(&words.writer_sleeps)
    }
}

/// What a sleeper's word is while it sleeps.
pub(super) const ASLEEP: u32 = 1;

/// Says that this end is about to sleep on `sleeps`. It must look once more before it does.
pub(super) fn arm(sleeps: &Line) {
    sleeps.0.swap(ASLEEP, Ordering::AcqRel);
}

/// Takes that back.
pub(super) fn disarm(sleeps: &Line) {
    sleeps.0.swap(0, Ordering::AcqRel);
}

/// Whether the other end sleeps, or is about to. If so, its sleep ends by the word, or by the wake-up that must follow.
fn is_to_be_woken(sleeps: &Line) -> bool {
    // Where nobody sleeps the word stays in this processor's cache, and this costs what a fence would.
    if sleeps.0.fetch_add(0, Ordering::AcqRel) == 0 {
        return false;
    }
    sleeps.0.swap(0, Ordering::AcqRel);
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_is_seen_by_its_stamp_and_its_room_comes_back() {
        let (words, word) = (Words::new(), AtomicU64::new(0));
        let (mut writer, mut reader) = (WriterIndex::new(), ReaderIndex::new());
        assert_eq!(reader.look(&word), None);
        assert!(!writer.publish(&word, 7 << 32, &words, false));
        assert_eq!(reader.look(&word), Some(7 << 32 | 1));
        reader.advance();
        assert_eq!(reader.look(&word), None);
        assert!(!reader.release(&words));
        assert_eq!((writer.look(&words), writer.done()), (Ok(()), 1));
    }

    #[test]
    fn a_sleeper_is_told_of_once() {
        let (words, word) = (Words::new(), AtomicU64::new(0));
        let mut writer = WriterIndex::new();
        arm(&words.reader_sleeps);
        assert!(writer.publish(&word, 0, &words, false));
        assert!(!writer.publish(&word, 0, &words, false));
        arm(&words.reader_sleeps);
        disarm(&words.reader_sleeps);
        assert!(!writer.publish(&word, 0, &words, false));
    }

    #[test]
    fn a_ring_is_full_when_each_slot_holds_a_record() {
        let (words, word) = (Words::new(), AtomicU64::new(0));
        let mut writer = WriterIndex { written: u32::MAX - 3, done: u32::MAX - 3 };
        for _ in 0..SLOTS {
            assert!(writer.has_room());
            let _ = writer.publish(&word, 0, &words, false);
        }
        assert!(!writer.has_room());
        words.head.0.store(u32::MAX - 2, Ordering::Relaxed);
        assert_eq!((writer.look(&words), writer.has_room()), (Ok(()), true));
    }

    proptest! {
        /// Whatever the reader says it is done with, it is at most what was written, and never less than before.
        #[test]
        fn an_impossible_head_is_a_fault(start in any::<u32>(), heads in prop::collection::vec(any::<u32>(), 1..20)) {
            let words = Words::new();
            let mut writer = WriterIndex { written: start.wrapping_add(SLOTS), done: start };
            for head in heads.into_iter().chain([start, start.wrapping_add(5), start.wrapping_add(SLOTS)]) {
                words.head.0.store(head, Ordering::Relaxed);
                let (was, is_possible) = (writer.done, head.wrapping_sub(start) <= SLOTS);
                prop_assert!(is_possible || writer.look(&words).is_err());
                let _ = writer.look(&words);
                let (before, now) = (was.wrapping_sub(start), writer.done.wrapping_sub(start));
                prop_assert!(before <= now && now <= SLOTS);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// A ring with one slot whose record is a cell, so that loom sees who touches it when, and the kernel's queue of sleepers.
    struct Ring {
        words: Words,
        stamp: AtomicU64,
        cell: UnsafeCell<u32>,
        sleepers: Mutex<()>,
        wake: Condvar,
    }

    // SAFETY: what the tests are about. Loom fails them where the cell is touched by two at once.
    #[allow(unsafe_code, reason = "the cell is shared as the ring's bytes are")]
    unsafe impl Sync for Ring {}
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "the cell is shared as the ring's bytes are")]
    unsafe impl Send for Ring {}

    impl Ring {
        fn new() -> Arc<Self> {
            let (cell, stamp) = (UnsafeCell::new(0), AtomicU64::new(0));
            Arc::new(Self { words: Words::new(), stamp, cell, sleepers: Mutex::new(()), wake: Condvar::new() })
        }

        /// `futex(FUTEX_WAIT)`: it looks at the word and goes to sleep in one step.
        fn sleep(&self, sleeps: &Line) {
            let sleepers = self.sleepers.lock().unwrap();
            if sleeps.0.load(Ordering::SeqCst) == ASLEEP {
                drop(self.wake.wait(sleepers).unwrap());
            }
        }

        /// `futex(FUTEX_WAKE)`.
        fn wake(&self) {
            drop(self.sleepers.lock().unwrap());
            self.wake.notify_all();
        }
    }

    /// One that waits until the reader is done with each record before it writes the next.
    fn write(ring: &Ring, writer: &mut WriterIndex, value: u32) {
        while writer.written() != writer.done() {
            arm(&ring.words.writer_sleeps);
            writer.look(&ring.words).unwrap();
            if writer.written() != writer.done() {
                ring.sleep(&ring.words.writer_sleeps);
            }
            disarm(&ring.words.writer_sleeps);
            writer.look(&ring.words).unwrap();
        }
        ring.cell.with_mut(|cell| {
            // SAFETY: loom checks it.
            #[allow(unsafe_code, reason = "loom's cell lends a pointer")]
            unsafe {
                *cell = value;
            }
        });
        if writer.publish(&ring.stamp, 0, &ring.words, false) {
            ring.wake();
        }
    }

    fn read(ring: &Ring, reader: &mut ReaderIndex) -> Result<u32, Fault> {
        while reader.look(&ring.stamp).is_none() {
            if reader.release(&ring.words) {
                ring.wake();
            }
            arm(&ring.words.reader_sleeps);
            if reader.look(&ring.stamp).is_none() {
                if ring.words.is_closed() {
                    // The last record may have come just before the end.
                    if reader.look(&ring.stamp).is_some() {
                        continue;
                    }
                    return Err(Fault::Closed);
                }
                ring.sleep(&ring.words.reader_sleeps);
            }
            disarm(&ring.words.reader_sleeps);
        }
        // SAFETY: loom checks it.
        #[allow(unsafe_code, reason = "loom's cell lends a pointer")]
        let value = ring.cell.with(|cell| unsafe { *cell });
        reader.advance();
        Ok(value)
    }

    /// A lost wake-up would be a deadlock, which loom reports; a record read too early or overwritten too early, a race.
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
                other.words.close();
                other.wake();
            });
            let mut reader = ReaderIndex::new();
            assert_eq!(read(&ring, &mut reader), Ok(1));
            assert_eq!(read(&ring, &mut reader), Err(Fault::Closed));
            closer.join().unwrap();
        });
    }
}
