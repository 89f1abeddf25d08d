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

use super::vcpu_request::{self, MP, REGS, SREGS};
use super::{Fields, LIMIT, Message, VcpuAnswer};

/// Bytes of the memfd.
pub const SIZE: usize = 0x11000;
/// Bytes of one ring.
pub const CAPACITY: u32 = 0x8000;
/// Bytes of a header, and what records are filled up to.
pub const LINE: u32 = 64;
/// In an index: its owner has closed the ring.
pub const CLOSED: u32 = 1;

/// The words of a ring: `tail`, `head`, `reader_sleeps`, `writer_sleeps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Where the writer stands.
    pub tail: usize,
    /// Where the reader stands.
    pub head: usize,
    /// The reader sleeps on `tail`.
    pub reader_sleeps: usize,
    /// The writer sleeps on `head`.
    pub writer_sleeps: usize,
}

/// Of the ring to the plugin.
pub const TO_PLUGIN: Words = Words { tail: 0x80, head: 0x100, reader_sleeps: 0x180, writer_sleeps: 0x200 };
/// Of the ring to the VMM.
pub const TO_VMM: Words = Words { tail: 0x280, head: 0x300, reader_sleeps: 0x380, writer_sleeps: 0x400 };
/// Where the bytes of the ring to the plugin begin.
pub const BYTES_TO_PLUGIN: usize = 0x1000;
/// Where those of the ring to the VMM begin.
pub const BYTES_TO_VMM: usize = 0x9000;

/// Kinds of records to the plugin.
pub mod kind {
    /// The vCPU is there.
    pub const INIT: u32 = 1;
    /// The guest reads.
    pub const READ: u32 = 2;
    /// The guest writes, and waits.
    pub const WRITE: u32 = 3;
    /// The guest writes, and does not wait.
    pub const POSTED: u32 = 4;
    /// A pause.
    pub const PAUSED: u32 = 5;
    /// A `VcpuResponse`.
    pub const ANSWER: u32 = 8;
    /// To the VMM: run on.
    pub const RESUME: u32 = 1;
    /// To the VMM: a `VcpuRequest`.
    pub const REQUEST: u32 = 2;
}

/// Flags of a record: an access to memory.
pub const MMIO: u32 = 1;
/// Flags of a record: which registers follow.
pub const WITH_REGS: u32 = 2;
/// As above.
pub const WITH_SREGS: u32 = 4;
/// As above.
pub const WITH_DEBUGREGS: u32 = 8;

/// A record's header and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Of [`kind`].
    pub kind: u32,
    /// What it brings.
    pub flags: u32,
    /// Bytes of data.
    pub data: u32,
    /// What the kind says.
    pub address: u64,
    /// What the kind says.
    pub words: [u64; 5],
    /// What follows.
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

    fn header(&self, payload: u32) -> [u8; LINE as usize] {
        let mut bytes = Vec::new();
        for number in [self.kind, self.flags, payload, self.data] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.address.to_le_bytes());
        self.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.try_into().expect("a line")
    }

    /// As it lies in the ring: header, payload, and what fills up the line.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header(self.payload.len() as u32).to_vec();
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().next_multiple_of(LINE as usize), 0);
        bytes
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
    /// Where this side stands in the ring to the VMM.
    written: u32,
    /// Where this side stands in the ring to the plugin.
    read: u32,
}

impl VcpuRing {
    /// Over a memfd that is new.
    pub fn new(memfd: OwnedFd) -> Self {
        Self { memory: RingMemory::new(memfd), written: 0, read: 0 }
    }

    /// The memory.
    pub fn memory(&self) -> &RingMemory {
        &self.memory
    }

    /// Where the next record goes, in bytes since the beginning.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Waits until `ready` says so of the word at `index`; false after `limit`.
    fn wait(&self, index: usize, sleeps: usize, limit: Duration, ready: impl Fn(u32) -> bool) -> bool {
        let begun = Instant::now();
        let word = self.memory.word(index);
        loop {
            if ready(word.load(Ordering::Acquire)) {
                return true;
            }
            let Some(left) = limit.checked_sub(begun.elapsed()) else { return false };
            self.memory.word(sleeps).swap(1, Ordering::AcqRel);
            let seen = word.load(Ordering::Acquire);
            if !ready(seen) {
                let left = Timespec::try_from(left).expect("a short time");
                match futex::wait(word, futex::Flags::empty(), seen, Some(&left)) {
                    Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => {}
                    Err(errno) => panic!("FUTEX_WAIT: {errno}"),
                }
            }
            self.memory.word(sleeps).swap(0, Ordering::AcqRel);
        }
    }

    /// Whether there is something to read within `limit`, be it the end.
    pub fn has_record_within(&self, limit: Duration) -> bool {
        self.wait(TO_PLUGIN.tail, TO_PLUGIN.reader_sleeps, limit, |tail| tail != self.read)
    }

