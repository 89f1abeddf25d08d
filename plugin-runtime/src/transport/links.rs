//! The channels between a VM's vCPUs and its plugin: pipes, or the rings that it asked for in their place.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use super::pipes::VcpuPipes;
use super::ring_memory::VcpuRing;
use crate::error::{Error, Result};
use crate::polling::Polling;

/// All channels of a VM. Which of the two kinds carries exits is decided once, before the start.
#[derive(Debug)]
pub(crate) struct VcpuLinks {
    pub(crate) pipes: Vec<Arc<VcpuPipes>>,
    rings: OnceLock<Vec<Arc<VcpuRing>>>,
    /// Whether an access reports the width of its items: negotiated before the start.
    item_widths: AtomicBool,
    /// Ends with this process: nobody else has its other end, and nothing is written into it.
    lifeline: OwnedFd,
    _alive: OwnedFd,
    polling: Polling,
}

impl VcpuLinks {
    pub(crate) fn new(vcpus: u32, poll_us: Option<u32>) -> Result<Self> {
        let pipes = (0..vcpus).map(|_| VcpuPipes::new().map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let (lifeline, alive) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::set_up("making the rings' lifeline"))?;
        // The plugin looks at it without waiting.
        fcntl_setfl(&lifeline, OFlags::NONBLOCK).map_err(Error::set_up("making the rings' lifeline non-blocking"))?;
        Ok(Self {
            pipes,
            rings: OnceLock::new(),
            item_widths: AtomicBool::new(false),
            lifeline,
            _alive: alive,
            polling: Polling::new(vcpus, poll_us),
        })
    }

    pub(crate) fn lifeline(&self) -> std::io::Result<OwnedFd> {
        self.lifeline.try_clone()
    }

    /// The rings, made when they are first asked for: from then on they carry the exits.
    pub(crate) fn make_rings(&self) -> std::io::Result<&[Arc<VcpuRing>]> {
        if let Some(rings) = self.rings.get() {
            return Ok(rings);
        }
        let make = |_: &Arc<VcpuPipes>| {
            let ring = VcpuRing::new()?;
            self.polling.tell(&ring.mapping);
            Ok(Arc::new(ring))
        };
        let rings = self.pipes.iter().map(make).collect::<std::io::Result<Vec<_>>>()?;
        Ok(self.rings.get_or_init(|| rings))
    }

    /// The rings, if they carry the exits.
    pub(crate) fn rings(&self) -> Option<&[Arc<VcpuRing>]> {
        self.rings.get().map(Vec::as_slice)
    }

    /// Sets whether accesses report the width of their items. Counts for vCPUs that start later.
    pub(crate) fn report_item_widths(&self, report: bool) {
        self.item_widths.store(report, Ordering::Release);
    }

    pub(crate) fn reports_item_widths(&self) -> bool {
        self.item_widths.load(Ordering::Acquire)
    }

    pub(crate) fn polling(&self) -> Polling {
        self.polling
    }
}
