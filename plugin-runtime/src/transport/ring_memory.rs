//! The memory that a vCPU's rings lie in.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use plugin_proto::ring::{Mapping, SIZE};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// A vCPU's rings. When it is dropped, a plugin that waits on them finds them closed.
#[derive(Debug)]
pub(crate) struct VcpuRing {
    pub(crate) mapping: Arc<Mapping>,
    memfd: OwnedFd,
}

impl VcpuRing {
    /// New memory, which can neither shrink nor grow.
    pub(crate) fn new() -> std::io::Result<Self> {
        let memfd = memfd_create("outboard-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, SIZE as u64)?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Arc::new(Mapping::new(memfd.as_fd())?);
        Ok(Self { mapping, memfd })
    }

    /// A copy of the descriptor, for the plugin.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.memfd.try_clone()
    }
}

impl Drop for VcpuRing {
    fn drop(&mut self) {
        self.mapping.close();
    }
}
