//! A vCPU's side of the channels to one owner.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, never, select};

use crate::channel::{Command, Event, FarEnd, pair};
use crate::error::LinkError;
use crate::pump::Pump;
use crate::stop_signal::StopSignal;

pub(crate) struct Link {
    events: Sender<Event>,
    answers: Answers,
    stop: StopSignal,
    /// Whether the owner's last resume told what it had looked at.
    pub(crate) tells_looks: bool,
}

/// Where the owner's commands come from.
enum Answers {
    /// A pump that the vCPU's own thread steps with what has come to the far end.
    Inline(Receiver<Event>, Box<dyn Pump>),
    /// Another thread, which stands at the far end.
    Threaded(Receiver<Command>),
}

impl Link {
    pub(crate) fn inline(pump: Box<dyn Pump>, stop: StopSignal) -> Self {
        // It is stepped whenever something was said.
        let (events, far) = crossbeam_channel::bounded(1);
        Self { events, answers: Answers::Inline(far, pump), stop, tells_looks: false }
    }

    /// A link at whose far end another thread stands.
    pub(crate) fn threaded(stop: StopSignal) -> (Self, FarEnd) {
        let (events, commands, far) = pair();
        (Self { events, answers: Answers::Threaded(commands), stop, tells_looks: false }, far)
    }

    /// Sends an event that wants no command, and sees that it is carried.
    pub(crate) fn post(&mut self, event: Event, deadline: Option<Instant>) -> Result<(), LinkError> {
        self.send(event)?;
        match &mut self.answers {
            Answers::Inline(far, pump) => step(far, &mut **pump, deadline).map(drop),
            Answers::Threaded(_) => Ok(()),
        }
    }

    /// Sends an event, and waits for the command that the owner gives for it.
    #[inline(always)]
    pub(crate) fn ask(&mut self, event: Event, deadline: Option<Instant>) -> Result<Command, LinkError> {
        self.send(event)?;
        match &mut self.answers {
            Answers::Inline(far, pump) => {
                check_wait(&self.stop, deadline)?;
                step(far, &mut **pump, deadline)?.ok_or(LinkError::HungUp)
            }
            Answers::Threaded(commands) => receive(commands, &self.stop, deadline),
        }
    }

    #[inline(always)]
    fn send(&self, event: Event) -> Result<(), LinkError> {
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(error) => self.send_later(error),
        }
    }

    /// Sends what could not be sent at once.
    #[cold]
    #[inline(never)]
    fn send_later(&self, error: TrySendError<Event>) -> Result<(), LinkError> {
        match error {
            TrySendError::Disconnected(_) => Err(LinkError::HungUp),
            TrySendError::Full(event) => select! {
                send(self.events, event) -> sent => sent.map_err(|_| LinkError::HungUp),
                recv(self.stop.channel()) -> _ => Err(LinkError::Stopped),
            },
        }
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

/// Steps the pump with the event that was sent last: a vCPU does so only when it has said something.
#[inline(always)]
fn step(
    events: &Receiver<Event>,
    pump: &mut dyn Pump,
    deadline: Option<Instant>,
) -> Result<Option<Command>, LinkError> {
    match events.try_recv() {
        Ok(event) => pump.step(event, deadline),
        Err(_) => Err(LinkError::HungUp),
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
