//! Which accesses come with registers attached.

use hypervisor::{Access, AddressSpace, Direction, kvm_regs};

/// An owner's hint that it will look at the registers at one access, which saves it from asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHint {
    /// Port or memory.
    pub space: AddressSpace,
    /// The access's first byte.
    pub address: u64,
    /// Reads or writes.
    pub direction: Direction,
    /// What more is attached; the first that matches counts.
    pub details: Vec<HintDetail>,
}

/// Registers to attach when some general registers have certain values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintDetail {
    /// The value RAX must have.
    pub rax: Option<u64>,
    /// The value RBX must have.
    pub rbx: Option<u64>,
    /// The value RCX must have.
    pub rcx: Option<u64>,
    /// The value RDX must have.
    pub rdx: Option<u64>,
    /// Attach segment and control registers.
    pub sregs: bool,
    /// Attach debug registers.
    pub debug_regs: bool,
}

impl CallHint {
    pub(crate) fn is_about(&self, access: &Access) -> bool {
        (self.space, self.address, self.direction) == (access.space(), access.address(), access.direction())
    }

    /// The first detail that matches these registers.
    pub(crate) fn detail(&self, regs: &kvm_regs) -> Option<HintDetail> {
        self.details.iter().find(|detail| detail.matches(regs)).copied()
    }
}

impl HintDetail {
    fn matches(&self, regs: &kvm_regs) -> bool {
        let agrees = |wanted: Option<u64>, value: u64| wanted.is_none_or(|wanted| wanted == value);
        agrees(self.rax, regs.rax)
            && agrees(self.rbx, regs.rbx)
            && agrees(self.rcx, regs.rcx)
            && agrees(self.rdx, regs.rdx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_detail_whose_registers_agree_counts() {
        let any = HintDetail { debug_regs: true, ..HintDetail::default() };
        let both = HintDetail { rax: Some(1), rdx: Some(2), sregs: true, ..HintDetail::default() };
        let hint =
            CallHint { space: AddressSpace::Pio, address: 1, direction: Direction::Write, details: vec![both, any] };
        let regs = |rax, rdx| kvm_regs { rax, rdx, ..Default::default() };
        assert_eq!(hint.detail(&regs(1, 2)), Some(both));
        assert_eq!(hint.detail(&regs(1, 3)), Some(any));
        let none = CallHint { details: vec![both], ..hint };
        assert_eq!(none.detail(&regs(2, 2)), None);
    }
}
