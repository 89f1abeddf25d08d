//! The writes that KVM coalesces: "coalesced" MMIO and PIO.
#![allow(unsafe_code, reason = "the writes lie in a page that the kernel shares")]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use kvm_bindings::{KVM_CAP_COALESCED_MMIO, KVM_CAP_COALESCED_PIO, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::IoEventAddress;
use parking_lot::Mutex;

use super::run_page::RunPage;
use super::vm::KvmVm;
use super::{refused, system};
use crate::{Access, AddressSpace, Coalescing, PAGE_SIZE, Result, Vm};

/// Entries of the ring (`KVM_COALESCED_MMIO_MAX`). One of them stays empty.
const ENTRIES: u32 = (PAGE_SIZE as u32 - size_of::<kvm_coalesced_mmio_ring>() as u32) / ENTRY_BYTES as u32;
const ENTRY_BYTES: usize = size_of::<kvm_coalesced_mmio>();

/// Where the kernel puts a VM's coalesced writes: a ring. It is the VM's, but it is mapped through a vCPU.
#[derive(Default)]
pub(super) struct Coalesced {
    page: OnceLock<Arc<RunPage>>,
    /// Held while writes are taken: the kernel has one taker in mind.
    taker: Mutex<()>,
}

impl Coalesced {
    /// The VM has a vCPU through whose mapping they are seen. The first one will do.
    pub(super) fn are_seen_through(&self, page: &Arc<RunPage>) {
        self.page.get_or_init(|| Arc::clone(page));
    }

    fn ring(&self) -> Option<Ring<'_>> {
        self.page.get().and_then(|page| Ring::of(page))
    }
}

/// The ring, as long as its page is mapped.
struct Ring<'a> {
    /// The next entry to take: written by the taker.
    first: &'a AtomicU32,
    /// The entry behind the last one: written by the kernel.
    last: &'a AtomicU32,
    entries: *const kvm_coalesced_mmio,
}

impl<'a> Ring<'a> {
    fn of(page: &'a RunPage) -> Option<Self> {
        let base = page.coalesced()?.as_ptr();
        // SAFETY: a page, which begins with these two words, aligned, and stays mapped as long as it is borrowed. Nobody
        // of this process accesses them otherwise.
        let word = |offset: usize| unsafe { AtomicU32::from_ptr(base.add(offset).cast()) };
        Some(Self {
            first: word(offset_of!(kvm_coalesced_mmio_ring, first)),
            last: word(offset_of!(kvm_coalesced_mmio_ring, last)),
            // SAFETY: the entries lie behind the words, in the same page.
            entries: unsafe { base.add(size_of::<kvm_coalesced_mmio_ring>()) }.cast(),
        })
    }

    fn is_empty(&self) -> bool {
        self.first.load(Ordering::Acquire) == self.last.load(Ordering::Relaxed)
    }

    /// The caller is the only one who takes.
    fn take(&self, into: &mut Vec<Access>) {
        // The kernel writes an entry before it moves `last`, and none behind `first` before that has moved.
        let last = self.last.load(Ordering::Acquire) % ENTRIES;
        let mut at = self.first.load(Ordering::Relaxed) % ENTRIES;
        while at != last {
            // SAFETY: `at` is below the number of entries that the page holds, and the kernel has written this one.
            let entry = unsafe { self.entries.add(at as usize).read() };
            into.extend(access(&entry));
            at = at.wrapping_add(1) % ENTRIES;
        }
        self.first.store(at, Ordering::Release);
    }
}

/// `None` for a length that is no access's; the kernel writes none.
fn access(entry: &kvm_coalesced_mmio) -> Option<Access> {
    // SAFETY: both members of the union are the same integer.
    let space = if unsafe { entry.__bindgen_anon_1.pio } == 0 { AddressSpace::Mmio } else { AddressSpace::Pio };
    Access::write(space, entry.phys_addr, entry.data.get(..entry.len as usize)?)
}

impl Coalescing for KvmVm {
    fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        const CALL: &str = "KVM_REGISTER_COALESCED_MMIO";
        let capability = match space {
            AddressSpace::Pio => KVM_CAP_COALESCED_PIO,
            AddressSpace::Mmio => KVM_CAP_COALESCED_MMIO,
        };
        if self.check_extension(capability) <= 0 {
            return Err(refused(CALL, libc::ENOTTY));
        }
        self.fd.register_coalesced_mmio(address(space, start), len).map_err(system(CALL))
    }

    fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.fd.unregister_coalesced_mmio(address(space, start), len).map_err(system("KVM_UNREGISTER_COALESCED_MMIO"))
    }

    fn has_coalesced(&self) -> bool {
        self.coalesced.ring().is_some_and(|ring| !ring.is_empty())
    }

    fn take_coalesced(&self, into: &mut Vec<Access>) {
        let _taker = self.coalesced.taker.lock();
        if let Some(ring) = self.coalesced.ring() {
            ring.take(into);
        }
    }
}

fn address(space: AddressSpace, start: u64) -> IoEventAddress {
    match space {
        AddressSpace::Pio => IoEventAddress::Pio(start),
        AddressSpace::Mmio => IoEventAddress::Mmio(start),
    }
}
