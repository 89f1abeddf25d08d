//! A vCPU's pump, of the kind that the plugin has chosen by the start.

use std::sync::Arc;
use std::time::Instant;

use vmm_core::{Command, Event, LinkError, Pump, StopSignal};

use crate::pipe_pump::PipePump;
use crate::ring_pump::RingPump;
use crate::vcpu_links::VcpuLinks;

/// A pump that becomes what it is at its first event, which is behind the start.
pub(crate) struct PluginPump {
    links: Arc<VcpuLinks>,
    vcpu: usize,
    stop: StopSignal,
    chosen: Option<Box<dyn Pump>>,
}

impl PluginPump {
    pub(crate) fn new(links: Arc<VcpuLinks>, vcpu: usize, stop: StopSignal) -> Self {
        Self { links, vcpu, stop, chosen: None }
    }

    fn choose(&self) -> Option<Box<dyn Pump>> {
        if let Some(rings) = self.links.rings() {
            let ring = Arc::clone(rings.get(self.vcpu)?);
            return Some(Box::new(RingPump::new(ring, self.links.polling(), self.stop.clone())));
        }
        let pipes = Arc::clone(self.links.pipes.get(self.vcpu)?);
        Some(Box::new(PipePump::new(pipes, self.stop.clone())))
    }
}

impl Pump for PluginPump {
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        if self.chosen.is_none() {
            self.chosen = self.choose();
        }
        // There is a channel for each vCPU.
        self.chosen.as_mut().ok_or(LinkError::HungUp)?.step(event, deadline)
    }
}
