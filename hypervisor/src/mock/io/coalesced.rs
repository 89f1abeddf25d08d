//! The writes that the mock coalesces.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::{Access, AddressSpace};

/// As many as KVM's page holds: 4096 bytes, less 8 for its indices, hold 170 entries of 24 bytes, and one stays empty.
const ROOM: usize = 169;

/// The ranges of a VM whose writes are coalesced, and those writes.
#[derive(Default)]
pub(in crate::mock) struct Coalesced {
    /// Whether there ever were ranges: without, writes go past here without a lock.
    used: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ranges: Vec<Range>,
    writes: Vec<Access>,
}

#[derive(PartialEq, Eq)]
struct Range {
    space: AddressSpace,
    start: u64,
    len: u32,
}

impl Range {
    fn holds(&self, space: AddressSpace, address: u64, len: usize) -> bool {
        let offset = address.wrapping_sub(self.start);
        self.space == space
            && address >= self.start
            && offset.checked_add(len as u64).is_some_and(|end| end <= self.len.into())
    }
}

impl Coalesced {
    pub(in crate::mock) fn add(&self, space: AddressSpace, start: u64, len: u32) {
        self.inner.lock().ranges.push(Range { space, start, len });
        self.used.store(true, Ordering::SeqCst);
    }

    pub(in crate::mock) fn remove(&self, space: AddressSpace, start: u64, len: u32) {
        let gone = Range { space, start, len };
        self.inner.lock().ranges.retain(|range| *range != gone);
    }

    pub(in crate::mock) fn any(&self) -> bool {
        self.used.load(Ordering::SeqCst) && !self.inner.lock().writes.is_empty()
    }

    pub(in crate::mock) fn take(&self, into: &mut Vec<Access>) {
        into.append(&mut self.inner.lock().writes);
    }

    /// Coalesces a write, if it is to be and there is room.
    pub(in crate::mock) fn takes_write(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        if !self.used.load(Ordering::SeqCst) {
            return false;
        }
        let mut inner = self.inner.lock();
        let Inner { ranges, writes } = &mut *inner;
        if writes.len() >= ROOM || !ranges.iter().any(|range| range.holds(space, address, data.len())) {
            return false;
        }
        // One to eight bytes are an access always.
        writes.extend(Access::write(space, address, data));
        true
    }
}
