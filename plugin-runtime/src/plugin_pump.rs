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
    chosen: Option<Chosen>,
}

/// Not behind a pointer: it is stepped at every exit.
#[allow(clippy::large_enum_variant, reason = "there is one a vCPU")]
enum Chosen {
    Pipe(PipePump),
    Ring(RingPump),
}

impl PluginPump {
    pub(crate) fn new(links: Arc<VcpuLinks>, vcpu: usize, stop: StopSignal) -> Self {
        Self { links, vcpu, stop, chosen: None }
    }

    #[cold]
    fn step_other(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        if self.chosen.is_none() {
            self.chosen = self.choose();
        }
        match &mut self.chosen {
            Some(Chosen::Ring(pump)) => pump.step(event, deadline),
            Some(Chosen::Pipe(pump)) => pump.step(event, deadline),
            // There is a channel for each vCPU.
            None => Err(LinkError::HungUp),
        }
    }

    /// On the thread that steps from then on.
    fn choose(&self) -> Option<Chosen> {
        let item_widths = self.links.reports_item_widths();
        if let Some(rings) = self.links.rings() {
            let ring = Arc::clone(rings.get(self.vcpu)?);
            return Some(Chosen::Ring(RingPump::new(ring, item_widths, self.links.polling(), self.stop.clone())));
        }
        let pipes = Arc::clone(self.links.pipes.get(self.vcpu)?);
        Some(Chosen::Pipe(PipePump::new(pipes, item_widths, self.stop.clone())))
    }
}

impl Pump for PluginPump {
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        if let Some(Chosen::Ring(pump)) = &mut self.chosen {
            return pump.step(event, deadline);
        }
        self.step_other(event, deadline)
    }
}
