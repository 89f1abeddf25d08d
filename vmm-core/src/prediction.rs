//! Learning which accesses make their owner look at registers, so that these come with the access from then on.

use hypervisor::{Access, AddressSpace, Direction};

use crate::channel::StateKind;

/// Accesses remembered, a power of two.
const ENTRIES: usize = 64;

/// How often in a row registers may come in vain before they no longer do.
const PATIENCE: u8 = 3;

/// Kinds of registers that can come with an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// General registers.
    pub regs: bool,
    /// Segment and control registers.
    pub sregs: bool,
    /// Debug registers.
    pub debug_regs: bool,
}

/// One vCPU's memory of what its owners look at. It has a fixed size: an access takes the place of another with the same hash.
#[derive(Debug)]
pub(crate) struct Predictions {
    entries: Box<[Entry; ENTRIES]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    key: Option<(AddressSpace, Direction, u64)>,
    /// By kind: how often registers are to come in vain yet.
    regs: u8,
    sregs: u8,
    debug_regs: u8,
}

fn key(access: &Access) -> (AddressSpace, Direction, u64) {
    (access.space(), access.direction(), access.address())
}

impl Predictions {
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

    /// What to attach to `access`.
    pub(crate) fn of(&mut self, access: &Access) -> Looks {
        match self.entry(access) {
            Some(entry) if entry.key == Some(key(access)) => {
                Looks { regs: entry.regs > 0, sregs: entry.sregs > 0, debug_regs: entry.debug_regs > 0 }
            }
            _ => Looks::default(),
        }
    }

    /// The owner asked for registers of this kind while `access` waited.
    pub(crate) fn asked(&mut self, access: &Access, kind: StateKind) {
        let Some(entry) = self.entry(access) else { return };
        if entry.key != Some(key(access)) {
            *entry = Entry { key: Some(key(access)), ..Entry::default() };
        }
        match kind {
            StateKind::Regs => entry.regs = PATIENCE,
            StateKind::Sregs => entry.sregs = PATIENCE,
            StateKind::DebugRegs => entry.debug_regs = PATIENCE,
            _ => {}
        }
    }

    /// `attached` came with `access`, and the owner has looked at `seen` of it.
    pub(crate) fn told(&mut self, access: &Access, attached: Looks, seen: Looks) {
        let Some(entry) = self.entry(access).filter(|entry| entry.key == Some(key(access))) else { return };
        let learn = |patience: &mut u8, attached: bool, seen: bool| match (attached, seen) {
            (true, true) => *patience = PATIENCE,
            (true, false) => *patience = patience.saturating_sub(1),
            (false, _) => {}
        };
        learn(&mut entry.regs, attached.regs, seen.regs);
        learn(&mut entry.sregs, attached.sregs, seen.sregs);
        learn(&mut entry.debug_regs, attached.debug_regs, seen.debug_regs);
    }
}

impl Looks {
    /// Whether there is one.
    pub fn any(self) -> bool {
        self.regs || self.sregs || self.debug_regs
    }

    /// Those of one and those of the other.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            regs: self.regs || other.regs,
            sregs: self.sregs || other.sregs,
            debug_regs: self.debug_regs || other.debug_regs,
        }
    }

    /// State of this kind was asked for.
    pub(crate) fn note(&mut self, kind: StateKind) {
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

    const REGS: Looks = Looks { regs: true, sregs: false, debug_regs: false };
    const BOTH: Looks = Looks { regs: true, sregs: true, debug_regs: false };

    fn write(port: u64) -> Access {
        Access::write(AddressSpace::Pio, port, &[0]).unwrap()
    }

    #[test]
    fn what_was_asked_for_once_comes_from_then_on_with_that_access_alone() {
        let mut predictions = Predictions::new();
        assert_eq!(predictions.of(&write(0x3f8)), Looks::default());
        predictions.asked(&write(0x3f8), StateKind::Regs);
        predictions.asked(&write(0x3f8), StateKind::Sregs);
        predictions.asked(&write(0x3f8), StateKind::Fpu);
        assert_eq!(predictions.of(&write(0x3f8)), BOTH);
        assert_eq!(predictions.of(&write(0x3f9)), Looks::default());
        let read = Access::read(AddressSpace::Pio, 0x3f8, 1).unwrap();
        assert_eq!(predictions.of(&read), Looks::default());
        let same_slot = write(0x3f8 + ENTRIES as u64 * 4);
        assert_eq!(predictions.of(&same_slot), Looks::default());
    }

    #[test]
    fn what_comes_in_vain_too_often_no_longer_comes() {
        let mut predictions = Predictions::new();
        let access = write(1);
        predictions.asked(&access, StateKind::Regs);
        predictions.asked(&access, StateKind::Sregs);
        for _ in 0..PATIENCE {
            assert_eq!(predictions.of(&access), BOTH);
            predictions.told(&access, BOTH, REGS);
        }
        assert_eq!(predictions.of(&access), REGS);
    }

    #[test]
    fn an_access_takes_the_place_of_another_and_no_more_than_the_table_is_kept() {
        let mut predictions = Predictions::new();
        for port in 0..10 * ENTRIES as u64 {
            predictions.asked(&write(port), StateKind::Regs);
            assert_eq!(predictions.of(&write(port)), REGS);
        }
        assert_eq!(predictions.of(&write(0)), Looks::default());
    }
}
