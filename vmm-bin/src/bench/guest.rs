//! The guests of the benchmark: one exit over and over.

use std::os::fd::AsFd;

use clap::ValueEnum;
use hypervisor::{GuestAddress, GuestMemoryRegion, Vm, kvm_regs, kvm_sregs};
use plugin_sdk::GuestMemory;

use crate::error::Failure;

/// The port that every exit is for.
pub(super) const PORT: u8 = 0x10;
/// What every read is answered with.
pub(super) const ANSWER: u8 = 0x5a;
/// Where the program lies and begins in guest memory.
pub(super) const ENTRY: u64 = 0x1000;

/// What the guest does for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Writes a byte to a port
    SyncWrite,
    /// Reads a byte from a port
    SyncRead,
}

impl Case {
    pub(super) const ALL: [Self; 2] = [Self::SyncWrite, Self::SyncRead];

    /// What people call it, on the command line too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SyncWrite => "sync-write",
            Self::SyncRead => "sync-read",
        }
    }

    /// 16-bit code.
    fn code(self) -> [u8; 4] {
        match self {
            Self::SyncWrite => [
                0xe6, PORT, //  again: out PORT, al
                0xeb, 0xfc, //         jmp again
            ],
            Self::SyncRead => [
                0xe4, PORT, //  again: in al, PORT
                0xeb, 0xfc, //         jmp again
            ],
        }
    }

    /// Guest memory with the program in it, to be seen from address 0 on.
    pub(super) fn memory(self) -> Result<GuestMemory, plugin_sdk::Error> {
        let memory = GuestMemory::new(0x2000)?;
        memory.write(ENTRY, &self.code())?;
        Ok(memory)
    }

    /// Gives a VM of this process that memory.
    pub(super) fn load(self, vm: &dyn Vm) -> Result<(), Failure> {
        let memory = self.memory()?;
        let memfd = memory.as_fd().try_clone_to_owned()?;
        vm.map_memory(GuestMemoryRegion::new(GuestAddress(0), memfd, 0, memory.size())?)?;
        Ok(())
    }
}

/// The code segment of 16-bit real mode that begins at 0.
pub(super) fn enter_real_mode(sregs: &mut kvm_sregs) {
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
}

/// The first registers: bit 1 of the flags is always set (Intel SDM volume 1, 3.4.3).
pub(super) fn regs() -> kvm_regs {
    kvm_regs { rip: ENTRY, rflags: 2, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_one_name_here_and_on_the_command_line() {
        for case in Case::ALL {
            assert_eq!(Case::from_str(case.name(), false), Ok(case));
        }
    }
}
