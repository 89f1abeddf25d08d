//! What can go wrong while a machine is set up or its address map changed.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hypervisor::{AddressSpace, VcpuId};
use thiserror::Error;

/// The result of a call into this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A machine could not be made, changed or started.
#[derive(Debug, Error)]
pub enum Error {
    /// A range could not be reserved or released.
    #[error("{} {problem}", Span { space: *space, start: *start, len: *len })]
    Reservation {
        /// Ports or memory.
        space: AddressSpace,
        /// The range's first address.
        start: u64,
        /// Its length in bytes.
        len: u64,
        /// What is wrong with it.
        problem: ReservationProblem,
    },
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] hypervisor::Error),
    /// The machine runs already.
    #[error("the machine was started before")]
    AlreadyStarted,
    /// The operating system gave no thread for a vCPU or its handler.
    #[error("starting the thread of vCPU {vcpu}: {source}")]
    Thread {
        /// Whose thread.
        vcpu: VcpuId,
        /// Why not.
        source: io::Error,
    },
    /// A control group that threads of vCPUs are to join could not be opened or joined.
    #[error("control group {}: {source}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A vCPU did not leave the guest, although it was kicked many times, or its owner's channel did not let it go.
    #[error("a vCPU's thread did not end within {limit:?} of being told to")]
    NotStopped {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The operating system gave no eventfd.
    #[error("making the eventfd for {purpose}: {source}")]
    EventFd {
        /// What it was for.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a range was not reserved or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReservationProblem {
    /// The length is 0.
    #[error("cannot be reserved: the length is 0")]
    Empty,
    /// `start + len` exceeds 64 bits.
    #[error("cannot be reserved: the end exceeds 64 bits")]
    Overflow,
    /// Some byte of it is reserved already.
    #[error("overlap {first:#x}-{last:#x}")]
    Overlap {
        /// The first address of a reservation that it overlaps.
        first: u64,
        /// That reservation's last address.
        last: u64,
    },
    /// No reservation of this owner begins there.
    #[error("cannot be released: no reservation of this owner begins there")]
    NotReserved,
}

/// Addresses, as a sentence about them begins.
struct Span {
    space: AddressSpace,
    start: u64,
    len: u64,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.space {
            AddressSpace::Pio => "ports",
            AddressSpace::Mmio => "addresses",
        };
        match self.len {
            0 => write!(f, "{what} from {:#x} on", self.start),
            // What passes the end of 64 bits is cut there.
            len => write!(f, "{what} {:#x}-{:#x}", self.start, self.start.saturating_add(len.saturating_sub(1))),
        }
    }
}

/// Why a handler gave no action.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The machine is being stopped.
    #[error("the machine is being stopped")]
    Stopped,
    /// The deadline came first.
    #[error("no reply in time")]
    TimedOut,
    /// The other side is gone.
    #[error("the other side disconnected")]
    Disconnected,
    /// The link or what came over it is broken.
    #[error(transparent)]
    Fault(Box<dyn StdError + Send + Sync>),
}
