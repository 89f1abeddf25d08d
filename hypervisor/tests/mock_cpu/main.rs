//! The mock's processor, against tables of known results. Broad proof is the comparison with KVM.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helper fails the test by panicking")]

mod arithmetic;
mod blocks;
mod debugging;
mod exceptions;
mod exits;
mod fpu;
mod garbage;
mod leading;
mod long_mode;
mod modes;
mod privilege;
mod strings;
mod threads;
mod time;

use std::os::fd::OwnedFd;

use hypervisor::mock::{Mock, SoftVcpu, SoftVm, Stop};
use hypervisor::{VcpuId, VcpuState, Vm, kvm_regs, kvm_sregs};
use test_utils::guest::ENTRY;
use test_utils::memory;

/// RAM lies at 0 and has 64 KiB; above it there is nothing.
const RAM_LEN: u64 = 0x1_0000;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
/// The flags that arithmetic sets.
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// A vCPU of the mock with its memory.
struct Machine {
    vm: SoftVm,
    vcpu: SoftVcpu,
    ram: OwnedFd,
}

impl Machine {
    /// In real mode, all segments at 0, about to execute `code`. The stack begins at 0x8000.
    fn new(code: &[u8]) -> Self {
        Self::on(&Mock::guest_code(), code)
    }

    /// The same on a mock that was set up otherwise.
    fn on(mock: &Mock, code: &[u8]) -> Self {
        let vm = mock.create_soft_vm().expect("create_soft_vm");
        let (region, ram) = memory::region(0, RAM_LEN);
        memory::write_at(&ram, ENTRY, code);
        vm.map_memory(region).unwrap();
        let mut vcpu = vm.create_soft_vcpu(VcpuId(0)).unwrap();
        test_utils::guest::boot(&mut vcpu);
        let mut machine = Self { vm, vcpu, ram };
        machine.set(|regs| regs.rsp = 0x8000);
        machine
    }

    fn regs(&self) -> kvm_regs {
        self.vcpu.regs().unwrap()
    }

    fn set(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        let mut regs = self.regs();
        change(&mut regs);
        self.vcpu.set_regs(&regs).unwrap();
    }

    fn set_sregs(&mut self, change: impl FnOnce(&mut kvm_sregs)) {
        let mut sregs = self.vcpu.sregs().unwrap();
        change(&mut sregs);
        self.vcpu.set_sregs(&sregs).unwrap();
    }

    fn write(&self, address: u64, data: &[u8]) {
        memory::write_at(&self.ram, address, data);
    }

    fn read<const LEN: usize>(&self, address: u64) -> [u8; LEN] {
        memory::read_at(&self.ram, address, LEN).try_into().unwrap()
    }

    fn read_word(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }

    /// Executes to the first `hlt`.
    fn run(&mut self) -> kvm_regs {
        assert_eq!(self.vcpu.run_to(&[]).unwrap(), Stop::Idle, "{:?}", self.regs());
        self.regs()
    }
}

/// The registers after `code` and a `hlt`.
fn after(code: &[u8], set: impl FnOnce(&mut kvm_regs)) -> kvm_regs {
    let mut machine = Machine::new(&[code, &[0xf4]].concat());
    machine.set(set);
    machine.run()
}
