//! The two ends of a ring: records go in, records come out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

use super::index::{ASLEEP, ReaderIndex, WriterIndex, arm, disarm, slot};
use super::looking::between_looks;
use super::{CAPACITY, Direction, Fault, Flags, Header, Incoming, MAX_FRAGMENT, MAX_PAYLOAD, Mapping, Outgoing, SLOTS};

/// How one side waits for the other.
pub trait Waiter {
    /// Why it gave up.
    type Error: From<Fault>;

    /// How many times to look before sleeping.
    fn spins(&mut self) -> u32;

    /// Spends the time between two of those looks; `looks` came before.
    ///
    /// Now and then it should let the other side run, for it may wait for this very processor: two that only sleep and wake
    /// each other there are never moved apart, two that want to run are.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep): where others are let run, time passes.
    fn relax(&mut self, looks: u32) -> Result<(), Self::Error> {
        let _ = looks;
        between_looks();
        Ok(())
    }

    /// Sleeps while `word` is `expected`, until it is woken, or for a while. Returning early is no harm.
    ///
    /// # Errors
    /// Where there is no use in waiting on.
    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), Self::Error>;
}

/// A mask for the looks for a record that one for the ring's end follows.
const LOOKS_BETWEEN_ENDS: u32 = 63;

/// Slots that are given back at once.
const RELEASED_SLOTS: u32 = SLOTS / 4;
/// Bytes of payload that are given back at once.
const RELEASED_BYTES: u32 = CAPACITY / 4;
// A reader that waits has not given back fewer than those. Beside them any record has room, so no writer waits for them.
const _: () = assert!(RELEASED_SLOTS < SLOTS && MAX_FRAGMENT as u32 + RELEASED_BYTES <= CAPACITY);

