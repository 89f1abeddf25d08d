//! A running machine, independent of where its devices are.
//!
//! A [`Machine`] is a VM, its vCPU threads, and the [`AddressMap`] that says which owner has which ports and which unbacked
//! memory. Every exit crosses a crossbeam channel to its owner, one channel for each vCPU and owner. At the other end an
//! [`ExitHandler`] handles it: while it does, it reads and sets state by calls on a [`StoppedVcpu`], and it returns the [`Action`]
//! that resumes the vCPU.
//!
//! The thread of the vCPU calls the handler, or a thread of its own does ([`HandlerThread`]); a test may take the
//! [`HandlerEnd`]s itself. This crate does not know whether a handler crosses into another process.
//!
//! What is not an exit (a vCPU started, paused, stopped) is reported as a [`Notice`].
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
mod cgroup;
mod claim_cache;
mod coalesced;
mod error;
mod exchange;
mod handler;
mod machine;
mod notice;
mod owner;
mod register_hint;
mod register_prefetch;
mod state;
mod stop_signal;
mod stopped;
mod unclaimed;
mod vcpu;
mod vcpu_exit;

pub use address_map::{AddressMap, Claim, Service};
pub use cgroup::Cgroup;
pub use error::{Error, LinkError, ReservationProblem, Result};
pub use exchange::{Bytes, Exchange, Registers};
pub use handler::{ExitHandler, HandlerEnd, HandlerThread};
pub use machine::{Config, JOIN_LIMIT, KICK_INTERVAL, Machine};
pub use notice::{Culprit, Notice, Notices, StopReason};
pub use owner::OwnerId;
pub use register_hint::{CallHint, HintDetail};
pub use register_prefetch::RegisterSet;
pub use state::{State, StateKind};
pub use stop_signal::StopSignal;
pub use stopped::{CallResult, StoppedVcpu};
pub use unclaimed::Unclaimed;
pub use vcpu_exit::{Action, PostedWrite, VcpuExit, VcpuMessage};
