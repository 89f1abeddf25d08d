//! The shared memory of a vCPU's two rings.
//!
//! It is touched as atomics alone: the peer changes it at any time, so no reference to plain memory in it may exist.

#![allow(unsafe_code, reason = "shared memory is mapped, and seen as atomics")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::handing_over::hand_over;
use super::index::Words;
use super::{CAPACITY, SIZE, SLOTS, SLOTS_OFFSET};

/// Which of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Written by the VMM.
    ToPlugin,
    /// Written by the plugin.
    ToVmm,
}

/// The words at the memfd's beginning.
#[repr(C)]
struct Head {
    hints: Hints,
    rings: [Words; 2],
    cpu_hint: CpuHint,
}

/// What the VMM lets the plugin know, on lines that change rarely.
#[repr(C, align(128))]
pub(super) struct Hints {
    /// How many times the plugin may look at a ring before it sleeps.
    spins: AtomicU32,
    /// About how many of those take a microsecond.
    spins_a_microsecond: AtomicU32,
}

/// What the plugin lets the VMM know, on lines that change rarely.
#[repr(C, align(128))]
struct CpuHint {
    /// The processor that it woke up on last, counted from 1; 0 where it does not say.
    processor: AtomicU32,
}

const WORDS_OF_DATA: usize = CAPACITY as usize / size_of::<AtomicU64>();

/// A cache line, with the header of a record.
pub(super) type Slot = [AtomicU64; 8];

/// What the records of one ring lie in.
#[repr(C, align(64))]
struct Records {
    slots: [Slot; SLOTS as usize],
    payload: [AtomicU64; WORDS_OF_DATA],
}

const _: () = assert!(size_of::<Head>() <= SLOTS_OFFSET && SLOTS_OFFSET.is_multiple_of(align_of::<Records>()));
const _: () = assert!(SLOTS_OFFSET + 2 * size_of::<Records>() == SIZE);