/// Wakes the thread that sleeps on `word`, in whatever process.
pub fn wake(word: &AtomicU32) {
    // The word lies in mapped memory, so this cannot fail.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// The end that records are written into.
#[derive(Debug)]
pub struct Writer {
    mapping: Arc<Mapping>,
    direction: Direction,
    /// Whether the reader looks for records on another processor.
    is_looked_for: bool,
    index: WriterIndex,
    /// Where the next payload goes: bytes, on past the end of their part of the memory.
    position: u32,
    /// By slot: where the payload of the record in it ends.
    ends: Box<[u32; SLOTS as usize]>,
}

impl Writer {
    /// The writing end of a ring that was not used yet. `is_looked_for` says that its reader looks on another processor before it
    /// sleeps: records are handed over to that at once, then, which would cost time where both sides share one.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, direction: Direction, is_looked_for: bool) -> Self {
        let ends = Box::new([0; SLOTS as usize]);
        Self { mapping, direction, is_looked_for, index: WriterIndex::new(), position: 0, ends }
    }

    /// Writes a record, waiting for room where there is none.
    ///
    /// # Errors
    /// A [`Fault`], or what the waiter says. The ring is of no use after it.
    pub fn write<W: Waiter>(&mut self, record: &Outgoing<'_>, waiter: &mut W) -> Result<(), W::Error> {
        if record.header.payload as usize <= MAX_FRAGMENT {
            return self.put(&record.header, &record.parts, waiter);
        }
        let mut whole = Vec::with_capacity(record.header.payload as usize);
        for part in record.parts {
            whole.extend_from_slice(part);
            whole.resize(whole.len().next_multiple_of(size_of::<u64>()), 0);
        }
        whole.truncate(record.header.payload as usize);
        let mut fragments = whole.chunks(MAX_FRAGMENT).peekable();
        while let Some(fragment) = fragments.next() {
            let more = if fragments.peek().is_some() { Flags::MORE } else { 0 };
            // At most `MAX_FRAGMENT` bytes.
            let payload = fragment.len() as u32;
            let header = Header { payload, flags: record.header.flags | more, ..record.header };
            self.put(&header, &[fragment], waiter)?;
        }
        Ok(())
    }

    /// Writes a record that is all header, as most are.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn write_header<W: Waiter>(&mut self, header: &Header, waiter: &mut W) -> Result<(), W::Error> {
        if !self.index.has_room() {
            self.make_room(0, waiter)?;
        }
        self.publish(header, self.is_looked_for);
        Ok(())
    }

    /// The same for one that nothing is waited for behind: it goes over when the reader comes to it, so that the writer goes on sooner.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn post_header<W: Waiter>(&mut self, header: &Header, waiter: &mut W) -> Result<(), W::Error> {
        if !self.index.has_room() {
            self.make_room(0, waiter)?;
        }
        self.publish(header, false);
        Ok(())
    }

    /// Writes a record with one part behind its header, as `header.payload` says: at most [`MAX_FRAGMENT`] bytes, a multiple of 8.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn write_part<W: Waiter>(&mut self, header: &Header, part: &[u8], waiter: &mut W) -> Result<(), W::Error> {
        debug_assert_eq!((header.payload as usize, part.len() % size_of::<u64>()), (part.len(), 0));
        self.put(header, &[part], waiter)
    }

    /// Writes what fits one slot.
    fn put<W: Waiter>(&mut self, header: &Header, parts: &[&[u8]], waiter: &mut W) -> Result<(), W::Error> {
        let bytes = header.payload.next_multiple_of(size_of::<u64>() as u32);
        if !self.has_room(bytes) {
            self.make_room(bytes, waiter)?;
        }
        for part in parts.iter().filter(|part| !part.is_empty()) {
            self.mapping.copy_in(self.direction, self.position, part);
            // A part is at most `MAX_FRAGMENT` bytes.
            self.position = self.position.wrapping_add(part.len().next_multiple_of(size_of::<u64>()) as u32);
        }
        self.publish(header, self.is_looked_for);
        if bytes > 0 && self.is_looked_for {
            self.mapping.hand_over(self.direction, self.position.wrapping_sub(bytes), bytes);
        }
        Ok(())
    }

    /// Lets the reader see a record, for which there is room and whose payload is there.
    #[inline]
    fn publish(&mut self, header: &Header, is_looked_for: bool) {
        let at = slot(self.index.written());
        // A slot's number is below their number.
        if let Some(end) = self.ends.get_mut(at) {
            *end = self.position;
        }
        let words = self.mapping.words(self.direction);
        let [first, others @ ..] = self.mapping.slot(self.direction, at);
        let [line, rest @ ..] = header.as_line();
        others.iter().zip(rest).for_each(|(to, from)| to.store(from, Ordering::Relaxed));
        if self.index.publish(first, line, words, is_looked_for) {
            wake(&words.reader_sleeps.0);
        }
    }

    /// Touches the slot of the next record, if it is free, so that its cache line is here when there is one: for who has time now
    /// and will be waited for then.
    #[inline]
    pub fn touch_next(&self) {
        if self.index.has_room() {
            let [_, .., last] = self.mapping.slot(self.direction, slot(self.index.written()));
            last.store(0, Ordering::Relaxed);
        }
    }

    /// The same with the next `bytes` of payload.
    pub fn touch_next_payload(&self, bytes: u32) {
        if self.has_room(bytes) {
            self.mapping.touch(self.direction, self.position, bytes);
        }
    }

    /// Whether a slot and `bytes` of payload are free, as far as is known.
    fn has_room(&self, bytes: u32) -> bool {
        // Where nothing was read yet this is the last slot's: 0, until a record lies there and no slot is free.
        let done = self.ends.get(slot(self.index.done().wrapping_sub(1)));
        let used = done.map_or(CAPACITY, |done| self.position.wrapping_sub(*done));
        self.index.has_room() && bytes <= CAPACITY.wrapping_sub(used)
    }

    #[cold]
    fn make_room<W: Waiter>(&mut self, bytes: u32, waiter: &mut W) -> Result<(), W::Error> {
        let words = self.mapping.words(self.direction);
        for looks in 0..waiter.spins().saturating_add(1) {
            self.index.look(words)?;
            if self.has_room(bytes) {
                return Ok(());
            }
            waiter.relax(looks)?;
        }
        loop {
            arm(&words.writer_sleeps);
            let seen = self.index.look(words);
            if seen.is_ok() && !self.has_room(bytes) {
                waiter.sleep(&words.writer_sleeps.0, ASLEEP)?;
            }
            disarm(&words.writer_sleeps);
            self.index.look(words)?;
            if self.has_room(bytes) {
                return Ok(());
            }
        }
    }
}

/// The end that records are read from.
#[derive(Debug)]
pub struct Reader {
    mapping: Arc<Mapping>,
    direction: Direction,
    index: ReaderIndex,
    /// Where the next payload is.
    position: u32,
    /// Bytes of payload that were read and still take the writer's room.
    unreleased: u32,
}

