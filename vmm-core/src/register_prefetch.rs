//! Learns at which accesses a handler requests registers, so that they are attached to the access from then on.

use hypervisor::{Access, AddressSpace, Direction};

use crate::state::StateKind;

/// Accesses remembered, a power of two.
const ENTRIES: usize = 64;

/// How often in a row registers are attached without being accessed, until they are no longer attached.
const UNUSED_LIMIT: u8 = 3;

/// Kinds of registers that can be attached to an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterSet {
    /// General registers.
    pub regs: bool,
    /// Segment and control registers.
    pub sregs: bool,
    /// Debug registers.
    pub debug_regs: bool,
}

/// What one vCPU has learned of its handlers. The table has a fixed size: an access replaces another with the same hash.
#[derive(Debug)]
pub(crate) struct RegisterPrefetch {
    entries: Box<[Entry; ENTRIES]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: Option<(AddressSpace, Direction, u64)>,
    /// For each kind: how often it will be attached without being accessed; 0 where it is not attached.
    regs: u8,
    sregs: u8,
    debug_regs: u8,
}

fn key(access: &Access) -> (AddressSpace, Direction, u64) {
    (access.space(), access.direction(), access.address())
}

impl RegisterPrefetch {
    pub(crate) fn new() -> Self {
        Self { entries: Box::new([Entry::default(); ENTRIES]) }
    }

    fn entry(&mut self, access: &Access) -> Option<&mut Entry> {
        let direction = usize::from(access.direction() == Direction::Write);
        // Devices lie at neighbouring ports, or at the beginnings of pages. The remainder is what counts.
        let address = access.address() as usize;
        let at = (address ^ address >> 12).wrapping_mul(2).wrapping_add(direction) % ENTRIES;
        // It lies within.
        self.entries.get_mut(at)
    }

    /// The registers to attach to `access`.
    pub(crate) fn predict(&mut self, access: &Access) -> RegisterSet {
        match self.entry(access) {
            Some(entry) if entry.key == Some(key(access)) => {
                RegisterSet { regs: entry.regs > 0, sregs: entry.sregs > 0, debug_regs: entry.debug_regs > 0 }
            }
            _ => RegisterSet::default(),
        }
    }

    /// The handler requested registers of this kind during `access`.
    pub(crate) fn note_request(&mut self, access: &Access, kind: StateKind) {
        let Some(entry) = self.entry(access) else { return };
        if entry.key != Some(key(access)) {
            *entry = Entry { key: Some(key(access)), ..Entry::default() };
        }
        match kind {
            StateKind::Regs => entry.regs = UNUSED_LIMIT,
            StateKind::Sregs => entry.sregs = UNUSED_LIMIT,
            StateKind::DebugRegs => entry.debug_regs = UNUSED_LIMIT,
            _ => {}
        }
    }

    /// `attached` was attached to `access`, and the handler has accessed `accessed` of it.
    pub(crate) fn note_accesses(&mut self, access: &Access, attached: RegisterSet, accessed: RegisterSet) {
        let Some(entry) = self.entry(access).filter(|entry| entry.key == Some(key(access))) else { return };
        let learn = |credit: &mut u8, attached: bool, accessed: bool| match (attached, accessed) {
            (true, true) => *credit = UNUSED_LIMIT,
            (true, false) => *credit = credit.saturating_sub(1),
            (false, _) => {}
        };
        learn(&mut entry.regs, attached.regs, accessed.regs);
        learn(&mut entry.sregs, attached.sregs, accessed.sregs);
        learn(&mut entry.debug_regs, attached.debug_regs, accessed.debug_regs);
    }
}

impl RegisterSet {
    /// Whether it holds any kind.
    pub fn any(self) -> bool {
        self.regs || self.sregs || self.debug_regs
    }

    /// The kinds of either set.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            regs: self.regs || other.regs,
            sregs: self.sregs || other.sregs,
            debug_regs: self.debug_regs || other.debug_regs,
        }
    }

    /// Adds a kind, if it can be attached.
    pub(crate) fn insert(&mut self, kind: StateKind) {
        match kind {
            StateKind::Regs => self.regs = true,
            StateKind::Sregs => self.sregs = true,
            StateKind::DebugRegs => self.debug_regs = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGS: RegisterSet = RegisterSet { regs: true, sregs: false, debug_regs: false };
    const BOTH: RegisterSet = RegisterSet { regs: true, sregs: true, debug_regs: false };

    fn write(port: u64) -> Access {
        Access::write(AddressSpace::Pio, port, &[0]).unwrap()
    }

    #[test]
    fn requested_registers_are_attached_to_that_access() {
        let mut prefetch = RegisterPrefetch::new();
        assert_eq!(prefetch.predict(&write(0x3f8)), RegisterSet::default());
        prefetch.note_request(&write(0x3f8), StateKind::Regs);
        prefetch.note_request(&write(0x3f8), StateKind::Sregs);
        prefetch.note_request(&write(0x3f8), StateKind::Fpu);
        assert_eq!(prefetch.predict(&write(0x3f8)), BOTH);
        assert_eq!(prefetch.predict(&write(0x3f9)), RegisterSet::default());
        let read = Access::read(AddressSpace::Pio, 0x3f8, 1).unwrap();
        assert_eq!(prefetch.predict(&read), RegisterSet::default());
        let same_slot = write(0x3f8 + ENTRIES as u64 * 4);
        assert_eq!(prefetch.predict(&same_slot), RegisterSet::default());
    }

    #[test]
    fn unaccessed_registers_are_no_longer_attached() {
        let mut prefetch = RegisterPrefetch::new();
        let access = write(1);
        prefetch.note_request(&access, StateKind::Regs);
        prefetch.note_request(&access, StateKind::Sregs);
        for _ in 0..UNUSED_LIMIT {
            assert_eq!(prefetch.predict(&access), BOTH);
            prefetch.note_accesses(&access, BOTH, REGS);
        }
        assert_eq!(prefetch.predict(&access), REGS);
    }

    #[test]
    fn an_access_replaces_another_in_the_fixed_table() {
        let mut prefetch = RegisterPrefetch::new();
        for port in 0..10 * ENTRIES as u64 {
            prefetch.note_request(&write(port), StateKind::Regs);
            assert_eq!(prefetch.predict(&write(port)), REGS);
        }
        assert_eq!(prefetch.predict(&write(0)), RegisterSet::default());
    }
}
