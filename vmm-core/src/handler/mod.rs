//! Who handles the exits of a vCPU.

mod link;

use std::time::Instant;

use crate::error::LinkError;
use crate::stopped::StoppedVcpu;
use crate::vcpu_exit::{Action, PostedWrite, VcpuExit};

pub use link::HandlerEnd;
pub(crate) use link::{Link, handle_until_stopped};

/// Handles the exits of one vCPU for their owner.
///
/// Every closure `FnMut(VcpuExit, &mut StoppedVcpu) -> Action` is a handler: an in-process device. It ignores posted writes.
pub trait ExitHandler: Send {
    /// Handles `exit`. Until it returns, `vcpu` is stopped, and its state can be read and set.
    ///
    /// It may block, but must return [`LinkError::Stopped`] soon after the machine's
    /// [`StopSignal`](crate::StopSignal) was set, and [`LinkError::TimedOut`] at [`StoppedVcpu::deadline`].
    ///
    /// # Errors
    ///
    /// Any error ends the vCPU, and is reported with the name of the owner.
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError>;

    /// Takes a posted write. A handler that cannot take it yet blocks, as [`handle`](Self::handle) does: no posted write is lost.
    ///
    /// # Errors
    ///
    /// As those of [`handle`](Self::handle).
    fn post(&mut self, write: PostedWrite, deadline: Option<Instant>) -> Result<(), LinkError>;
}

impl<F: FnMut(VcpuExit, &mut StoppedVcpu<'_>) -> Action + Send> ExitHandler for F {
    fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action, LinkError> {
        Ok(self(exit, vcpu))
    }

    fn post(&mut self, _: PostedWrite, _: Option<Instant>) -> Result<(), LinkError> {
        Ok(())
    }
}

/// Which thread calls a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerThread {
    /// The thread of the vCPU. It costs no second thread and no wake-up.
    Vcpu,
    /// A thread of its own.
    Own,
}
