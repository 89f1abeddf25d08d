//! Registers that an owner sets while a read is unfinished.
//!
//! KVM drops a read's data when registers are set before the read is completed. So they are kept until it is, and then
//! only what the owner changed is applied: the read's own result, and the instruction pointer it moved, stay.

use hypervisor::{Result, Vcpu, kvm_debugregs, kvm_regs, kvm_sregs};

use crate::prediction::Looks;

/// What was seen and set since the read's exit.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    regs: Change<kvm_regs>,
    sregs: Change<Box<kvm_sregs>>,
    debug_regs: Option<Box<kvm_debugregs>>,
}

#[derive(Debug)]
struct Change<T> {
    /// As the owner saw it first, if it looked before it set.
    seen: Option<T>,
    set: Option<T>,
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self { seen: None, set: None }
    }
}

impl<T: Clone> Change<T> {
    fn get(&mut self, current: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(set) = &self.set {
            return Ok(set.clone());
        }
        let current = current()?;
        self.seen.get_or_insert_with(|| current.clone());
        Ok(current)
    }
}

impl Deferred {
    /// True where nothing was set.
    pub(crate) fn is_empty(&self) -> bool {
        self.regs.set.is_none() && self.sregs.set.is_none() && self.debug_regs.is_none()
    }

    /// The registers as the owner should see them.
    pub(crate) fn regs(&mut self, vcpu: &dyn Vcpu) -> Result<kvm_regs> {
        self.regs.get(|| vcpu.regs())
    }

    /// Registers that were attached count as seen only if they were looked at.
    pub(crate) fn forget_unseen(&mut self, attached: Looks, seen: Looks) {
        if attached.regs && !seen.regs {
            self.regs.seen = None;
        }
        if attached.sregs && !seen.sregs {
            self.sregs.seen = None;
        }
    }

    /// The segment and control registers as the owner should see them.
    pub(crate) fn sregs(&mut self, vcpu: &dyn Vcpu) -> Result<Box<kvm_sregs>> {
        self.sregs.get(|| vcpu.sregs().map(Box::new))
    }

    /// The debug registers as the owner should see them.
    pub(crate) fn debug_regs(&self, vcpu: &dyn Vcpu) -> Result<Box<kvm_debugregs>> {
        self.debug_regs.clone().map_or_else(|| vcpu.debug_regs().map(Box::new), Ok)
    }

    pub(crate) fn set_regs(&mut self, regs: kvm_regs) {
        self.regs.set = Some(regs);
    }

    pub(crate) fn set_sregs(&mut self, sregs: Box<kvm_sregs>) {
        self.sregs.set = Some(sregs);
    }

    /// Debug registers have nothing to do with the read; those of a resume only keep their place behind the others.
    pub(crate) fn set_debug_regs(&mut self, debug_regs: Box<kvm_debugregs>) {
        self.debug_regs = Some(debug_regs);
    }

    /// Debug registers were set at once, in place of those of an earlier resume.
    pub(crate) fn drop_debug_regs(&mut self) {
        self.debug_regs = None;
    }

    /// Applies what was set, now that the read is complete.
    pub(crate) fn apply(self, vcpu: &mut dyn Vcpu) -> Result<()> {
        if let Some(set) = self.regs.set {
            let regs = match self.regs.seen {
                Some(seen) => merge(vcpu.regs()?, &seen, &set),
                None => set,
            };
            vcpu.set_regs(&regs)?;
        }
        if let Some(set) = self.sregs.set {
            let sregs = match self.sregs.seen {
                Some(seen) => Box::new(merge(vcpu.sregs()?, &*seen, &*set)),
                None => set,
            };
            vcpu.set_sregs(&sregs)?;
        }
        if let Some(debug_regs) = self.debug_regs {
            vcpu.set_debug_regs(&debug_regs)?;
        }
        Ok(())
    }
}

/// `now`, with each 64-bit word in which `set` differs from `seen` taken from `set`. The kernel's register structures
/// are rows of such words: a register each, or the base or the rest of a segment.
fn merge<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>(mut now: T, seen: &T, set: &T) -> T {
    const WORD: usize = size_of::<u64>();
    let words = now.as_mut_bytes().chunks_mut(WORD);
    for ((now, seen), set) in words.zip(seen.as_bytes().chunks(WORD)).zip(set.as_bytes().chunks(WORD)) {
        if seen != set {
            now.copy_from_slice(set);
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_owner_changed_is_taken_over() {
        let seen = kvm_regs { rax: 1, rbx: 2, rip: 0x1000, ..Default::default() };
        let set = kvm_regs { rbx: 3, ..seen };
        // The read has put its data into RAX and moved RIP.
        let now = kvm_regs { rax: 0xff, rip: 0x1002, ..seen };
        let merged = merge(now, &seen, &set);
        assert_eq!(merged, kvm_regs { rax: 0xff, rbx: 3, rip: 0x1002, ..seen });
    }

    #[test]
    fn a_changed_segment_is_taken_over_and_its_neighbours_stay() {
        let seen = kvm_sregs::default();
        let mut set = seen;
        set.ds.base = 0x1230;
        let mut now = seen;
        (now.cs.base, now.cr0) = (7, 8);
        let merged = merge(now, &seen, &set);
        assert_eq!((merged.ds.base, merged.cs.base, merged.cr0), (0x1230, 7, 8));
    }
}
