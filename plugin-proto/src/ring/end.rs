//! The two ends of a ring: records go in, records come out.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use rustix::thread::futex;
use zerocopy::{FromBytes, IntoBytes};

use super::index::{ReaderIndex, STEP, WriterIndex};
use super::{ALIGNMENT, Direction, Fault, Header, MAX_PAYLOAD, Mapping, Outgoing};

/// How one side waits for the other.
pub trait Waiter {
    /// Why it gave up.
    type Error: From<Fault>;

    /// How many times to look before sleeping.
    fn spins(&mut self) -> u32;

    /// Sleeps while `word` is `expected`, until it is woken, or for a while. Returning early is no harm.
    ///
    /// # Errors
    /// Where there is no use in waiting on.
    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), Self::Error>;
}

/// Wakes whoever sleeps on `word`, in whatever process.
pub fn wake(word: &AtomicU32) {
    // The word lies in mapped memory, so this cannot fail.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// The end that records are written into.
#[derive(Debug)]
pub struct Writer {
    mapping: Arc<Mapping>,
    direction: Direction,
    index: WriterIndex,
}

impl Writer {
    /// The writing end of a ring that was not used yet.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, direction: Direction) -> Self {
        Self { mapping, direction, index: WriterIndex::new() }
    }

    /// Writes a record, waiting for room where there is none: whether the reader slept.
    ///
    /// # Errors
    /// A [`Fault`], or what the waiter says. The ring is of no use after it.
    pub fn write<W: Waiter>(&mut self, record: &Outgoing<'_>, waiter: &mut W) -> Result<bool, W::Error> {
        self.push(record.header.as_bytes(), waiter)?;
        let mut length = size_of::<Header>() as u32;
        for part in record.parts {
            self.push(part, waiter)?;
            // A part is at most `MAX_PAYLOAD` bytes.
            length = length.wrapping_add(padded(part.len() as u32, STEP));
        }
        let padding = padded(length, ALIGNMENT).wrapping_sub(length);
        if self.index.space() < padding {
            self.make_room(waiter)?;
        }
        self.index.advance(padding);
        Ok(self.publish())
    }

    fn push<W: Waiter>(&mut self, mut bytes: &[u8], waiter: &mut W) -> Result<(), W::Error> {
        while !bytes.is_empty() {
            if self.index.space() < ALIGNMENT {
                self.make_room(waiter)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.index.space() as usize));
            self.mapping.copy_in(self.direction, self.index.position(), now);
            self.index.advance(padded(now.len() as u32, STEP));
            bytes = later;
        }
        Ok(())
    }

    /// Waits for a line of room.
    fn make_room<W: Waiter>(&mut self, waiter: &mut W) -> Result<(), W::Error> {
        let mapping = Arc::clone(&self.mapping);
        let words = mapping.words(self.direction);
        self.index.look(words)?;
        if self.index.space() >= ALIGNMENT {
            return Ok(());
        }
        // The reader can take no more than it sees.
        self.publish();
        for _ in 0..waiter.spins() {
            std::hint::spin_loop();
            self.index.look(words)?;
            if self.index.space() >= ALIGNMENT {
                return Ok(());
            }
        }
        loop {
            WriterIndex::arm(words);
            let seen = self.index.look(words);
            if let Ok(seen) = seen
                && self.index.space() < ALIGNMENT
            {
                waiter.sleep(&words.head.0, seen)?;
            }
            WriterIndex::disarm(words);
            self.index.look(words)?;
            if self.index.space() >= ALIGNMENT {
                return Ok(());
            }
        }
    }

    fn publish(&self) -> bool {
        let words = self.mapping.words(self.direction);
        let slept = self.index.publish(words);
        if slept {
            wake(&words.tail.0);
        }
        slept
    }
}

/// The end that records are read from.
#[derive(Debug)]
pub struct Reader {
    mapping: Arc<Mapping>,
    direction: Direction,
    index: ReaderIndex,
}

impl Reader {
    /// The reading end of a ring that was not used yet.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, direction: Direction) -> Self {
        Self { mapping, direction, index: ReaderIndex::new() }
    }

    /// Whether the writer has closed the ring, with nothing left in it.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        self.index.available() == 0 && self.index.look(self.mapping.words(self.direction), STEP) == Err(Fault::Closed)
    }

    /// Waits for the next record: its header, and in `payload` what follows it. Both are copies.
    ///
    /// # Errors
    /// A [`Fault`], or what the waiter says. The ring is of no use after it.
    pub fn read<W: Waiter>(&mut self, payload: &mut Vec<u8>, waiter: &mut W) -> Result<Header, W::Error> {
        payload.clear();
        self.take(size_of::<Header>(), payload, waiter)?;
        let header = Header::read_from_bytes(payload).unwrap_or_default();
        payload.clear();
        let length = header.payload as usize;
        if length > MAX_PAYLOAD {
            return Err(Fault::BadLength { kind: header.kind, length: header.payload }.into());
        }
        self.take(length, payload, waiter)?;
        let whole = size_of::<Header>() as u32 + padded(header.payload, STEP);
        let padding = padded(whole, ALIGNMENT) - whole;
        if padding > 0 {
            if self.index.available() < padding {
                // The writer may need the room to go on.
                self.release();
            }
            self.await_bytes(padding, waiter)?;
            self.index.advance(padding);
        }
        self.release();
        Ok(header)
    }

    /// Appends `length` bytes to `out`, as they come.
    fn take<W: Waiter>(&mut self, length: usize, out: &mut Vec<u8>, waiter: &mut W) -> Result<(), W::Error> {
        let mut left = length;
        while left > 0 {
            self.await_bytes(STEP, waiter)?;
            let words = (self.index.available() / STEP) as usize;
            let words = words.min(left.div_ceil(STEP as usize));
            let before = out.len();
            self.mapping.copy_out(self.direction, self.index.position(), words, |word| out.extend_from_slice(&word));
            let taken = left.min(words * STEP as usize);
            out.truncate(before + taken);
            left -= taken;
            self.index.advance(words as u32 * STEP);
            if left > 0 {
                // The rest may need the room.
                self.release();
            }
        }
        Ok(())
    }

    fn release(&self) {
        let words = self.mapping.words(self.direction);
        if self.index.release(words) {
            wake(&words.head.0);
        }
    }

    /// Waits until `bytes` of them are there, fewer than a line.
    fn await_bytes<W: Waiter>(&mut self, bytes: u32, waiter: &mut W) -> Result<(), W::Error> {
        if self.index.available() >= bytes {
            return Ok(());
        }
        let mapping = Arc::clone(&self.mapping);
        let words = mapping.words(self.direction);
        self.index.look(words, bytes)?;
        if self.index.available() >= bytes {
            return Ok(());
        }
        for _ in 0..waiter.spins() {
            std::hint::spin_loop();
            self.index.look(words, bytes)?;
            if self.index.available() >= bytes {
                return Ok(());
            }
        }
        loop {
            ReaderIndex::arm(words);
            let seen = self.index.look(words, bytes);
            if let Ok(seen) = seen
                && self.index.available() < bytes
            {
                waiter.sleep(&words.tail.0, seen)?;
            }
            ReaderIndex::disarm(words);
            self.index.look(words, bytes)?;
            if self.index.available() >= bytes {
                return Ok(());
            }
        }
    }
}

/// `bytes` and as many as are missing to a multiple of `to`, a power of two. No ring's record comes near 32 bits.
fn padded(bytes: u32, to: u32) -> u32 {
    bytes.wrapping_add(to - 1) & !(to - 1)
}