impl Reader {
    /// The reading end of a ring that was not used yet.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, direction: Direction) -> Self {
        Self { mapping, direction, index: ReaderIndex::new(), position: 0, unreleased: 0 }
    }

    /// Waits for the next record, and copies it out to `incoming`.
    ///
    /// # Errors
    /// A [`Fault`], or what the waiter says. The ring is of no use after it.
    #[inline(always)]
    pub fn read<W: Waiter>(&mut self, incoming: &mut Incoming, waiter: &mut W) -> Result<(), W::Error> {
        incoming.words.clear();
        incoming.bytes = 0;
        self.take(incoming, waiter)?;
        if incoming.header.flags & Flags::MORE == 0 { Ok(()) } else { self.read_on(incoming, waiter) }
    }

    /// Reads the rest of a record that did not fit one slot.
    #[cold]
    #[inline(never)]
    fn read_on<W: Waiter>(&mut self, incoming: &mut Incoming, waiter: &mut W) -> Result<(), W::Error> {
        let mut header = Header { flags: incoming.header.flags & !Flags::MORE, ..incoming.header };
        while incoming.header.flags & Flags::MORE != 0 {
            self.take(incoming, waiter)?;
        }
        // It does not grow beyond `MAX_PAYLOAD`.
        header.payload = incoming.bytes as u32;
        incoming.header = header;
        Ok(())
    }

    /// Takes what lies in the next slot, its payload to the end of that in `incoming`.
    #[inline(always)]
    fn take<W: Waiter>(&mut self, incoming: &mut Incoming, waiter: &mut W) -> Result<(), W::Error> {
        let at = slot(self.index.read());
        let first = match self.look(at) {
            Some(first) => first,
            None => match self.look_for_a_while(at, waiter)? {
                Some(first) => first,
                None => self.sleep_until(at, waiter)?,
            },
        };
        let mut line = [first; 8];
        let [_, to @ ..] = &mut line;
        let [_, from @ ..] = self.mapping.slot(self.direction, at);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        incoming.header = Header::of_line(line);
        if incoming.header.payload > 0 || incoming.header.flags & Flags::MORE != 0 {
            self.take_payload(incoming)?;
        }
        self.index.advance();
        // Else the writer has room all the same, for any record, as soon as the reader has none: see below.
        if self.index.unreleased() >= RELEASED_SLOTS || self.unreleased >= RELEASED_BYTES {
            self.release_many();
        }
        Ok(())
    }

    #[inline(never)]
    fn take_payload(&mut self, incoming: &mut Incoming) -> Result<(), Fault> {
        let Incoming { header, words, bytes } = incoming;
        let length = header.payload as usize;
        let is_cut = header.flags & Flags::MORE != 0 && length != MAX_FRAGMENT;
        if is_cut || length > MAX_FRAGMENT || bytes.saturating_add(length) > MAX_PAYLOAD {
            return Err(Fault::BadLength { kind: header.kind, length: header.payload });
        }
        let count = length.div_ceil(size_of::<u64>());
        self.mapping.copy_out(self.direction, self.position, count, words);
        *bytes = bytes.saturating_add(length);
        // At most `MAX_FRAGMENT`, which is a multiple of 8.
        let taken = header.payload.next_multiple_of(size_of::<u64>() as u32);
        self.position = self.position.wrapping_add(taken);
        self.unreleased = self.unreleased.wrapping_add(taken);
        Ok(())
    }

    #[inline]
    fn look(&self, at: usize) -> Option<u64> {
        let [first, ..] = self.mapping.slot(self.direction, at);
        self.index.look(first)
    }

    #[cold]
    fn release_many(&mut self) {
        self.release();
    }

    fn release(&mut self) {
        self.unreleased = 0;
        let words = self.mapping.words(self.direction);
        if self.index.release(words) {
            wake(&words.writer_sleeps.0);
        }
    }

    /// Looks for the record in slot `at` as often as the waiter wants: its first word.
    #[inline(always)]
    fn look_for_a_while<W: Waiter>(&mut self, at: usize, waiter: &mut W) -> Result<Option<u64>, W::Error> {
        for looks in 0..waiter.spins() {
            waiter.relax(looks)?;
            if let Some(first) = self.look(at) {
                return Ok(Some(first));
            }
            // Looking may take long where others are let run.
            if looks & LOOKS_BETWEEN_ENDS == LOOKS_BETWEEN_ENDS && self.mapping.words(self.direction).is_closed() {
                break;
            }
        }
        Ok(None)
    }

    /// Sleeps until the record in slot `at` is there: its first word.
    #[cold]
    #[inline(never)]
    fn sleep_until<W: Waiter>(&mut self, at: usize, waiter: &mut W) -> Result<u64, W::Error> {
        let words = self.mapping.words(self.direction);
        loop {
            arm(&words.reader_sleeps);
            if self.look(at).is_none() {
                if words.is_closed() {
                    // The last record may have come just before the end.
                    return self.look(at).ok_or_else(|| Fault::Closed.into());
                }
                waiter.sleep(&words.reader_sleeps.0, ASLEEP)?;
            }
            disarm(&words.reader_sleeps);
            if let Some(first) = self.look(at) {
                return Ok(first);
            }
        }
    }
}
