//! The channel from a vCPU to the handler of one owner, and both of its ends.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError, bounded, never, select};

use super::ExitHandler;
use crate::error::LinkError;
use crate::stop_signal::StopSignal;
use crate::stopped::{LocalVcpu, RemoteVcpu, Reply, StoppedVcpu};
use crate::vcpu_exit::{Action, PostedWrite, VcpuExit, VcpuMessage};

/// Messages under way to a handler on another thread: posted writes, and at most one exit.
const CAPACITY: usize = 16;

/// The end of the vCPU.
pub(crate) struct Link {
    transport: Transport,
    stop: StopSignal,
    /// Whether the last resume said which of the attached registers were accessed.
    pub(crate) reports_accesses: bool,
}

enum Transport {
    Inline(Inline),
    /// To another thread, and what it sends back.
    Threaded(Sender<VcpuMessage>, Receiver<Reply>),
}

/// To a handler that the thread of the vCPU calls with what it receives from the channel.
struct Inline {
    sender: Sender<Envelope>,
    receiver: Receiver<Envelope>,
    /// The one envelope there is, unless it is under way.
    spare: Option<Envelope>,
    handler: Box<dyn ExitHandler>,
}

/// A message in a box that is used again: a channel moves its messages several times, and a pointer is moved at no cost.
type Envelope = Box<Option<VcpuMessage>>;

impl Link {
    pub(crate) fn inline(handler: Box<dyn ExitHandler>, stop: StopSignal) -> Self {
        let (sender, receiver) = bounded(1);
        let inline = Inline { sender, receiver, spare: None, handler };
        Self { transport: Transport::Inline(inline), stop, reports_accesses: false }
    }

    /// A link to another thread, which has the other end.
    pub(crate) fn threaded(stop: StopSignal) -> (Self, HandlerEnd) {
        let (sender, messages) = bounded(CAPACITY);
        let (vcpu, receiver) = RemoteVcpu::pair(stop.clone());
        let end = HandlerEnd { messages, vcpu, stop: stop.clone() };
        (Self { transport: Transport::Threaded(sender, receiver), stop, reports_accesses: false }, end)
    }

    /// Sends a posted write.
    pub(crate) fn post(&mut self, write: PostedWrite, deadline: Option<Instant>) -> Result<(), LinkError> {
        let message = VcpuMessage::Posted(write);
        match &mut self.transport {
            Transport::Inline(inline) => match inline.transfer(message)? {
                VcpuMessage::Posted(write) => inline.handler.post(write, deadline),
                // It comes out as it went in.
                VcpuMessage::Exit(_) => Err(LinkError::Disconnected),
            },
            Transport::Threaded(messages, _) => send(messages, &self.stop, message),
        }
    }

    /// Sends an exit, and lets the handler use the stopped vCPU until it gives an action.
    #[inline(always)]
    pub(crate) fn handle(
        &mut self,
        exit: VcpuExit,
        vcpu: LocalVcpu<'_>,
        deadline: Option<Instant>,
    ) -> Result<Action, LinkError> {
        let message = VcpuMessage::Exit(exit);
        let stop = &self.stop;
        match &mut self.transport {
            Transport::Inline(inline) => {
                stop.check_wait(deadline)?;
                match inline.transfer(message)? {
                    VcpuMessage::Exit(exit) => {
                        inline.handler.handle(exit, &mut StoppedVcpu::local(vcpu, stop, deadline))
                    }
                    VcpuMessage::Posted(_) => Err(LinkError::Disconnected),
                }
            }
            Transport::Threaded(messages, replies) => {
                send(messages, stop, message)?;
                serve_calls(replies, vcpu, stop, deadline)
            }
        }
    }
}

