//! Lists whose length the caller finds out by asking.

use crate::errno::{Errno, Result};
use crate::pointers::{Place, Plain, Room};

/// Puts all of `found` into `room` for `count`, or says by `E2BIG` and `out_count` how much room there must be.
pub(crate) fn give<T: Plain>(found: &[T], count: u32, room: &Room<T>, out_count: &Place<u32>) -> Result<()> {
    let needed = u32::try_from(found.len()).map_err(|_| Errno::PROTO)?;
    if needed <= count {
        room.fill(found)?;
    }
    out_count.set(needed);
    if needed <= count { Ok(()) } else { Err(Errno::TOO_BIG) }
}
