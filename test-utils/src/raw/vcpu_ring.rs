//! A vCPU's rings, from the tables of the protocol: a memfd with a ring each way.

#![allow(unsafe_code, reason = "shared memory is mapped, and seen as atomics")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::thread::futex;
use rustix::time::Timespec;

use super::{LIMIT, Message, VcpuAnswer, VcpuChannel};

/// Bytes of the memfd.
pub const SIZE: usize = 0x19000;
/// Records that a ring holds.
pub const SLOTS: u32 = 256;
/// Bytes of payload that a ring holds.
pub const CAPACITY: u32 = 0x8000;
/// Bytes of a slot.
pub const SLOT: usize = 64;
/// Most bytes of payload with one record.
pub const MAX_FRAGMENT: usize = 0x4000;

/// Where one ring's words and bytes lie in the memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many records the reader is done with.
    pub head: usize,
    /// 1 while the reader sleeps.
    pub reader_sleeps: usize,
    /// 1 while the writer sleeps.
    pub writer_sleeps: usize,
    /// 1 when the VMM has closed the ring.
    pub closed: usize,
    /// The slots.
    pub slots: usize,
    /// The payload.
    pub payload: usize,
}

/// The ring to the plugin.
pub const TO_PLUGIN: Layout =
    Layout { head: 0x80, reader_sleeps: 0x100, writer_sleeps: 0x180, closed: 0x200, slots: 0x1000, payload: 0x5000 };
/// The ring to the VMM.
pub const TO_VMM: Layout =
    Layout { head: 0x280, reader_sleeps: 0x300, writer_sleeps: 0x380, closed: 0x400, slots: 0xd000, payload: 0x11000 };

/// Where the plugin says on which processor it woke up, counted from 1.
pub const PROCESSOR: usize = 0x480;

impl Layout {
    /// The slot of the record after `before` others.
    pub fn slot(&self, before: u32) -> usize {
        self.slots + (before % SLOTS) as usize * SLOT
    }
}

/// Kinds of records to the plugin.
pub mod kind {
    /// The vCPU is there.
    pub const INIT: u16 = 1;
    /// The guest reads.
    pub const READ: u16 = 2;
    /// The guest writes, and waits.
    pub const WRITE: u16 = 3;
    /// The guest writes, and does not wait.
    pub const POSTED: u16 = 4;
    /// A pause.
    pub const PAUSED: u16 = 5;
    /// A `VcpuResponse`.
    pub const ANSWER: u16 = 8;
    /// To the VMM: run on.
    pub const RESUME: u16 = 1;
    /// To the VMM: a `VcpuRequest`.
    pub const REQUEST: u16 = 2;
}

/// Flags of a record: an access to memory.
pub const MMIO: u16 = 1;
/// Flags of a record: which registers follow.
pub const WITH_REGS: u16 = 2;
/// As above.
pub const WITH_SREGS: u16 = 4;
/// As above.
pub const WITH_DEBUGREGS: u16 = 8;
/// In a resume: the plugin has looked at the `kvm_regs` that came.
pub const LOOKED_AT_REGS: u16 = 16;
/// The same of the `kvm_sregs`.
pub const LOOKED_AT_SREGS: u16 = 32;
/// The same of the `kvm_debugregs`.
pub const LOOKED_AT_DEBUGREGS: u16 = 64;

/// Flags of a record: the next one goes on with its payload.
pub const MORE: u16 = 128;

/// The width of an access's items, in the flags of a record.
pub fn width(flags: u16) -> u16 {
    flags >> 8 & 0xf
}

/// A record: a header and what goes with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Of [`kind`].
    pub kind: u16,
    /// What it brings.
    pub flags: u16,
    /// Bytes of data.
    pub data: u32,
    /// What the kind says.
    pub address: u64,
    /// What the kind says.
    pub words: [u64; 5],
    /// What goes with it.
    pub payload: Vec<u8>,
}

impl Record {
    /// A resume, with what a read returns.
    ///
    /// # Panics
    ///
    /// If the data has no place in the header.
    pub fn resume(data: &[u8]) -> Self {
        let mut words = [0; 40];
        words[..data.len()].copy_from_slice(data);
        let word = |index: usize| u64::from_le_bytes(words[index * 8..][..8].try_into().expect("eight"));
        let words = [word(0), word(1), word(2), word(3), word(4)];
        Self { kind: kind::RESUME, data: data.len() as u32, words, ..Self::default() }
    }

    /// A request.
    pub fn request(request: &Message) -> Self {
        Self { kind: kind::REQUEST, payload: request.as_bytes().to_vec(), ..Self::default() }
    }

    /// The data of an access, or of a resume.
    pub fn data(&self) -> Vec<u8> {
        let length = self.data as usize;
        let inline: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if length <= inline.len() { inline[..length].to_vec() } else { self.payload[..length].to_vec() }
    }

