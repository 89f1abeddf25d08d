//! The shared memory of a vCPU's two rings.
//!
//! It is touched as atomics alone: the peer changes it at any time, so no reference to plain memory in it may exist.

#![allow(unsafe_code, reason = "shared memory is mapped, and seen as atomics")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::index::{CLOSED, Words};
use super::{CAPACITY, DATA_OFFSET, SIZE};

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
}

/// What the VMM lets the plugin know, on lines that change rarely.
#[repr(C, align(128))]
pub(super) struct Hints {
    /// How many times the plugin may look at a ring before it sleeps.
    spins: AtomicU32,
    /// About how many of those take a microsecond.
    spins_a_microsecond: AtomicU32,
}

const WORDS_OF_DATA: usize = CAPACITY as usize / size_of::<AtomicU64>();

type Data = [AtomicU64; WORDS_OF_DATA];

const _: () = assert!(size_of::<Head>() <= DATA_OFFSET && DATA_OFFSET.is_multiple_of(align_of::<Data>()));
const _: () = assert!(DATA_OFFSET + 2 * size_of::<Data>() == SIZE);

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

    fn data(&self, direction: Direction) -> &Data {
        let offset = match direction {
            Direction::ToPlugin => DATA_OFFSET,
            Direction::ToVmm => DATA_OFFSET + size_of::<Data>(),
        };
        // SAFETY: both rings' bytes lie aligned within the mapping, as is asserted above; else as for `head`.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// Copies `bytes` in from `position` on, around the ring's end, the last word filled up with zeros.
    pub(super) fn copy_in(&self, direction: Direction, position: u32, bytes: &[u8]) {
        let data = self.data(direction);
        let first = position as usize / size_of::<u64>();
        let put = |index: usize, word: [u8; 8]| {
            // The remainder lies within.
            if let Some(to) = data.get(index % WORDS_OF_DATA) {
                to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
            }
        };
        let (words, rest) = bytes.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            put(first.wrapping_add(index), *word);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            put(first.wrapping_add(words.len()), last);
        }
    }

    /// Copies `words` words out from `position` on, to the end of `out`.
    pub(super) fn copy_out(&self, direction: Direction, position: u32, words: usize, mut out: impl FnMut([u8; 8])) {
        let data = self.data(direction);
        let first = position as usize / size_of::<u64>();
        for index in 0..words {
            if let Some(from) = data.get(first.wrapping_add(index) % WORDS_OF_DATA) {
                out(from.load(Ordering::Relaxed).to_ne_bytes());
            }
        }
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

    /// Closes both rings on the VMM's side, and wakes the plugin wherever it sleeps.
    pub fn close_by_vmm(&self) {
        for word in [&self.words(Direction::ToPlugin).tail.0, &self.words(Direction::ToVmm).head.0] {
            word.fetch_or(CLOSED, Ordering::SeqCst);
            super::wake(word);
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
