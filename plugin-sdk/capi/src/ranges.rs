//! Which addresses are the plugin's, and the hint at one of them.

use plugin_sdk::{AddressSpace, CallHint, Direction};
use std::num::NonZeroU64;

use crate::abi::{Hint, HintDetail};
use crate::connection::Connection;
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::pointers::{Handle, In};

/// `CROSVM_HINT_ON_WRITE`.
const ON_WRITE: u16 = 1;
/// `CROSVM_MAX_HINT_DETAIL_COUNT`.
const MAX_DETAILS: u16 = 32;

/// A number of `enum crosvm_address_space`.
pub(crate) fn space(number: u32) -> Result<AddressSpace> {
    match number {
        0 => Ok(AddressSpace::Pio),
        1 => Ok(AddressSpace::Mmio),
        _ => Err(Errno::INVAL),
    }
}

fn call_hint(hint: &Hint) -> Result<CallHint> {
    let direction = match hint.address_flags {
        0 => Direction::Read,
        ON_WRITE => Direction::Write,
        _ => return Err(Errno::INVAL),
    };
    if hint.hint_version != 0 || hint.reserved != 0 || hint.details_count > MAX_DETAILS {
        return Err(Errno::INVAL);
    }
    let details = hint.details.read_all(hint.details_count.into())?;
    Ok(CallHint {
        space: space(hint.address_space)?,
        address: NonZeroU64::new(hint.address).ok_or(Errno::INVAL)?,
        direction,
        details: details.iter().map(detail).collect(),
    })
}

fn detail(detail: &HintDetail) -> plugin_sdk::HintDetail {
    let wanted = |matches: u8, value| (matches != 0).then_some(value);
    plugin_sdk::HintDetail {
        rax: wanted(detail.match_rax, detail.rax),
        rbx: wanted(detail.match_rbx, detail.rbx),
        rcx: wanted(detail.match_rcx, detail.rcx),
        rdx: wanted(detail.match_rdx, detail.rdx),
        sregs: detail.send_sregs != 0,
        debugregs: detail.send_debugregs != 0,
    }
}

export! {
    fn crosvm_reserve_range(
        connection: Handle<Connection>,
        number: u32,
        start: u64,
        length: u64,
    ) -> Result<()> {
        Ok(connection.sdk()?.reserve_range(space(number)?, start, length)?)
    }

    fn crosvm_reserve_async_write_range(
        connection: Handle<Connection>,
        number: u32,
        start: u64,
        length: u64,
    ) -> Result<()> {
        Ok(connection.sdk()?.reserve_async_write_range(space(number)?, start, length)?)
    }

    fn crosvm_set_hypercall_hint(
        connection: Handle<Connection>,
        count: u32,
        hints: In<Hint>,
    ) -> Result<()> {
        let mut sdk = connection.sdk()?;
        match count {
            0 => Ok(sdk.remove_call_hint()?),
            1 => Ok(sdk.set_call_hint(&call_hint(&hints.read()?)?)?),
            _ => Err(Errno::INVAL),
        }
    }
}
