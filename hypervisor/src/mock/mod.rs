//! The backend that needs no device.
//!
//! It keeps memory slots, vCPU state and kicks of its own and obeys the rules that KVM obeys, so that what lies above
//! can be tested anywhere. What its vCPUs do is said by a [`Script`].

mod memory;
mod reset;
mod script;
mod vcpu;
mod vm;

use std::sync::Arc;

pub use script::{Script, Step};

use crate::{Hypervisor, Result, VcpuId, Vm};

/// A hypervisor of software.
pub struct Mock {
    scripts: Arc<Scripts>,
}

/// What each vCPU is to do.
type Scripts = dyn Fn(VcpuId) -> Script + Send + Sync;

impl Mock {
    /// Every vCPU follows `script`, each at its own pace.
    pub fn new(script: Script) -> Self {
        Self::with(move |_| script.clone())
    }

    /// Each vCPU follows the script that `scripts` gives for it.
    pub fn with(scripts: impl Fn(VcpuId) -> Script + Send + Sync + 'static) -> Self {
        Self { scripts: Arc::new(scripts) }
    }
}

impl Hypervisor for Mock {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(vm::SoftVm::new(Arc::clone(&self.scripts))))
    }
}
