//! A vCPU's side of the channels to one owner.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, never, select};

use crate::channel::{Command, Event, FarEnd};
use crate::error::LinkError;
use crate::pump::Pump;
use crate::stop_signal::StopSignal;

pub(crate) struct Link {
    events: Sender<Event>,
    commands: Receiver<Command>,
    /// The far end and its pump, where this thread steps it.
    inline: Option<(FarEnd, Box<dyn Pump>)>,
    stop: StopSignal,
    /// Whether the owner's last resume told what it had looked at.
    pub(crate) tells_looks: bool,
}

impl Link {
    pub(crate) fn inline(
        events: Sender<Event>,
        commands: Receiver<Command>,
        far: FarEnd,
        pump: Box<dyn Pump>,
        stop: StopSignal,
    ) -> Self {
        Self { events, commands, inline: Some((far, pump)), stop, tells_looks: false }
    }

    /// A link at whose far end another thread stands.
    pub(crate) fn threaded(events: Sender<Event>, commands: Receiver<Command>, stop: StopSignal) -> Self {
        Self { events, commands, inline: None, stop, tells_looks: false }
    }

    /// Sends an event that wants no command, and sees that it is carried.
    pub(crate) fn post(&mut self, event: Event, deadline: Option<Instant>) -> Result<(), LinkError> {
        self.send(event)?;
        self.step_inline(deadline)
    }

    pub(crate) fn send(&self, event: Event) -> Result<(), LinkError> {
        match self.events.try_send(event) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(LinkError::HungUp),
            Err(TrySendError::Full(event)) => select! {
                send(self.events, event) -> sent => sent.map_err(|_| LinkError::HungUp),
                recv(self.stop.channel()) -> _ => Err(LinkError::Stopped),
            },
        }
    }

    /// The owner's next command.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<Command, LinkError> {
        loop {
            // What this thread steps has said nothing before it is stepped.
            if self.inline.is_some() {
                self.check_wait(deadline)?;
                self.step_inline(deadline)?;
            }
            match self.commands.try_recv() {
                Ok(Command::Fail(error)) => return Err(error),
                Ok(command) => return Ok(command),
                Err(TryRecvError::Disconnected) => return Err(LinkError::HungUp),
                Err(TryRecvError::Empty) => {}
            }
            self.check_wait(deadline)?;
            self.wait(deadline)?;
        }
    }

    fn check_wait(&self, deadline: Option<Instant>) -> Result<(), LinkError> {
        if self.stop.is_set() {
            return Err(LinkError::Stopped);
        }
        // One who asks without end is never waited for.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(LinkError::TimedOut);
        }
        Ok(())
    }

    /// Steps the pump, where this thread does, with the event that was sent last.
    fn step_inline(&mut self, deadline: Option<Instant>) -> Result<(), LinkError> {
        if let Some((far, pump)) = &mut self.inline {
            // A vCPU steps its pump only when it has said something.
            let event = far.events.try_recv().map_err(|_| LinkError::HungUp)?;
            if let Some(command) = pump.step(event, deadline)? {
                // It was empty: a pump gives a command for an event, and the vCPU has taken all before.
                far.commands.try_send(command).map_err(|_| LinkError::HungUp)?;
            }
        }
        Ok(())
    }

    /// Waits until there may be a command.
    fn wait(&self, deadline: Option<Instant>) -> Result<(), LinkError> {
        let timer = deadline.map_or_else(never, crossbeam_channel::at);
        let mut select = crossbeam_channel::Select::new();
        select.recv(&self.commands);
        select.recv(self.stop.channel());
        let timed_out = select.recv(&timer);
        if select.ready() == timed_out && self.commands.is_empty() {
            return Err(LinkError::TimedOut);
        }
        Ok(())
    }
}
