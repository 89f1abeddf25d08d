//! Transports: how the exits of a vCPU reach its plugin process, over pipes or over rings in shared memory.

mod links;
pub(crate) mod message;
mod pipe;
mod pipes;
mod ring;
mod ring_memory;
mod ring_wait;
pub(crate) mod serve;

use std::sync::Arc;
use std::time::Instant;

use vmm_core::{Action, ExitHandler, LinkError, PostedWrite, StopSignal, StoppedVcpu, VcpuExit};

pub(crate) use links::VcpuLinks;
use pipe::PipeHandler;
use ring::RingHandler;

/// Handles the exits of one vCPU by its plugin, over the transport that the plugin has chosen before the start.
pub(crate) struct PluginHandler {
    links: Arc<VcpuLinks>,
    vcpu: usize,
    stop: StopSignal,
    /// Chosen at the first exit, which comes after the start.
    chosen: Option<Chosen>,
}

/// Not behind a pointer: it is used at every exit.
#[allow(clippy::large_enum_variant, reason = "there is one for each vCPU")]
enum Chosen {
    Pipe(PipeHandler),
    Ring(RingHandler),
}

impl PluginHandler {
    pub(crate) fn new(links: Arc<VcpuLinks>, vcpu: usize, stop: StopSignal) -> Self {
        Self { links, vcpu, stop, chosen: None }
    }

    #[cold]
    fn handle_other(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        if self.chosen.is_none() {
            self.chosen = self.choose();
        }
        match &mut self.chosen {
            Some(Chosen::Ring(handler)) => handler.handle(exit, vcpu),
            Some(Chosen::Pipe(handler)) => handler.handle(exit, vcpu),
            // There is a link for each vCPU.
            None => Err(LinkError::Disconnected),
        }
    }

    /// Called on the thread that handles exits from then on.
    fn choose(&self) -> Option<Chosen> {
        let item_widths = self.links.reports_item_widths();
        if let Some(rings) = self.links.rings() {
            let ring = Arc::clone(rings.get(self.vcpu)?);
            return Some(Chosen::Ring(RingHandler::new(ring, item_widths, self.links.polling(), self.stop.clone())));
        }
        let pipes = Arc::clone(self.links.pipes.get(self.vcpu)?);
        Some(Chosen::Pipe(PipeHandler::new(pipes, item_widths, self.stop.clone())))
    }
}

impl ExitHandler for PluginHandler {
    #[inline]
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        if let Some(Chosen::Ring(handler)) = &mut self.chosen {
            return handler.handle(exit, vcpu);
        }
        self.handle_other(exit, vcpu)
    }

    fn post(&mut self, write: PostedWrite, deadline: Option<Instant>) -> Result<(), LinkError> {
        match &mut self.chosen {
            Some(Chosen::Ring(handler)) => handler.post(&write, deadline),
            Some(Chosen::Pipe(handler)) => handler.post(&write, deadline),
            // The first exit of a vCPU is its initialisation.
            None => Err(LinkError::Disconnected),
        }
    }
}