    /// What its slot holds in place of the stamp: eight longs, the low half of the first being the stamp's; `payload` is the
    /// length that it claims.
    pub fn longs(&self, payload: u32) -> [u64; 8] {
        let first = u64::from(self.kind) << 32 | u64::from(self.flags) << 48;
        let second = u64::from(payload) | u64::from(self.data) << 32;
        let [a, b, c, d, e] = self.words;
        [first, second, self.address, a, b, c, d, e]
    }
}

/// The mapped memory of a vCPU's rings, for a side that does with it what it likes.
#[derive(Debug)]
pub struct RingMemory {
    base: NonNull<u8>,
    memfd: OwnedFd,
}

// SAFETY: the mapping belongs to no thread, and all of it is seen as atomics.
unsafe impl Send for RingMemory {}
// SAFETY: as above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Maps a memfd.
    ///
    /// # Panics
    ///
    /// If it cannot be mapped.
    pub fn new(memfd: OwnedFd) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address that the kernel chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), SIZE, prot, MapFlags::SHARED, &memfd, 0) };
        Self { base: NonNull::new(base.expect("mmap").cast()).expect("not at 0"), memfd }
    }

    /// The memfd.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// One of the memory's words.
    ///
    /// # Panics
    ///
    /// If it does not lie within, at a multiple of its size.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= SIZE);
        // SAFETY: aligned and within the mapping, by the assertion; all of it is seen as atomics.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// Eight bytes of it.
    ///
    /// # Panics
    ///
    /// As [`word`](Self::word).
    pub fn long(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= SIZE);
        // SAFETY: as above.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// Wakes who sleeps on a word.
    ///
    /// # Panics
    ///
    /// If the kernel refuses.
    pub fn wake(&self, offset: usize) {
        futex::wake(self.word(offset), futex::Flags::empty(), i32::MAX as u32).expect("FUTEX_WAKE");
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, and no reference into it outlives `self`.
        unsafe { munmap(self.base.as_ptr().cast(), SIZE) }.expect("munmap");
    }
}

/// The plugin's side of a vCPU's rings.
#[derive(Debug)]
pub struct VcpuRing {
    memory: RingMemory,
    /// How many records this side has written.
    written: u32,
    /// Where the payload of the next one goes: bytes since the beginning.
    payload_written: u32,
    /// By slot: where the payload of the record in it ends.
    ends: Vec<u32>,
    /// How many records this side has read.
    read: u32,
    /// Where the payload of the next one is.
    payload_read: u32,
}

impl VcpuRing {
    /// Over a memfd that is new.
    pub fn new(memfd: OwnedFd) -> Self {
        let ends = vec![0; SLOTS as usize];
        Self { memory: RingMemory::new(memfd), written: 0, payload_written: 0, ends, read: 0, payload_read: 0 }
    }

    /// The memory.
    pub fn memory(&self) -> &RingMemory {
        &self.memory
    }

    /// How many records were written.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// How many records were read.
    pub fn read(&self) -> u32 {
        self.read
    }

    /// Waits until `ready`, asleep on the word at `sleeps`; false after `limit`.
    fn wait(&self, sleeps: usize, limit: Duration, ready: impl Fn(&RingMemory) -> bool) -> bool {
        let begun = Instant::now();
        let word = self.memory.word(sleeps);
        loop {
            if ready(&self.memory) {
                return true;
            }
            let Some(left) = limit.checked_sub(begun.elapsed()) else { return false };
            word.swap(1, Ordering::AcqRel);
            if !ready(&self.memory) {
                let left = Timespec::try_from(left).expect("a short time");
                match futex::wait(word, futex::Flags::empty(), 1, Some(&left)) {
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                    Err(errno) => panic!("FUTEX_WAIT: {errno}"),
                }
            }
            word.swap(0, Ordering::AcqRel);
        }
    }

    /// Whether there is something to read within `limit`, be it the end.
    pub fn has_record_within(&self, limit: Duration) -> bool {
        let (slot, stamp) = (TO_PLUGIN.slot(self.read), self.read.wrapping_add(1));
        self.wait(TO_PLUGIN.reader_sleeps, limit, |memory| {
            memory.word(slot).load(Ordering::Acquire) == stamp
                || memory.word(TO_PLUGIN.closed).load(Ordering::Acquire) != 0
        })
    }

