//! The backend that needs no device.
//!
//! It keeps memory slots, vCPU state and kicks of its own and obeys the rules that KVM obeys, so that what lies above
//! can be tested anywhere. Its vCPUs execute what lies in guest memory ([`Mock::guest_code`]), or follow a [`Script`].
//!
//! What has a model, and how far it goes:
//!
//! * the processor: `docs/mock-cpu.md` says which instructions and modes it knows. A [`SoftVcpu`] can be led step by step,
//!   several of them in [`Lockstep`];
//! * memory: slots, read-only ones, and exact dirty logs. Where a script's `ins` puts its data is not kept;
//! * ioeventfds: as KVM's, signalled by matching writes instead of an exit, each byte of an `outs` by itself;
//! * writes that are coalesced: as KVM's, with room for as many;
//! * interrupts: a level for each GSI, raised by `set_irq` and irqfds, which goes to the pins of the PICs and the IOAPIC, or to
//!   the message, that it is routed to. A vCPU that executes guest code takes them from the PICs, where its local APIC lets them
//!   through, and from its local APIC. The end of an interrupt, or a script's [`Step::Acknowledge`], lowers what irqfds raised
//!   and signals their resample events;
//! * PICs, IOAPIC, local APICs, PIT, clock, and all of a vCPU's state: begin as KVM's do, are kept as set, and are refused where KVM
//!   refuses them. PIT, local APIC timers, time-stamp counters and kvmclock read one clock, which a [`Clock`] moves;
//! * CPUID and MSRs: an x86-64-v1 processor of its own. Reserved bits are refused;
//! * Hyper-V: its exits, made by [`Step::HypervCall`] and [`Step::Exit`].

mod atomic;
mod cpu;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod irq;
mod lockstep;
mod memory;
mod model;
mod reset;
mod script;
mod vcpu;
mod vm;
mod work;

use std::sync::Arc;

use kvm_bindings::kvm_cpuid_entry2;

pub use cpu::Executed;
pub use irq::time_source::Clock;
pub use lockstep::Lockstep;
use model::{cpuid, msrs};
pub use script::{Script, Step};
pub use vcpu::{SoftVcpu, Stop};
pub use vm::SoftVm;
pub use work::{OutstandingWork, WorkToken};

use crate::{Error, Hypervisor, Result, VcpuId, Vm};

/// A hypervisor of software.
pub struct Mock {
    scripts: Arc<Scripts>,
    is_scripted: bool,
    clock: Clock,
    work: OutstandingWork,
}

/// What each vCPU is to do; without a script it executes the guest's code.
type Scripts = dyn Fn(VcpuId) -> Option<Script> + Send + Sync;

impl Mock {
    /// Every vCPU executes what lies in guest memory.
    pub fn guest_code() -> Self {
        Self::following(Arc::new(|_| None), false)
    }

    /// Every vCPU follows `script`, each at its own pace.
    pub fn new(script: Script) -> Self {
        Self::with(move |_| script.clone())
    }

    /// Each vCPU follows the script that `scripts` gives for it.
    pub fn with(scripts: impl Fn(VcpuId) -> Script + Send + Sync + 'static) -> Self {
        Self::following(Arc::new(move |id| Some(scripts(id))), true)
    }

    fn following(scripts: Arc<Scripts>, is_scripted: bool) -> Self {
        Self { scripts, is_scripted, clock: Clock::Virtual, work: OutstandingWork::default() }
    }

    /// Sets what moves the clocks of VMs made from now on. Without it they are [virtual](Clock::Virtual), so that runs are the same
    /// each time.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Returns what devices in this process tell of their work, for virtual clocks.
    pub fn outstanding_work(&self) -> OutstandingWork {
        self.work.clone()
    }

    /// [`Hypervisor::create_vm`], with all that a VM of the mock can do.
    ///
    /// # Errors
    ///
    /// What the kernel says where it has no descriptor left.
    pub fn create_soft_vm(&self) -> Result<SoftVm> {
        let vm = SoftVm::new(Arc::clone(&self.scripts), self.is_scripted, self.clock)?;
        self.work.add(vm.platform());
        Ok(vm)
    }
}

impl Hypervisor for Mock {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(self.create_soft_vm()?))
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        Ok(cpuid::supported())
    }

    fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        Ok(cpuid::emulated())
    }

    fn msr_indices(&self) -> Result<Vec<u32>> {
        Ok(msrs::indices())
    }
}

/// What the kernel's call `what` would say.
fn refused(what: &'static str, errno: i32) -> Error {
    Error::System { what, source: std::io::Error::from_raw_os_error(errno) }
}
