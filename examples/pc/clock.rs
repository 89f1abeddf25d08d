//! What time it is for the devices.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plugin_sdk::{Connection, kvm_pit_state2};
use rustix::time::{ClockId, clock_gettime};

/// 2000-01-01 00:00:00 UTC, since 1970: when a clock that is not the host's begins.
const BEGINNING: Duration = Duration::from_secs(946_684_800);

/// The host's clocks, or the VM's alone.
pub(crate) struct Clock {
    connection: Connection,
    is_vms: bool,
}

impl Clock {
    pub(crate) fn new(connection: Connection, is_vms: bool) -> Self {
        Self { connection, is_vms }
    }

    /// The time of day as the time since 1970, UTC.
    pub(crate) fn time_of_day(&mut self) -> Result<Duration, Box<dyn Error>> {
        if self.is_vms {
            Ok(BEGINNING + self.since_beginning()?)
        } else {
            Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
        }
    }

    /// The timer's state, and the time of the clock by which it counts.
    pub(crate) fn pit(&mut self) -> Result<(kvm_pit_state2, Duration), Box<dyn Error>> {
        let state = self.connection.pit()?;
        let now =
            if self.is_vms { self.since_beginning()? } else { Duration::try_from(clock_gettime(ClockId::Monotonic))? };
        Ok((state, now))
    }

    /// The VM's clock, where it is the one that counts.
    pub(crate) fn vms(&mut self) -> Result<Option<Duration>, plugin_sdk::Error> {
        self.is_vms.then(|| self.since_beginning()).transpose()
    }

    fn since_beginning(&mut self) -> Result<Duration, plugin_sdk::Error> {
        Ok(Duration::from_nanos(self.connection.clock()?.clock))
    }
}
