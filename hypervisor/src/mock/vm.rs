//! A VM of the mock.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Scripts;
use super::memory::Memory;
use super::vcpu::SoftVcpu;
use crate::{Error, GuestMemoryRegion, Result, SlotId, Vcpu, VcpuId, Vm};

pub(super) struct SoftVm {
    scripts: Arc<Scripts>,
    memory: Arc<Memory>,
    made: Mutex<BTreeSet<VcpuId>>,
}

impl SoftVm {
    pub(super) fn new(scripts: Arc<Scripts>) -> Self {
        Self { scripts, memory: Arc::default(), made: Mutex::default() }
    }
}

impl Vm for SoftVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        if !self.made.lock().insert(id) {
            let source = io::Error::from_raw_os_error(libc::EEXIST);
            return Err(Error::System { what: "making a vCPU whose id is taken", source });
        }
        Ok(Box::new(SoftVcpu::new(id, (self.scripts)(id), Arc::clone(&self.memory))))
    }

    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        self.memory.map(region)
    }

    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        self.memory.unmap(slot)
    }
}
