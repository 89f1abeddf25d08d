//! What a virtual machine, a virtual CPU and an exit are, and two backends that make them.
//!
//! The traits [`Hypervisor`], [`Vm`] (with [`Irqs`], [`VmState`] and [`Coalescing`]) and [`Vcpu`] (with [`VcpuState`]) are all that the
//! rest of Outboard knows of virtualization.
//! Two backends stand behind them:
//!
//! * [`kvm::Kvm`] runs guests on `/dev/kvm`;
//! * [`mock::Mock`] needs no device. It keeps memory slots and vCPU state of its own, obeys the rules KVM obeys,
//!   and interprets the guest's code.
//!
//! A vCPU is driven by [`Vcpu::run`], which returns an [`Exit`]. A guest's read is answered with [`Vcpu::answer`]
//! before the next `run`. Any thread may end a `run` with the vCPU's [`Kick`].
//!
//! State types (`kvm_regs` and the like) are the kernel's own, from `kvm-bindings`, because the plugin protocol
//! carries them as they are.
//!
//! x86-64 Linux only.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("Outboard runs on x86-64 Linux only");

mod backend;
mod diagnosis;
mod error;
mod exit;
mod ioevent;
mod kick;
pub mod kvm;
mod memory;
pub mod mock;
mod pending;

pub use backend::{
    Capability, Coalescing, Gsi, Hypervisor, Irqs, Pic, Route, SlotId, Vcpu, VcpuId, VcpuState, Vm, VmState,
};
#[cfg(feature = "mockall")]
pub use backend::{MockHypervisor, MockVcpu, MockVm};
pub use diagnosis::{Diagnosis, GuestState};
pub use error::{Error, MemoryProblem, ReadProblem, Result};
pub use exit::{Access, AddressSpace, Direction, Exit, InternalError, MAX_ACCESS_BYTES, SynicWrite};
pub use ioevent::IoEvent;
pub use kick::Kick;
pub use kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
pub use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pic_state, kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
pub use memory::{GuestMemoryRegion, PAGE_SIZE};
pub use vm_memory::{GuestAddress, MmapRegion};
pub use vmm_sys_util::eventfd::EventFd;
