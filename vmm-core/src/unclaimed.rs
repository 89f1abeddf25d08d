//! Accesses that nobody has reserved: what becomes of them, and which are logged.

use std::collections::BTreeSet;

use hypervisor::{Access, AddressSpace, Direction, VcpuId};

/// Addresses a vCPU remembers as logged. Further ones are not logged.
const MOST_LOGGED: usize = 256;

/// What becomes of a guest's access to an address that no owner has reserved. A read of a range whose writes alone are
/// reserved is one too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unclaimed {
    /// A read gets zeros, a write vanishes. The first access of a vCPU to each address is logged at `debug`.
    #[default]
    Ignore,
    /// The same, with the first access logged at `warn`.
    Log,
    /// The vCPU stops for good.
    Stop,
}

/// The unclaimed addresses that a vCPU has logged.
#[derive(Debug, Default)]
pub(crate) struct UnclaimedLog {
    logged: BTreeSet<(AddressSpace, u64)>,
}

impl UnclaimedLog {
    /// Logs `access` if it is the first to its address.
    pub(crate) fn log(&mut self, policy: Unclaimed, vcpu: VcpuId, access: &Access) {
        let is_logged = match policy {
            Unclaimed::Log => tracing::enabled!(tracing::Level::WARN),
            Unclaimed::Ignore | Unclaimed::Stop => tracing::enabled!(tracing::Level::DEBUG),
        };
        if !is_logged || !self.admit(access) {
            return;
        }
        let fate = match access.direction() {
            Direction::Read => "it reads zeros",
            Direction::Write => "it vanishes",
        };
        let more = if self.logged.len() == MOST_LOGGED { "; no further address is logged" } else { "" };
        match policy {
            Unclaimed::Log => tracing::warn!(%vcpu, "nobody has reserved a {access}: {fate}{more}"),
            Unclaimed::Ignore | Unclaimed::Stop => {
                tracing::debug!(%vcpu, "nobody has reserved a {access}: {fate}{more}");
            }
        }
    }

    fn admit(&mut self, access: &Access) -> bool {
        self.logged.len() < MOST_LOGGED && self.logged.insert((access.space(), access.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_logged_once_and_256_of_them() {
        let mut log = UnclaimedLog::default();
        let read = |space, address| Access::read(space, address, 1).unwrap();
        for address in 0..100 {
            assert!(log.admit(&read(AddressSpace::Pio, address)));
            assert!(log.admit(&read(AddressSpace::Mmio, address)));
            assert!(!log.admit(&read(AddressSpace::Pio, address)));
            assert!(!log.admit(&Access::write(AddressSpace::Mmio, address, &[1]).unwrap()));
        }
        let admitted = (1000..2000).filter(|address| log.admit(&read(AddressSpace::Pio, *address))).count();
        assert_eq!((admitted, log.logged.len()), (56, MOST_LOGGED));
    }
}
