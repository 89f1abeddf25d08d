//! A vCPU's side of the channels to one owner.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, never, select};

use crate::channel::{Command, Event, FarEnd, pair};
use crate::error::LinkError;
use crate::pump::Pump;
use crate::stop_signal::StopSignal;

pub(crate) struct Link {
    way: Way,
    stop: StopSignal,
    /// Whether the owner's last resume told what it had looked at.
    pub(crate) tells_looks: bool,
}

/// How events get to the owner, and commands back.
enum Way {
    Inline(Inline),
    /// To another thread, which stands at the far end.
    Threaded(Sender<Event>, Receiver<Command>),
}

/// To a pump that the vCPU's own thread steps with what has come to the far end.
struct Inline {
    near: Sender<Message>,
    far: Receiver<Message>,
    /// The one message there is, unless it is under way.
    spare: Option<Message>,
    pump: Box<dyn Pump>,
}

/// An event in a box that is used again and again: a channel moves its messages several times, and a pointer is moved at no cost.
type Message = Box<Option<Event>>;

impl Link {
    pub(crate) fn inline(pump: Box<dyn Pump>, stop: StopSignal) -> Self {
        let (near, far) = crossbeam_channel::bounded(1);
        Self { way: Way::Inline(Inline { near, far, spare: None, pump }), stop, tells_looks: false }
    }

    /// A link at whose far end another thread stands.
    pub(crate) fn threaded(stop: StopSignal) -> (Self, FarEnd) {
        let (events, commands, far) = pair();
        (Self { way: Way::Threaded(events, commands), stop, tells_looks: false }, far)
    }

    /// Sends an event that wants no command, and sees that it is carried.
    pub(crate) fn post(&mut self, event: Event, deadline: Option<Instant>) -> Result<(), LinkError> {
        match &mut self.way {
            Way::Inline(inline) => inline.step(event, deadline).map(drop),
            Way::Threaded(events, _) => send(events, &self.stop, event),
        }
    }

    /// Sends an event, and waits for the command that the owner gives for it: `None` where it is gone.
    #[inline(always)]
    pub(crate) fn ask(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        match &mut self.way {
            Way::Inline(inline) => {
                check_wait(&self.stop, deadline)?;
                inline.step(event, deadline)
            }
            Way::Threaded(events, commands) => {
                send(events, &self.stop, event)?;
                receive(commands, &self.stop, deadline).map(Some)
            }
        }
    }
}

impl Inline {
    /// Sends an event, and steps the pump with it.
    #[inline(always)]
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        let mut message = self.spare.take().unwrap_or_default();
        *message = Some(event);
        // There is room: what was sent before was taken out at once.
        if self.near.try_send(message).is_err() {
            return Err(LinkError::HungUp);
        }
        let Ok(mut message) = self.far.try_recv() else { return Err(LinkError::HungUp) };
        let event = message.take();
        self.spare = Some(message);
        match event {
            Some(event) => self.pump.step(event, deadline),
            None => Err(LinkError::HungUp),
        }
    }
}

/// Sends to another thread, waiting for room.
#[inline(never)]
fn send(events: &Sender<Event>, stop: &StopSignal, event: Event) -> Result<(), LinkError> {
    match events.try_send(event) {
        Ok(()) => Ok(()),
        Err(TrySendError::Disconnected(_)) => Err(LinkError::HungUp),
        Err(TrySendError::Full(event)) => select! {
            send(events, event) -> sent => sent.map_err(|_| LinkError::HungUp),
            recv(stop.channel()) -> _ => Err(LinkError::Stopped),
        },
    }
}

/// What another thread, which stands at the far end, says.
#[inline(never)]
fn receive(commands: &Receiver<Command>, stop: &StopSignal, deadline: Option<Instant>) -> Result<Command, LinkError> {
    loop {
        match commands.try_recv() {
            Ok(command) => return Ok(command),
            Err(TryRecvError::Disconnected) => return Err(LinkError::HungUp),
            Err(TryRecvError::Empty) => {}
        }
        check_wait(stop, deadline)?;
        wait(commands, stop, deadline)?;
    }
}

fn check_wait(stop: &StopSignal, deadline: Option<Instant>) -> Result<(), LinkError> {
    if stop.is_set() {
        return Err(LinkError::Stopped);
    }
    // One who asks without end is never waited for.
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Err(LinkError::TimedOut);
    }
    Ok(())
}

/// Waits until there may be a command.
fn wait(commands: &Receiver<Command>, stop: &StopSignal, deadline: Option<Instant>) -> Result<(), LinkError> {
    let timer = deadline.map_or_else(never, crossbeam_channel::at);
    let mut select = crossbeam_channel::Select::new();
    select.recv(commands);
    select.recv(stop.channel());
    let timed_out = select.recv(&timer);
    if select.ready() == timed_out && commands.is_empty() {
        return Err(LinkError::TimedOut);
    }
    Ok(())
}
