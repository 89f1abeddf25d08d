//! A running machine, whoever its devices belong to.
//!
//! A [`Machine`] is a VM, its vCPU threads, and the [`AddressMap`] that says whose each port and each piece of unbacked
//! memory is. Every exit goes to its owner over a crossbeam channel, one for each vCPU and owner. Requests on the stopped vCPU
//! come back, over a channel too where another thread gives them, and at last the [resume](Command::Resume) that lets it run on.
//!
//! At the channels' far ends stands a [`Pump`]: what carries an exit to where it is answered. It is stepped by the
//! vCPU's own thread or by one of its own ([`Stepping`]); a test may stand at the [`FarEnd`]s itself. This crate does
//! not know whether a pump crosses into another process.
//!
//! What is not an exit (a vCPU started, paused, stopped) is told as a [`Notice`].
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod address_map;
mod call_hint;
mod cgroup;
mod channel;
mod claim_cache;
mod coalesced;
mod control;
mod deferred;
mod error;
mod exchange;
mod gate;
mod link;
mod machine;
mod notice;
mod owner;
mod prediction;
mod pump;
mod routing;
mod stop_signal;
mod unclaimed;
mod vcpu_loop;

pub use address_map::{AddressMap, Claim, Service};
pub use call_hint::{CallHint, HintDetail};
pub use cgroup::Cgroup;
pub use channel::{Command, Event, FarEnd, State, StateKind};
pub use error::{Error, LinkError, ReservationProblem, Result};
pub use exchange::{Bytes, Exchange, Registers};
pub use machine::{Config, Machine};
pub use notice::{Culprit, Notice, Notices, StopReason};
pub use owner::OwnerId;
pub use prediction::Looks;
pub use pump::{Pump, Stepping};
pub use stop_signal::StopSignal;
pub use unclaimed::Unclaimed;
