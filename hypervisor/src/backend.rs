//! The traits a backend implements.

use std::fmt;
use std::sync::Arc;

use kvm_bindings::{kvm_mp_state, kvm_regs, kvm_sregs};

use crate::{Exit, GuestMemoryRegion, Kick, Result};

/// A vCPU's number, from 0; also its APIC id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VcpuId(pub u32);

impl VcpuId {
    /// The number as an index.
    pub fn index(self) -> usize {
        // u32 always fits in x86-64's usize.
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A piece of guest memory that is mapped into a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A maker of virtual machines.
#[cfg_attr(feature = "mockall", mockall::automock)]
pub trait Hypervisor: Send + Sync {
    /// What people call it: `kvm`, `mock`.
    fn name(&self) -> &'static str;

    /// Makes a VM with an interrupt controller and a PIT, without memory, without vCPUs.
    fn create_vm(&self) -> Result<Arc<dyn Vm>>;
}

/// A virtual machine: memory and vCPUs.
#[cfg_attr(feature = "mockall", mockall::automock)]
pub trait Vm: Send + Sync {
    /// Makes a vCPU in its state at reset. Each id can be made once; vCPU 0 is runnable, the others wait for a
    /// start-up interrupt unless their MP state is set.
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>>;

    /// Maps memory into the guest. Memory that overlaps what is mapped is refused and changes nothing.
    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId>;

    /// Takes memory away again. The guest's next access there is an exit.
    fn unmap_memory(&self, slot: SlotId) -> Result<()>;
}

/// A virtual CPU, driven by one thread at a time.
///
/// # The rules of an access
///
/// * [`run`](Self::run) that returned an [`Exit::Access`] has left the access unfinished; the next `run` or
///   [`commit`](Self::commit) finishes it first.
/// * A read must be given its data by [`answer`](Self::answer) before that; `run` on an unanswered read is an error.
/// * Registers must not be set between a read's exit and its `commit`: KVM would drop the data. The setters of
///   general, segment and control registers refuse. Within a write's exit they may be set.
/// * Finishing one access may give the next fragment of the same instruction, an access like any other.
///   Only [`Exit::Interrupted`] says that the instruction is done and the state whole.
#[cfg_attr(feature = "mockall", mockall::automock)]
pub trait Vcpu: Send {
    /// Its number.
    fn id(&self) -> VcpuId;

    /// A handle by which any thread can make the current or the next [`run`](Self::run) return
    /// [`Exit::Interrupted`].
    fn kick_handle(&self) -> Kick;

    /// Finishes a pending access, enters the guest, and returns at its next exit. An `Interrupted` that nobody
    /// asked for is legal; a kick outlives exits of other kinds until an `Interrupted` was returned for it.
    fn run(&mut self) -> Result<Exit>;

    /// Finishes a pending access without running the guest: `Interrupted` when all is done, or the next fragment.
    /// A kick that comes meanwhile is kept for the next [`run`](Self::run).
    fn commit(&mut self) -> Result<Exit>;

    /// Gives the data of the pending read: exactly as many bytes as the access is long.
    fn answer(&mut self, data: &[u8]) -> Result<()>;

    /// The bytes of the pending write; empty where there is none.
    fn access_data(&self) -> &[u8];

    /// The general registers. Within an exit: as the kernel shows them there.
    fn regs(&self) -> Result<kvm_regs>;
    /// Sets the general registers.
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()>;
    /// Segment and control registers.
    fn sregs(&self) -> Result<kvm_sregs>;
    /// Sets segment and control registers.
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()>;
    /// Whether the vCPU runs, halts, or waits for a start-up interrupt (`KVM_MP_STATE_*`).
    fn mp_state(&self) -> Result<kvm_mp_state>;
    /// Sets the MP state.
    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()>;
}