    /// Writes eight longs into the next slot, as [`Record::longs`] gives them, without looking at what they are; `payload` goes with
    /// them, 16 KiB at most.
    ///
    /// # Panics
    ///
    /// If there is no room within [`LIMIT`].
    pub fn write(&mut self, longs: [u64; 8], payload: &[u8]) {
        let length = payload.len().next_multiple_of(8) as u32;
        let has_room = |memory: &RingMemory| {
            let head = memory.word(TO_VMM.head).load(Ordering::Acquire);
            let done = self.ends[(head.wrapping_sub(1) % SLOTS) as usize];
            self.written.wrapping_sub(head) < SLOTS && self.payload_written.wrapping_sub(done) + length <= CAPACITY
        };
        assert!(self.wait(TO_VMM.writer_sleeps, LIMIT, has_room), "no room in the ring within {LIMIT:?}");
        for chunk in payload.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let at = TO_VMM.payload + (self.payload_written % CAPACITY) as usize;
            self.memory.long(at).store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            self.payload_written = self.payload_written.wrapping_add(8);
        }
        self.ends[(self.written % SLOTS) as usize] = self.payload_written;
        let slot = TO_VMM.slot(self.written);
        for (index, long) in longs.iter().enumerate().skip(1) {
            self.memory.long(slot + index * 8).store(*long, Ordering::Relaxed);
        }
        self.written = self.written.wrapping_add(1);
        self.memory.long(slot).store(longs[0] | u64::from(self.written), Ordering::Release);
        self.wake(TO_VMM.reader_sleeps);
    }

    /// Wakes the VMM if it sleeps on the word at `sleeps`.
    fn wake(&self, sleeps: usize) {
        if self.memory.word(sleeps).fetch_add(0, Ordering::AcqRel) != 0 {
            self.memory.word(sleeps).swap(0, Ordering::AcqRel);
            self.memory.wake(sleeps);
        }
    }

    /// Sends a record, in as many parts as its payload needs.
    pub fn send(&mut self, record: &Record) {
        let mut rest = record.payload.as_slice();
        loop {
            let (now, later) = rest.split_at(rest.len().min(MAX_FRAGMENT));
            let flags = record.flags | if later.is_empty() { 0 } else { MORE };
            let part = Record { flags, payload: Vec::new(), ..record.clone() };
            self.write(part.longs(now.len() as u32), now);
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// The next record; `None` where the VMM has closed the ring.
    ///
    /// # Panics
    ///
    /// If nothing comes within [`LIMIT`].
    pub fn receive(&mut self) -> Option<Record> {
        let mut record = self.take()?;
        while record.flags & MORE != 0 {
            let next = self.take().expect("the rest of a record");
            record.flags = next.flags;
            record.payload.extend(next.payload);
        }
        Some(record)
    }

    /// What lies in the next slot.
    fn take(&mut self) -> Option<Record> {
        assert!(self.has_record_within(LIMIT), "nothing in the ring within {LIMIT:?}");
        let slot = TO_PLUGIN.slot(self.read);
        let longs: Vec<u64> = (0..8).map(|index| self.memory.long(slot + index * 8).load(Ordering::Acquire)).collect();
        if longs[0] as u32 != self.read.wrapping_add(1) {
            return None;
        }
        let length = longs[1] as u32;
        assert!(length as usize <= MAX_FRAGMENT, "{length} bytes with one record");
        let mut payload = Vec::new();
        for _ in 0..length.div_ceil(8) {
            let at = TO_PLUGIN.payload + (self.payload_read % CAPACITY) as usize;
            payload.extend(self.memory.long(at).load(Ordering::Relaxed).to_le_bytes());
            self.payload_read = self.payload_read.wrapping_add(8);
        }
        payload.truncate(length as usize);
        self.read = self.read.wrapping_add(1);
        self.memory.word(TO_PLUGIN.head).store(self.read, Ordering::Release);
        self.wake(TO_PLUGIN.writer_sleeps);
        Some(Record {
            kind: (longs[0] >> 32) as u16,
            flags: (longs[0] >> 48) as u16,
            data: (longs[1] >> 32) as u32,
            address: longs[2],
            words: longs[3..].try_into().expect("five"),
            payload,
        })
    }

    /// The next record, of this kind.
    ///
    /// # Panics
    ///
    /// If another comes, or none.
    pub fn expect(&mut self, kind: u16) -> Record {
        let record = self.receive().expect("a record, not the end");
        assert_eq!(record.kind, kind, "{record:?}");
        record
    }

    /// The next record, an access that is waited for.
    ///
    /// # Panics
    ///
    /// If another comes, or none.
    pub fn await_access(&mut self) -> Record {
        let record = self.receive().expect("an access, not the end");
        assert!([kind::READ, kind::WRITE].contains(&record.kind), "{record:?}");
        record
    }

    /// Waits for the vCPU to be there.
    ///
    /// # Panics
    ///
    /// If something else comes first.
    pub fn await_init(&mut self) {
        self.expect(kind::INIT);
    }

    /// Resumes with nothing.
    pub fn resume(&mut self) {
        self.send(&Record::resume(&[]));
    }

    /// Resumes from a read.
    pub fn answer(&mut self, data: &[u8]) {
        self.send(&Record::resume(data));
    }
}

impl VcpuChannel for VcpuRing {
    fn ask(&mut self, request: &Message) -> VcpuAnswer {
        self.send(&Record::request(request));
        let answer = VcpuAnswer::parse(&self.expect(kind::ANSWER).payload);
        answer.assert_answers(request);
        answer
    }
}
