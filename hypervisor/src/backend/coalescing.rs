//! Writes that are coalesced instead of exiting one by one.

use crate::{Access, AddressSpace, Result};

/// Ranges whose writes a VM coalesces: the guest runs on, and its VMM takes them later, many at once.
///
/// All vCPUs of a VM write into one place that has room for some 170 writes (KVM: `KVM_REGISTER_COALESCED_MMIO`). A write for
/// which there is no room exits. None is told of its vCPU. All methods may be called from any thread.
pub trait Coalescing {
    /// From now on writes that lie wholly within the `len` bytes from `start` on are coalesced. Where a write there signals an
    /// [`IoEvent`](crate::IoEvent) too, it is not said which of the two happens.
    fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()>;

    /// Undoes [`coalesce_writes`](Self::coalesce_writes) with the same arguments. What was coalesced is kept until it is taken. A
    /// range that is unknown is no error.
    fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()>;

    /// Whether there is something to take. It is cheap, and made to be asked at each exit.
    fn has_coalesced(&self) -> bool;

    /// Puts what was coalesced behind what is in `into`, in the order in which the writes were made; each is of up to 8 bytes, so
    /// its data is inline.
    fn take_coalesced(&self, into: &mut Vec<Access>);
}
