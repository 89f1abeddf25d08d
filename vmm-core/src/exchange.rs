//! What a stopped vCPU and its handler exchange at an access.

use hypervisor::{Access, kvm_debugregs, kvm_regs, kvm_sregs};
use smallvec::SmallVec;

use crate::register_prefetch::RegisterSet;

/// What a read returns: up to 16 bytes without an allocation, more only for string instructions.
pub type Bytes = SmallVec<[u8; 16]>;

/// The registers attached to an access, and how the vCPU resumes.
///
/// It goes to the handler with the access and returns with the resume, in one box that each vCPU reuses: nothing of it is allocated or
/// moved at an exit. For an exit without one, the handler makes one.
#[derive(Debug, Default)]
pub struct Exchange {
    /// The written data, where the access has no room for it.
    pub(crate) long: Vec<u8>,
    /// The registers that the [hint](crate::CallHint) of the owner names, or that its handler requested before.
    pub attached: Registers,
    /// The data of a read: missing bytes are zero, surplus bytes are dropped.
    pub data: Bytes,
    /// Registers to set, general ones first, debug registers last.
    pub set: Registers,
    /// Which of the attached registers the handler has accessed; `None` where it never reports that. A handler that reports it gets
    /// registers attached to the accesses at which it requested them before.
    pub accessed: Option<RegisterSet>,
}

impl Exchange {
    /// A resume that returns `data` to a read.
    #[must_use]
    pub fn read_data(data: &[u8]) -> Box<Self> {
        Box::new(Self { data: Bytes::from_slice(data), ..Self::default() })
    }

    /// A resume that sets general registers.
    #[must_use]
    pub fn with_regs(regs: &kvm_regs) -> Box<Self> {
        let mut exchange = Box::<Self>::default();
        exchange.set.put_regs(regs);
        exchange
    }

    /// The data that the guest writes with `access`, which this belongs to; empty for a read.
    #[must_use]
    pub fn write_data<'a>(&'a self, access: &'a Access) -> &'a [u8] {
        access.inline_data().unwrap_or(&self.long)
    }

    /// Empties it, and keeps its allocations.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.long.clear();
        self.attached.clear();
        self.data.clear();
        self.set.clear();
        self.accessed = None;
    }
}

/// The registers of an access or of a resume, each kind present or not. They are in boxes that are kept: most accesses have none, and
/// then the handler reads one cache line.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    present: RegisterSet,
    regs: Option<Box<kvm_regs>>,
    sregs: Option<Box<kvm_sregs>>,
    debug_regs: Option<Box<kvm_debugregs>>,
}

impl Registers {
    /// Which kinds are present.
    #[must_use]
    pub fn present(&self) -> RegisterSet {
        self.present
    }

    /// General registers.
    #[must_use]
    pub fn regs(&self) -> Option<&kvm_regs> {
        self.regs.as_deref().filter(|_| self.present.regs)
    }

    /// Segment and control registers.
    #[must_use]
    pub fn sregs(&self) -> Option<&kvm_sregs> {
        self.sregs.as_deref().filter(|_| self.present.sregs)
    }

    /// Debug registers.
    #[must_use]
    pub fn debug_regs(&self) -> Option<&kvm_debugregs> {
        self.debug_regs.as_deref().filter(|_| self.present.debug_regs)
    }

    /// Puts general registers, all of them: nothing of what was in the box before is left.
    #[inline]
    pub fn put_regs(&mut self, regs: &kvm_regs) {
        self.present.regs = true;
        **self.regs.get_or_insert_default() = *regs;
    }

    /// Puts segment and control registers.
    #[inline]
    pub fn put_sregs(&mut self, sregs: &kvm_sregs) {
        self.present.sregs = true;
        **self.sregs.get_or_insert_default() = *sregs;
    }

    /// Puts debug registers.
    #[inline]
    pub fn put_debug_regs(&mut self, debug_regs: &kvm_debugregs) {
        self.present.debug_regs = true;
        **self.debug_regs.get_or_insert_default() = *debug_regs;
    }

    fn clear(&mut self) {
        self.present = RegisterSet::default();
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::{AddressSpace, Direction};

    use super::*;

    #[test]
    fn a_cleared_exchange_is_empty() {
        let mut exchange = Exchange::read_data(&[1]);
        exchange.long.push(2);
        exchange.attached.put_regs(&kvm_regs { rax: 3, ..Default::default() });
        exchange.set.put_sregs(&kvm_sregs { cr0: 4, ..Default::default() });
        exchange.set.put_debug_regs(&kvm_debugregs { dr7: 5, ..Default::default() });
        exchange.accessed = Some(RegisterSet::default());
        exchange.clear();
        let read = Access::read(AddressSpace::Pio, 1, 1).unwrap();
        assert!(exchange.write_data(&read).is_empty() && exchange.data.is_empty() && exchange.accessed.is_none());
        assert_eq!((exchange.attached.present(), exchange.set.present()), Default::default());
        assert!(exchange.attached.regs().is_none() && exchange.set.sregs().is_none());
    }

    #[test]
    fn short_write_data_is_in_the_access() {
        let exchange = Exchange { long: vec![7; 12], ..Exchange::default() };
        let short = Access::write(AddressSpace::Pio, 1, &[1, 2]).unwrap();
        assert_eq!(exchange.write_data(&short), [1, 2]);
        let long = Access::new(AddressSpace::Pio, 1, Direction::Write, 4, 3).unwrap();
        assert_eq!(exchange.write_data(&long), [7; 12]);
    }
}
