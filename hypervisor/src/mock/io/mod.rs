//! What the VMM has asked for instead of an exit: signals for matching writes, and writes kept for later.

pub(super) mod coalesced;
pub(super) mod eventfd;
pub(super) mod ioeventfd;
