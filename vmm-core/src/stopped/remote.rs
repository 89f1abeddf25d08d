//! A stopped vCPU for a handler on another thread: its calls are sent to the thread of the vCPU.

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::LocalVcpu;
use crate::error::LinkError;
use crate::stop_signal::StopSignal;
use crate::vcpu_exit::Action;

/// Replies under way. A handler sends one at a time.
const CAPACITY: usize = 16;

/// What a handler on another thread sends to the stopped vCPU.
pub(crate) enum Reply {
    /// A call to make on the vCPU.
    Call(Call),
    /// The handler has handled the exit.
    Handled(Result<Action, LinkError>),
}

/// A call. It sends its result through a channel of its own.
pub(crate) type Call = Box<dyn FnOnce(&mut LocalVcpu<'_>) + Send>;

/// The sending end of a vCPU's reply channel.
pub(crate) struct RemoteVcpu {
    replies: Sender<Reply>,
    stop: StopSignal,
}

impl RemoteVcpu {
    /// The handler's end and the vCPU's.
    pub(crate) fn pair(stop: StopSignal) -> (Self, Receiver<Reply>) {
        let (replies, receiver) = bounded(CAPACITY);
        (Self { replies, stop }, receiver)
    }

    /// Makes a call on the vCPU, on its thread, and waits for the result.
    pub(super) fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut LocalVcpu<'_>) -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let (sender, result) = bounded(1);
        let call: Call = Box::new(move |vcpu| {
            // Nobody waits for the result where the handler has ended.
            let _ = sender.send(call(vcpu));
        });
        self.send(Reply::Call(call))?;
        select! {
            recv(result) -> result => result.map_err(|_| LinkError::Disconnected),
            recv(self.stop.channel()) -> _ => Err(LinkError::Stopped),
        }
    }

    pub(crate) fn send(&self, reply: Reply) -> Result<(), LinkError> {
        self.replies.send(reply).map_err(|_| LinkError::Disconnected)
    }
}