impl Inline {
    /// Sends a message through the channel and receives it at the other end.
    #[inline(always)]
    fn transfer(&mut self, message: VcpuMessage) -> Result<VcpuMessage, LinkError> {
        let mut envelope = self.spare.take().unwrap_or_default();
        *envelope = Some(message);
        // The channel has capacity: the message before was received at once.
        if self.sender.try_send(envelope).is_err() {
            return Err(LinkError::Disconnected);
        }
        let Ok(mut envelope) = self.receiver.try_recv() else { return Err(LinkError::Disconnected) };
        let message = envelope.take();
        self.spare = Some(envelope);
        message.ok_or(LinkError::Disconnected)
    }
}

/// Sends to another thread, and waits while the channel is full.
#[inline(never)]
fn send(messages: &Sender<VcpuMessage>, stop: &StopSignal, message: VcpuMessage) -> Result<(), LinkError> {
    match messages.try_send(message) {
        Ok(()) => Ok(()),
        Err(TrySendError::Disconnected(_)) => Err(LinkError::Disconnected),
        Err(TrySendError::Full(message)) => select! {
            send(messages, message) -> sent => sent.map_err(|_| LinkError::Disconnected),
            recv(stop.channel()) -> _ => Err(LinkError::Stopped),
        },
    }
}

/// Makes the calls of a handler on another thread, until it has handled the exit.
#[inline(never)]
fn serve_calls(
    replies: &Receiver<Reply>,
    mut vcpu: LocalVcpu<'_>,
    stop: &StopSignal,
    deadline: Option<Instant>,
) -> Result<Action, LinkError> {
    loop {
        match receive(replies, stop, deadline)? {
            Reply::Call(call) => call(&mut vcpu),
            Reply::Handled(action) => return action,
        }
    }
}

fn receive(replies: &Receiver<Reply>, stop: &StopSignal, deadline: Option<Instant>) -> Result<Reply, LinkError> {
    loop {
        match replies.try_recv() {
            Ok(reply) => return Ok(reply),
            Err(TryRecvError::Disconnected) => return Err(LinkError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        stop.check_wait(deadline)?;
        let timer = deadline.map_or_else(never, crossbeam_channel::at);
        let mut select = Select::new();
        select.recv(replies);
        select.recv(stop.channel());
        let timed_out = select.recv(&timer);
        if select.ready() == timed_out && replies.is_empty() {
            return Err(LinkError::TimedOut);
        }
    }
}

/// The end of a handler on another thread.
pub struct HandlerEnd {
    /// What the vCPU sends. After [`VcpuMessage::Exit`] it waits until [`finish`](Self::finish).
    pub messages: Receiver<VcpuMessage>,
    vcpu: RemoteVcpu,
    stop: StopSignal,
}

impl HandlerEnd {
    /// The vCPU that sent the last exit. A call on one that runs waits for its next exit.
    pub fn stopped_vcpu(&self) -> StoppedVcpu<'_> {
        StoppedVcpu::remote(&self.vcpu)
    }

    /// Finishes the last exit: with an action, or with the error that ends the vCPU.
    ///
    /// # Errors
    ///
    /// [`LinkError::Disconnected`] where the vCPU has ended.
    pub fn finish(&self, action: Result<Action, LinkError>) -> Result<(), LinkError> {
        self.vcpu.send(Reply::Handled(action))
    }
}

/// Calls `handler` for each message of its vCPU, until the machine stops or the vCPU has ended.
pub(crate) fn handle_until_stopped(mut handler: Box<dyn ExitHandler>, end: &HandlerEnd) {
    loop {
        let message = select! {
            recv(end.messages) -> message => message,
            recv(end.stop.channel()) -> _ => return,
        };
        let (result, is_broken) = match message {
            Ok(VcpuMessage::Exit(exit)) => {
                let action = handler.handle(exit, &mut end.stopped_vcpu());
                let is_broken = action.is_err();
                (end.finish(action), is_broken)
            }
            Ok(VcpuMessage::Posted(write)) => match handler.post(write, None) {
                Ok(()) => continue,
                // The vCPU receives the error at its next exit.
                Err(error) => (end.finish(Err(error)), true),
            },
            Err(_) => return,
        };
        if result.is_err() || is_broken {
            return;
        }
    }
}
