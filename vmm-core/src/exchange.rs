//! What a vCPU that stands still and an owner say to each other of it.

use hypervisor::{Access, kvm_debugregs, kvm_regs, kvm_sregs};
use smallvec::SmallVec;

use crate::prediction::Looks;

/// What a read returns: up to 16 bytes without an allocation, more only for string instructions.
pub type Bytes = SmallVec<[u8; 16]>;

/// One standstill of a vCPU: what its owner is told with an access, and how the vCPU is to run on.
///
/// It goes to the owner with the access and comes back with the resume, in one box that each vCPU uses again and again: nothing of
/// it is allocated or moved at an exit. An owner that has none, for what is no access, makes one.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What the guest writes, where that is more than lies in the access.
    pub(crate) long: Vec<u8>,
    /// What the owner's [hint](crate::CallHint) asks to be told with the access, or it has been asking for.
    pub attached: Registers,
    /// What a read returns: missing bytes are zero, surplus ones are cut.
    pub data: Bytes,
    /// Registers to set, general ones first, debug registers last.
    pub set: Registers,
    /// Which of the registers that came with the access the owner has looked at; `None` where it never tells. To one who tells,
    /// registers come unasked with the accesses in which it has asked for them.
    pub seen: Option<Looks>,
}

impl Exchange {
    /// A resume that returns `data` to a read.
    #[must_use]
    pub fn answer(data: &[u8]) -> Box<Self> {
        Box::new(Self { data: Bytes::from_slice(data), ..Self::default() })
    }

    /// A resume that sets general registers.
    #[must_use]
    pub fn with_regs(regs: &kvm_regs) -> Box<Self> {
        let mut exchange = Box::<Self>::default();
        exchange.set.put_regs(regs);
        exchange
    }

    /// What the guest writes by `access`, with which this came; empty for a read.
    #[must_use]
    pub fn written<'a>(&'a self, access: &'a Access) -> &'a [u8] {
        access.inline_data().unwrap_or(&self.long)
    }

    /// As new, with the room that it has.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.long.clear();
        self.attached.clear();
        self.data.clear();
        self.set.clear();
        self.seen = None;
    }
}

/// The registers that may come with an access and go with a resume, each kind there or not. They lie in boxes that are kept: most
/// accesses come without, and find what they look at in one cache line.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    there: Looks,
    regs: Option<Box<kvm_regs>>,
    sregs: Option<Box<kvm_sregs>>,
    debug_regs: Option<Box<kvm_debugregs>>,
}

impl Registers {
    /// Which are there.
    #[must_use]
    pub fn there(&self) -> Looks {
        self.there
    }

    /// General registers.
    #[must_use]
    pub fn regs(&self) -> Option<&kvm_regs> {
        self.regs.as_deref().filter(|_| self.there.regs)
    }

    /// Segment and control registers.
    #[must_use]
    pub fn sregs(&self) -> Option<&kvm_sregs> {
        self.sregs.as_deref().filter(|_| self.there.sregs)
    }

    /// Debug registers.
    #[must_use]
    pub fn debug_regs(&self) -> Option<&kvm_debugregs> {
        self.debug_regs.as_deref().filter(|_| self.there.debug_regs)
    }

    /// Puts general registers there, all of them: what was in the box before is never seen.
    #[inline]
    pub fn put_regs(&mut self, regs: &kvm_regs) {
        self.there.regs = true;
        **self.regs.get_or_insert_default() = *regs;
    }

    /// Puts segment and control registers there.
    #[inline]
    pub fn put_sregs(&mut self, sregs: &kvm_sregs) {
        self.there.sregs = true;
        **self.sregs.get_or_insert_default() = *sregs;
    }

    /// Puts debug registers there.
    #[inline]
    pub fn put_debug_regs(&mut self, debug_regs: &kvm_debugregs) {
        self.there.debug_regs = true;
        **self.debug_regs.get_or_insert_default() = *debug_regs;
    }

    fn clear(&mut self) {
        self.there = Looks::default();
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::{AddressSpace, Direction};

    use super::*;

    #[test]
    fn nothing_of_one_exchange_is_left_for_the_next() {
        let mut exchange = Exchange::answer(&[1]);
        exchange.long.push(2);
        exchange.attached.put_regs(&kvm_regs { rax: 3, ..Default::default() });
        exchange.set.put_sregs(&kvm_sregs { cr0: 4, ..Default::default() });
        exchange.set.put_debug_regs(&kvm_debugregs { dr7: 5, ..Default::default() });
        exchange.seen = Some(Looks::default());
        exchange.clear();
        let read = Access::read(AddressSpace::Pio, 1, 1).unwrap();
        assert!(exchange.written(&read).is_empty() && exchange.data.is_empty() && exchange.seen.is_none());
        assert_eq!((exchange.attached.there(), exchange.set.there()), Default::default());
        assert!(exchange.attached.regs().is_none() && exchange.set.sregs().is_none());
    }

    #[test]
    fn what_is_written_lies_in_the_access_if_it_fits_there() {
        let exchange = Exchange { long: vec![7; 12], ..Exchange::default() };
        let short = Access::write(AddressSpace::Pio, 1, &[1, 2]).unwrap();
        assert_eq!(exchange.written(&short), [1, 2]);
        let long = Access::new(AddressSpace::Pio, 1, Direction::Write, 4, 3).unwrap();
        assert_eq!(exchange.written(&long), [7; 12]);
    }
}
