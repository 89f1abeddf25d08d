//! The backend that runs guests on `/dev/kvm`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod coalesced;
mod irqs;
mod memory;
mod queries;
mod run_page;
mod signal;
mod vcpu;
mod vcpu_state;
mod vm;
mod vm_state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Kvm as KvmFd;

use crate::{Error, Hypervisor, Result, Vm};

/// The one version of KVM's interface there is since Linux 2.6.22 (kernel documentation, KVM API, 4.1).
const API_VERSION: i32 = 12;

/// An opened KVM device.
pub struct Kvm {
    fd: KvmFd,
    path: PathBuf,
    huge_pages: bool,
}

impl Kvm {
    /// Where the device is found unless another is named.
    pub const DEVICE: &str = "/dev/kvm";

    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(Self::DEVICE))
    }

    /// Opens the KVM device at `path`.
    ///
    /// vCPUs are kicked by SIGURG. A program's own handler of it stays; where there is none, one is installed that does
    /// nothing. The signal is unblocked in each thread that runs a vCPU; such a thread must leave it so.
    pub fn open_at(path: &Path) -> Result<Self> {
        let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|nul| Error::System { what: "opening the KVM device", source: io::Error::other(nul) })?;
        let fd = KvmFd::new_with_path(&c_path).map_err(system("opening the KVM device"))?;
        // Any file opens; only KVM's has its ioctls, and their meaning is fixed by this version.
        if fd.get_api_version() != API_VERSION {
            return Err(Error::System { what: "KVM_GET_API_VERSION", source: io::ErrorKind::Unsupported.into() });
        }
        signal::ensure_kick_handler()?;
        Ok(Self { fd, path: path.to_owned(), huge_pages: false })
    }

    /// Advises the kernel to back the guest memory of VMs made from now on by huge pages (`MADV_HUGEPAGE`), where the
    /// plugin left that open. The kernel follows for shared memory as its setting
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says.
    #[must_use]
    pub fn with_huge_pages(self) -> Self {
        Self { huge_pages: true, ..self }
    }
}

impl std::fmt::Debug for Kvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kvm").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(vm::KvmVm::new(&self.fd, self.huge_pages)?))
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        queries::cpuid("KVM_GET_SUPPORTED_CPUID", |room| self.fd.get_supported_cpuid(room))
    }

    fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        queries::cpuid("KVM_GET_EMULATED_CPUID", |room| self.fd.get_emulated_cpuid(room))
    }

    fn msr_indices(&self) -> Result<Vec<u32>> {
        queries::msr_indices(&self.fd)
    }
}

/// Turns an errno of kvm-ioctls into an error that names the call.
fn system(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |errno| Error::System { what, source: errno.into() }
}

/// A refusal that the kernel would have given, had it been asked.
fn refused(what: &'static str, errno: i32) -> Error {
    Error::System { what, source: io::Error::from_raw_os_error(errno) }
}