/// A vCPU's two rings, mapped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to no thread, and all of it is seen as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `memfd`, which has [`SIZE`] bytes and, on the VMM's side, was sealed against shrinking: a page that goes away is
    /// a `SIGBUS`. New memory is all zeros, which is two empty rings.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn new(memfd: BorrowedFd<'_>) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address that the kernel chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), SIZE, prot, MapFlags::SHARED, memfd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Self { base })
    }

    fn head(&self) -> &Head {
        // SAFETY: it lies at the page-aligned beginning of the mapping, which is longer and outlives the reference. It consists of
        // atomics, for which any bits are a value, and nobody in this process sees this memory as anything else.
        unsafe { self.base.cast().as_ref() }
    }

    pub(super) fn words(&self, direction: Direction) -> &Words {
        let [to_plugin, to_vmm] = &self.head().rings;
        match direction {
            Direction::ToPlugin => to_plugin,
            Direction::ToVmm => to_vmm,
        }
    }

    fn records(&self, direction: Direction) -> &Records {
        let offset = match direction {
            Direction::ToPlugin => SLOTS_OFFSET,
            Direction::ToVmm => SLOTS_OFFSET + size_of::<Records>(),
        };
        // SAFETY: both rings' records lie aligned within the mapping, as is asserted above; else as for `head`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// The slot `at`, of which there are [`SLOTS`].
    pub(super) fn slot(&self, direction: Direction, at: usize) -> &Slot {
        let slots = &self.records(direction).slots;
        // The remainder lies within.
        slots.get(at % slots.len()).unwrap_or(&slots[0])
    }

    /// Copies `bytes` in from `position` on, around the end, the last word filled up with zeros.
    pub(super) fn copy_in(&self, direction: Direction, position: u32, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let (behind, before) = self.payload_from(direction, position);
        let copy = |words: &[[u8; 8]], to: &[AtomicU64]| {
            let words = words.iter().map(|word| u64::from_ne_bytes(*word));
            words.zip(to).for_each(|(word, to)| to.store(word, Ordering::Relaxed));
        };
        if rest.is_empty() && words.len() <= behind.len() {
            return copy(words, behind);
        }
        let (first, second) = words.split_at(words.len().min(behind.len()));
        copy(first, behind);
        copy(second, before);
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        if !rest.is_empty() {
            let to = behind.get(words.len()).or_else(|| before.get(second.len()));
            to.into_iter().for_each(|to| to.store(u64::from_ne_bytes(last), Ordering::Relaxed));
        }
    }

    /// Hands the lines over that hold `bytes` from `position` on.
    pub(super) fn hand_over(&self, direction: Direction, position: u32, bytes: u32) {
        self.lines(direction, position, bytes).for_each(hand_over);
    }

    /// Writes a word in each of those lines. The bytes are free.
    pub(super) fn touch(&self, direction: Direction, position: u32, bytes: u32) {
        self.lines(direction, position, bytes).for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The first word of `bytes` from `position` on in each of their cache lines, around the end.
    fn lines(&self, direction: Direction, position: u32, bytes: u32) -> impl Iterator<Item = &AtomicU64> {
        const WORDS_OF_LINE: usize = size_of::<Slot>() / size_of::<AtomicU64>();
        let payload = &self.records(direction).payload;
        let first = position as usize / size_of::<AtomicU64>() % WORDS_OF_DATA;
        let end = first + bytes as usize / size_of::<AtomicU64>();
        let lines = (first / WORDS_OF_LINE * WORDS_OF_LINE..end).step_by(WORDS_OF_LINE);
        lines.filter_map(move |line| payload.get(line.max(first) % WORDS_OF_DATA))
    }

    /// Copies `count` words out from `position` on, around the end, to the end of `out`.
    pub(super) fn copy_out(&self, direction: Direction, position: u32, count: usize, out: &mut Vec<u64>) {
        let (behind, before) = self.payload_from(direction, position);
        let first = behind.get(..count).unwrap_or(behind);
        out.extend(first.iter().map(|word| word.load(Ordering::Relaxed)));
        let second = count.saturating_sub(first.len());
        if second > 0 {
            out.extend(before.iter().take(second).map(|word| word.load(Ordering::Relaxed)));
        }
    }

    /// The words of the payload from `position` to their end, and those from their beginning up to there, which follow them.
    fn payload_from(&self, direction: Direction, position: u32) -> (&[AtomicU64], &[AtomicU64]) {
        let payload = &self.records(direction).payload;
        // The remainder lies within.
        let (before, behind) = payload.split_at(position as usize / size_of::<u64>() % WORDS_OF_DATA);
        (behind, before)
    }

    /// How many times the plugin may look before it sleeps.
    pub fn spins(&self) -> u32 {
        self.head().hints.spins.load(Ordering::Relaxed)
    }

    /// Sets that. The VMM's to do.
    pub fn set_spins(&self, spins: u32) {
        self.head().hints.spins.store(spins, Ordering::Relaxed);
    }

    /// About how many looks take a microsecond.
    pub fn spins_a_microsecond(&self) -> u32 {
        self.head().hints.spins_a_microsecond.load(Ordering::Relaxed)
    }

    /// Sets that. The VMM's to do.
    pub fn set_spins_a_microsecond(&self, spins: u32) {
        self.head().hints.spins_a_microsecond.store(spins, Ordering::Relaxed);
    }

    /// The number of the processor on which the plugin's side woke up last, if it says. It may be any number.
    pub fn processor(&self) -> Option<u32> {
        self.head().cpu_hint.processor.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Sets that. The plugin's to do.
    pub fn set_processor(&self, processor: u32) {
        let word = &self.head().cpu_hint.processor;
        let processor = processor.saturating_add(1);
        // Who only reads shares the line.
        if word.load(Ordering::Relaxed) != processor {
            word.store(processor, Ordering::Relaxed);
        }
    }

    /// Whether the VMM has closed the rings.
    pub fn is_closed(&self) -> bool {
        self.words(Direction::ToVmm).is_closed()
    }

    /// Closes both rings, and wakes the plugin wherever it sleeps. The VMM's to do.
    pub fn close(&self) {
        for direction in [Direction::ToPlugin, Direction::ToVmm] {
            let words = self.words(direction);
            words.close();
            super::wake(&words.reader_sleeps.0);
            super::wake(&words.writer_sleeps.0);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, and no reference into it outlives `self`. That it fails cannot
        // happen with them, and would only leak.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), SIZE) };
    }
}
