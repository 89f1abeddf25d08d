//! What stands at the far ends of a vCPU's channels and carries exits to where they are answered.

use std::time::Instant;

use crossbeam_channel::select;

use crate::channel::{Command, Event, FarEnd};
use crate::error::LinkError;
use crate::stop_signal::StopSignal;

/// Carries the events of one vCPU to their owner, and the owner's commands back.
///
/// Every closure that gives a command for an event is a pump: an in-process device.
pub trait Pump: Send {
    /// Carries `event` to the owner, and brings the command it gives next; `None` where the event
    /// [wants none](Event::wants_command). Who brings none for one that wants it has hung up.
    ///
    /// It may block, but must return [`LinkError::Stopped`] soon after the machine's
    /// [`StopSignal`](crate::StopSignal) was set, and [`LinkError::TimedOut`] at the deadline.
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>, LinkError>;
}

impl<F: FnMut(Event) -> Command + Send> Pump for F {
    /// What the closure gives for an event that wants no command is dropped.
    fn step(&mut self, event: Event, _deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        let wanted = event.wants_command();
        Ok(Some(self(event)).filter(|_| wanted))
    }
}

/// Who steps a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepping {
    /// The vCPU's own thread, whenever it waits for a command. It costs no second thread and no wake-up.
    Inline,
    /// A thread of the pump's own.
    Threaded,
}

/// Steps a pump at each of its vCPU's events, until the machine stops or the vCPU is gone.
pub(crate) fn step_until_stopped(mut pump: Box<dyn Pump>, far: &FarEnd, stop: &StopSignal) {
    loop {
        let event = select! {
            recv(far.events) -> event => event,
            recv(stop.channel()) -> _ => return,
        };
        let Ok(event) = event else { return };
        let (command, broken) = match pump.step(event, None) {
            Ok(Some(command)) => (command, false),
            Ok(None) => continue,
            Err(error) => (Command::Fail(error), true),
        };
        if far.commands.send(command).is_err() || broken {
            return;
        }
    }
}
