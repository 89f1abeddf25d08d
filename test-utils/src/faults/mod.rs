//! Fault injection: the Nth thing that is asked of a backend, or of the kernel, fails with an errno of the test's choice.
//!
//! There are two ways, for the two sides that can fail:
//!
//! * [`Faulty`] is a backend around another one. Its operations are named as KVM's calls are (`KVM_RUN`, `KVM_IRQFD`, `mmap`),
//!   and one of them is refused. It works on every backend, on every machine.
//! * [`syscalls`] has the kernel itself refuse the Nth system call of a kind (`eventfd2`, `mmap`, `clone`) of one thread and
//!   those it starts.
//!
//! A **sweep** fails each operation of a scenario in turn. First the scenario is run without a fault, which tells how many
//! operations it has; then once for each:
//!
//! ```
//! use hypervisor::mock::Mock;
//! use hypervisor::{Hypervisor, VcpuId};
//! use test_utils::faults::{Faults, Faulty};
//!
//! /// The code under test: it must say what failed.
//! fn start(hypervisor: &dyn Hypervisor) -> Result<(), String> {
//!     let vm = hypervisor.create_vm().map_err(|error| error.to_string())?;
//!     vm.create_vcpu(VcpuId(0)).map_err(|error| format!("vCPU 0: {error}"))?;
//!     Ok(())
//! }
//!
//! let faults = Faults::none();
//! start(&Faulty::new(Mock::guest_code(), &faults)).unwrap();
//! for (n, operation) in (1..).zip(faults.operations()) {
//!     let error = start(&Faulty::new(Mock::guest_code(), &Faults::nth(n, 12))).unwrap_err();
//!     assert!(error.contains(operation), "{error}");
//! }
//! ```

mod backend;
pub mod syscalls;
mod vcpu;
mod vm;

use std::io;
use std::sync::Arc;

use hypervisor::{Error, Result};
use parking_lot::Mutex;

pub use backend::Faulty;

/// Which operation is to fail, and what was asked so far. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    asked: Vec<&'static str>,
    struck: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Of this kind; `None` for any.
    kind: Option<&'static str>,
    /// How many more are asked before and with the one that fails; 0 for the others.
    left: usize,
    errno: i32,
}

impl Faults {
    /// Nothing fails. What is asked is counted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The `n`th operation, from 1, of whatever kind, fails with `errno`.
    #[must_use]
    pub fn nth(n: usize, errno: i32) -> Self {
        Self::of(Fault { kind: None, left: n, errno })
    }

    /// The `n`th operation, from 1, of those that have this name fails with `errno`.
    #[must_use]
    pub fn nth_of(name: &'static str, n: usize, errno: i32) -> Self {
        Self::of(Fault { kind: Some(name), left: n, errno })
    }

    fn of(fault: Fault) -> Self {
        Self { plan: Arc::new(Mutex::new(Plan { fault: Some(fault), ..Plan::default() })) }
    }

    /// The names of all operations that were asked for, in order, the one that failed among them.
    #[must_use]
    pub fn operations(&self) -> Vec<&'static str> {
        self.plan.lock().asked.clone()
    }

    /// What failed; `None` where the operation that was to fail has not been asked for.
    #[must_use]
    pub fn struck(&self) -> Option<&'static str> {
        self.plan.lock().struck
    }

    /// Counts an operation: the errno, if it is to fail.
    pub(crate) fn strike(&self, name: &'static str) -> Option<io::Error> {
        let mut plan = self.plan.lock();
        plan.asked.push(name);
        let fault = plan.fault.as_mut().filter(|fault| fault.left > 0 && fault.kind.is_none_or(|kind| kind == name))?;
        fault.left -= 1;
        if fault.left > 0 {
            return None;
        }
        let errno = fault.errno;
        plan.struck = Some(name);
        Some(io::Error::from_raw_os_error(errno))
    }

    /// Counts an operation, and refuses it if it is to fail.
    pub(crate) fn ask(&self, what: &'static str) -> Result<()> {
        self.strike(what).map_or(Ok(()), |source| Err(Error::System { what, source }))
    }
}
