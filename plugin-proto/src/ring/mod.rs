//! A vCPU's channel in shared memory: two rings of records, one each way.
//!
//! Both sides map one memfd, which the VMM makes and seals. A ring has one writer and one reader. Neither believes the
//! other: each keeps its own position to itself, holds the other's against what is possible, and copies a record out
//! before it looks at it. `docs/protocol.md` tells the layout and the order of things.
//!
//! - [`Mapping`] is the memory, and where nearly all unsafe code is;
//! - [`Writer`] and [`Reader`] are the ends of one direction; how they wait is their [`Waiter`]'s business;
//! - [`Header`] begins every record, [`Body`] is what follows it.

#[cfg(not(loom))]
mod end;
mod fault;
mod handing_over;
mod index;
#[cfg(not(loom))]
mod looking;
#[cfg(not(loom))]
mod mapping;
mod processor;
mod record;

#[cfg(not(loom))]
pub use end::{Reader, Waiter, Writer, wake};
pub use fault::Fault;
pub use handing_over::hand_over;
#[cfg(not(loom))]
pub use looking::{between_looks, turn};
#[cfg(not(loom))]
pub use mapping::{Direction, Mapping};
pub use processor::current_processor;
pub use record::{Body, DEBUG_REGS_BYTES, Flags, Header, Incoming, Outgoing, REGS_BYTES, SREGS_BYTES, ToPlugin, ToVmm};

/// The version of the ring protocol, which `negotiate` agrees on.
pub const VERSION: u32 = 1;

/// The feature bit of `negotiate` that stands for rings.
pub const FEATURE_RINGS: u64 = 1;

/// The feature bit of `negotiate` that stands for the width of an access's items, over pipes as over rings.
pub const FEATURE_ITEM_WIDTHS: u64 = 1 << 1;

/// Records that a ring holds, a power of two.
pub const SLOTS: u32 = 256;

/// Bytes of payload that a ring holds, a power of two.
pub const CAPACITY: u32 = 0x8000;

/// Where the first ring's slots begin in the memfd, each a cache line; its payload follows them, and then the second ring's
/// slots and payload. Before them lie the words that both sides wait on.
pub const SLOTS_OFFSET: usize = 0x1000;

/// Bytes of the memfd.
pub const SIZE: usize = SLOTS_OFFSET + 2 * (SLOTS as usize * size_of::<Header>() + CAPACITY as usize);

/// Most bytes of payload in one slot. A record with more takes several.
pub const MAX_FRAGMENT: usize = CAPACITY as usize / 2;

/// Most bytes behind a header, in all.
pub const MAX_PAYLOAD: usize = 0x40000;
