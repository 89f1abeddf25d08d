//! A client of the protocol, version 0 and what lies beyond it, that shares no line with the library and the message types of this project.
//!
//! It is written from the tables of the protocol alone, field numbers included, and sends whatever bytes a test wants.
//! Two ends that are made of the same code can share one misunderstanding; these two cannot.
//!
//! * [`protobuf`]: fields to bytes and back;
//! * [`request`] and [`vcpu_request`]: the messages a plugin sends;
//! * [`MainSocket`], [`VcpuPipes`] and [`VcpuRing`]: the channels; what the last two have in common is [`VcpuChannel`];
//! * [`Relay`]: a plugin process whose sockets the test drives.

mod main_socket;
pub mod protobuf;
mod relay;
pub mod request;
mod vcpu_channel;
mod vcpu_pipes;
pub mod vcpu_request;
pub mod vcpu_ring;

pub use main_socket::{Answer, MainSocket};
pub use protobuf::{Fields, Message};
pub use relay::{Relay, obey, pair, use_up_signals};
pub use vcpu_channel::{VcpuAnswer, VcpuChannel};
pub use vcpu_pipes::{Io, VcpuPipes, Wait};
pub use vcpu_ring::VcpuRing;

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// How long an answer may take before the test fails. Far longer than any takes on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Whether `fd` becomes readable, or disconnected, within `limit`.
///
/// # Panics
///
/// If it cannot be polled.
pub fn readable_within(fd: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).expect("a short time");
    retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit))).expect("poll") == 1
}