    /// Writes these bytes, a multiple of 8, as soon as there is room for them, without looking at what they are.
    ///
    /// # Panics
    ///
    /// If there is no room within [`LIMIT`].
    pub fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let written = self.written;
            let room = |head: u32| written.wrapping_sub(head & !CLOSED) < CAPACITY || head & CLOSED != 0;
            if !room(self.memory.word(TO_VMM.head).load(Ordering::Acquire)) {
                self.publish();
                let fits = self.wait(TO_VMM.head, TO_VMM.writer_sleeps, LIMIT, room);
                assert!(fits, "no room in the ring within {LIMIT:?}");
            }
            let at = BYTES_TO_VMM + (self.written % CAPACITY) as usize;
            let word = u64::from_le_bytes(chunk.try_into().expect("a multiple of 8"));
            self.memory.long(at).store(word, Ordering::Relaxed);
            self.written = self.written.wrapping_add(8);
        }
        self.publish();
    }

    /// Lets the VMM see what was written.
    fn publish(&self) {
        self.memory.word(TO_VMM.tail).store(self.written, Ordering::Release);
        if self.memory.word(TO_VMM.reader_sleeps).fetch_add(0, Ordering::AcqRel) != 0 {
            self.memory.wake(TO_VMM.tail);
        }
    }

    /// Sends a record.
    pub fn send(&mut self, record: &Record) {
        self.write(&record.bytes());
    }

    /// `count` bytes, at most so many as lie within the ring; `None` where it was closed before.
    fn take(&mut self, count: u32) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while (bytes.len() as u32) < count {
            let read = self.read;
            let come = self.wait(TO_PLUGIN.tail, TO_PLUGIN.reader_sleeps, LIMIT, |tail| tail != read);
            assert!(come, "nothing in the ring within {LIMIT:?}");
            let tail = self.memory.word(TO_PLUGIN.tail).load(Ordering::Acquire);
            let available = (tail & !CLOSED).wrapping_sub(read);
            assert!(available <= CAPACITY && available.is_multiple_of(8), "an index of {tail:#x} after {read:#x}");
            if available == 0 {
                assert!(bytes.is_empty(), "the end within a record");
                return None;
            }
            for _ in 0..available.min(count - bytes.len() as u32) / 8 {
                let at = BYTES_TO_PLUGIN + (self.read % CAPACITY) as usize;
                bytes.extend(self.memory.long(at).load(Ordering::Relaxed).to_le_bytes());
                self.read = self.read.wrapping_add(8);
            }
            self.memory.word(TO_PLUGIN.head).store(self.read, Ordering::Release);
            if self.memory.word(TO_PLUGIN.writer_sleeps).fetch_add(0, Ordering::AcqRel) != 0 {
                self.memory.wake(TO_PLUGIN.head);
            }
        }
        Some(bytes)
    }

    /// The next record; `None` where the VMM has closed the ring.
    ///
    /// # Panics
    ///
    /// If nothing comes within [`LIMIT`].
    pub fn receive(&mut self) -> Option<Record> {
        let header = self.take(LINE)?;
        let small = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let large = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight"));
        let length = small(8);
        let filled = length.next_multiple_of(LINE);
        let mut payload = if filled == 0 { Vec::new() } else { self.take(filled).expect("the rest of a record") };
        payload.truncate(length as usize);
        let words = [large(24), large(32), large(40), large(48), large(56)];
        Some(Record { kind: small(0), flags: small(4), data: small(12), address: large(16), words, payload })
    }

    /// The next record, of this kind.
    ///
    /// # Panics
    ///
    /// If another comes, or none.
    pub fn expect(&mut self, kind: u32) -> Record {
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

    /// Asks and sees that the answer is one to this request.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn ask(&mut self, request: &Message) -> VcpuAnswer {
        self.send(&Record::request(request));
        let record = self.expect(kind::ANSWER);
        let answer = VcpuAnswer::parse(&record.payload);
        answer.assert_answers(request);
        answer
    }

    /// Asks for what must succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn done(&mut self, request: &Message) -> Fields {
        let answer = self.ask(request);
        assert_eq!(answer.errno, 0, "{request:?}");
        answer.body
    }

    /// Some state, which must have the kernel's size.
    ///
    /// # Panics
    ///
    /// If it cannot be had.
    pub fn get(&mut self, (set, size): (u64, usize)) -> Vec<u8> {
        let state = self.done(&vcpu_request::get_state(set)).bytes(1).to_vec();
        assert_eq!(state.len(), size, "state {set}");
        state
    }

    /// Sets some state.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub fn set(&mut self, (set, _): (u64, usize), state: &[u8]) {
        self.done(&vcpu_request::set_state(set, state));
    }

    /// Waits for the vCPU to be there, and lets it begin at `entry`, in real mode, once it is resumed.
    pub fn boot(&mut self, entry: u64) {
        self.expect(kind::INIT);
        let [sregs, regs] = vcpu_request::real_mode(self.get(SREGS), entry);
        self.set(SREGS, &sregs);
        self.set(REGS, &regs);
        // KVM_MP_STATE_RUNNABLE: only the first vCPU is at the start.
        self.set(MP, &[0; 4]);
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
