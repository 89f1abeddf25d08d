//! The guests of the benchmark: one exit over and over.

use std::os::fd::AsFd;

use clap::ValueEnum;
use hypervisor::{Access, GuestAddress, GuestMemoryRegion, Vm, kvm_regs, kvm_sregs};
use plugin_sdk::GuestMemory;

use crate::error::Failure;

/// The port of every exit that the guest waits for.
pub(super) const PORT: u8 = 0x10;
/// The port whose writes are posted.
pub(super) const POSTED_PORT: u8 = 0x11;
/// The port whose writes are coalesced.
pub(super) const COALESCED_PORT: u8 = 0x12;
/// The memory address of [`Case::MmioWrite`].
pub(super) const ADDRESS: u16 = 0x8000;
/// What every read is answered with.
pub(super) const ANSWER: u8 = 0x5a;
/// Where the program lies and begins in guest memory.
pub(super) const ENTRY: u64 = 0x1000;

/// Posted writes in a row. The write behind them waits, so that they count when they have arrived.
const POSTED: u16 = 255;

/// Coalesced writes in a row: as many as KVM has room for.
const COALESCED: u16 = 169;

/// What the guest does for ever, and what its exits are answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Writes a byte to a port
    SyncWrite,
    /// Reads a byte from a port
    SyncRead,
    /// Writes a byte to a port; the registers are got and set within
    Regs,
    /// Reads a byte from a port; the registers are got and set within
    RegsRead,
    /// Writes bytes to a port without waiting, and after 255 one that it waits for
    Posted,
    /// Writes bytes to a port whose writes are coalesced, and after 169 one that it waits for
    Coalesced,
    /// Writes a byte to memory that is not there
    #[value(hide = true)]
    MmioWrite,
    /// Halts: there are no exits
    #[value(hide = true)]
    Idle,
}

impl Case {
    /// Those of the table. A further one needs code, whatever its plugin reserves, and how that answers.
    pub(super) const TABLE: [Self; 6] =
        [Self::SyncWrite, Self::SyncRead, Self::Regs, Self::RegsRead, Self::Posted, Self::Coalesced];

    /// What people call it, on the command line too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SyncWrite => "sync-write",
            Self::SyncRead => "sync-read",
            Self::Regs => "regs",
            Self::RegsRead => "regs-read",
            Self::Posted => "posted",
            Self::Coalesced => "coalesced",
            Self::MmioWrite => "mmio-write",
            Self::Idle => "idle",
        }
    }

    /// Whether the guest's exits are among those that can be measured.
    pub(crate) fn has_exits(self) -> bool {
        self != Self::Idle
    }

    /// Whether the one who answers looks at the registers and sets them.
    pub(super) fn sets_registers(self) -> bool {
        matches!(self, Self::Regs | Self::RegsRead)
    }

    /// Whether the guest waits for the answer to this access: it is neither posted nor coalesced, where that can be.
    pub(super) fn waits_for(access: &Access) -> bool {
        ![POSTED_PORT, COALESCED_PORT].map(u64::from).contains(&access.address())
    }

    /// How many posted writes come before each exit that is waited for.
    pub(super) fn posted(self) -> u16 {
        match self {
            Self::Posted => POSTED,
            Self::Coalesced => COALESCED,
            _ => 0,
        }
    }

    /// How many accesses make one sample: posted ones count together with the one that waits for them.
    pub(super) fn accesses_a_sample(self) -> usize {
        usize::from(self.posted()) + 1
    }

    /// How many times the guest is entered for one sample, where writes are `coalesced` or are not.
    pub(super) fn entries_a_sample(self, coalesced: bool) -> usize {
        if coalesced && self == Self::Coalesced { 1 } else { self.accesses_a_sample() }
    }

    /// 16-bit code.
    fn code(self) -> Vec<u8> {
        match self {
            Self::SyncWrite | Self::Regs => vec![
                0xe6, PORT, //  again: out PORT, al
                0xeb, 0xfc, //         jmp again
            ],
            Self::SyncRead | Self::RegsRead => vec![
                0xe4, PORT, //  again: in al, PORT
                0xeb, 0xfc, //         jmp again
            ],
            Self::Posted => many_and_one(POSTED, POSTED_PORT),
            Self::Coalesced => many_and_one(COALESCED, COALESCED_PORT),
            Self::MmioWrite => {
                let [low, high] = ADDRESS.to_le_bytes();
                vec![
                    0xa2, low, high, //  again: mov [ADDRESS], al
                    0xeb, 0xfb, //              jmp again
                ]
            }
            Self::Idle => vec![
                0xf4, //        again: hlt
                0xeb, 0xfd, //         jmp again
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

/// Code that writes to `port` `count` times, then to [`PORT`].
fn many_and_one(count: u16, port: u8) -> Vec<u8> {
    let [low, high] = count.to_le_bytes();
    vec![
        0xb9, low, high, //  again: mov cx, count
        0xe6, port, //       next:  out port, al
        0xe2, 0xfc, //              loop next
        0xe6, PORT, //              out PORT, al
        0xeb, 0xf5, //              jmp again
    ]
}

/// The posted writes since the last exit that was waited for.
#[derive(Debug, Default)]
pub(super) struct Posts(u16);

impl Posts {
    /// One has come.
    pub(super) fn add(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// Whether all have come, at the exit that follows them.
    pub(super) fn are_complete(&mut self, case: Case) -> bool {
        std::mem::take(&mut self.0) == case.posted()
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

/// The change of registers that [`Case::sets_registers`] is about: another value each time.
pub(super) fn change(regs: &mut kvm_regs) {
    regs.rbx = regs.rbx.wrapping_add(1);
}

#[cfg(test)]
mod tests {
    use hypervisor::AddressSpace;

    use super::*;

    #[test]
    fn a_case_has_one_name_here_and_on_the_command_line() {
        for case in Case::value_variants() {
            assert_eq!(Case::from_str(case.name(), false), Ok(*case));
        }
    }

    #[test]
    fn a_guest_waits_for_all_but_posted_and_coalesced_writes() {
        let waits = |port: u8| Case::waits_for(&Access::write(AddressSpace::Pio, port.into(), &[0]).unwrap());
        assert!(waits(PORT) && !waits(POSTED_PORT) && !waits(COALESCED_PORT));
        assert!(Case::waits_for(&Access::write(AddressSpace::Mmio, ADDRESS.into(), &[0]).unwrap()));
    }
}
