//! Registers that a handler sets while a read is pending.
//!
//! KVM drops the data of a read when registers are set before the read is completed. So they are kept until it is completed, and
//! then only the fields that the handler changed are applied: the result of the read and its new instruction pointer stay.

use hypervisor::{Result, Vcpu, kvm_debugregs, kvm_regs, kvm_sregs};

use crate::register_prefetch::RegisterSet;

/// What was returned to the handler, and what it set, since the exit of the read.
#[derive(Debug, Default)]
pub(crate) struct DeferredRegs {
    regs: Change<kvm_regs>,
    sregs: Change<Box<kvm_sregs>>,
    debug_regs: Option<Box<kvm_debugregs>>,
}

#[derive(Debug)]
struct Change<T> {
    /// As it was first returned to the handler, if that was before it was set.
    returned: Option<T>,
    set: Option<T>,
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self { returned: None, set: None }
    }
}

impl<T: Clone> Change<T> {
    fn get(&mut self, current: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(set) = &self.set {
            return Ok(set.clone());
        }
        let current = current()?;
        self.returned.get_or_insert_with(|| current.clone());
        Ok(current)
    }
}

impl DeferredRegs {
    /// True where nothing was set.
    pub(crate) fn is_empty(&self) -> bool {
        self.regs.set.is_none() && self.sregs.set.is_none() && self.debug_regs.is_none()
    }

    /// The registers as the handler should see them.
    pub(crate) fn regs(&mut self, vcpu: &dyn Vcpu) -> Result<kvm_regs> {
        self.regs.get(|| vcpu.regs())
    }

    /// Registers that were attached count as returned only if the handler accessed them.
    pub(crate) fn forget_unaccessed(&mut self, attached: RegisterSet, accessed: RegisterSet) {
        if attached.regs && !accessed.regs {
            self.regs.returned = None;
        }
        if attached.sregs && !accessed.sregs {
            self.sregs.returned = None;
        }
    }

    /// The segment and control registers as the handler should see them.
    pub(crate) fn sregs(&mut self, vcpu: &dyn Vcpu) -> Result<Box<kvm_sregs>> {
        self.sregs.get(|| vcpu.sregs().map(Box::new))
    }

    /// The debug registers as the handler should see them.
    pub(crate) fn debug_regs(&self, vcpu: &dyn Vcpu) -> Result<Box<kvm_debugregs>> {
        self.debug_regs.clone().map_or_else(|| vcpu.debug_regs().map(Box::new), Ok)
    }

    pub(crate) fn set_regs(&mut self, regs: kvm_regs) {
        self.regs.set = Some(regs);
    }

    pub(crate) fn set_sregs(&mut self, sregs: Box<kvm_sregs>) {
        self.sregs.set = Some(sregs);
    }

    /// Debug registers do not affect the read. Those of a resume are kept only to be set after the others.
    pub(crate) fn set_debug_regs(&mut self, debug_regs: Box<kvm_debugregs>) {
        self.debug_regs = Some(debug_regs);
    }

    /// Debug registers were set immediately, and replace those of an earlier resume.
    pub(crate) fn drop_debug_regs(&mut self) {
        self.debug_regs = None;
    }

    /// Applies what was set, now that the read is complete.
    pub(crate) fn apply(self, vcpu: &mut dyn Vcpu) -> Result<()> {
        if let Some(set) = self.regs.set {
            let regs = match self.regs.returned {
                Some(returned) => merge(vcpu.regs()?, &returned, &set),
                None => set,
            };
            vcpu.set_regs(&regs)?;
        }
        if let Some(set) = self.sregs.set {
            let sregs = match self.sregs.returned {
                Some(returned) => Box::new(merge(vcpu.sregs()?, &*returned, &*set)),
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

/// `now`, with each 64-bit word in which `set` differs from `returned` taken from `set`. The kernel's register structures
/// are rows of such words: a register each, or the base or the rest of a segment.
fn merge<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>(mut now: T, returned: &T, set: &T) -> T {
    const WORD: usize = size_of::<u64>();
    let words = now.as_mut_bytes().chunks_mut(WORD);
    for ((now, returned), set) in words.zip(returned.as_bytes().chunks(WORD)).zip(set.as_bytes().chunks(WORD)) {
        if returned != set {
            now.copy_from_slice(set);
        }
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_fields_are_merged() {
        let returned = kvm_regs { rax: 1, rbx: 2, rip: 0x1000, ..Default::default() };
        let set = kvm_regs { rbx: 3, ..returned };
        // The read has put its data into RAX and moved RIP.
        let now = kvm_regs { rax: 0xff, rip: 0x1002, ..returned };
        let merged = merge(now, &returned, &set);
        assert_eq!(merged, kvm_regs { rax: 0xff, rbx: 3, rip: 0x1002, ..returned });
    }

    #[test]
    fn a_changed_segment_is_merged_and_others_stay() {
        let returned = kvm_sregs::default();
        let mut set = returned;
        set.ds.base = 0x1230;
        let mut now = returned;
        (now.cs.base, now.cr0) = (7, 8);
        let merged = merge(now, &returned, &set);
        assert_eq!((merged.ds.base, merged.cs.base, merged.cr0), (0x1230, 7, 8));
    }
}
