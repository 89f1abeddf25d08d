//! Events that a plugin drops again and again.

use std::io::{self, Write};

use crate::vcpu::Reason;

/// A plugin that drops the same event so often does not know that it must resume it.
const SUSPICIOUS: u32 = 1000;

/// How often the event that a vCPU is stopped at has been delivered again.
#[derive(Debug, Default)]
pub(crate) struct Redelivery {
    times: u32,
    has_warned: bool,
}

impl Redelivery {
    /// Counts one more delivery. Returns true once: when there have been too many.
    pub(crate) fn is_suspicious(&mut self) -> bool {
        self.times = self.times.saturating_add(1);
        if self.has_warned || self.times < SUSPICIOUS {
            return false;
        }
        self.has_warned = true;
        true
    }

    /// The event was resumed.
    pub(crate) fn resumed(&mut self) {
        self.times = 0;
    }
}

/// Says so on standard error, which the VMM logs.
pub(crate) fn warn(vcpu: usize, reason: &Reason) {
    // There is no way to report to a plugin whose standard error is closed.
    let _ = writeln!(
        io::stderr(),
        "plugin-sdk: the same event of vCPU {vcpu} was reported {SUSPICIOUS} times again: an event must be resumed or answered, \
         not dropped: {reason:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_deliveries_of_one_event_are_reported_once() {
        let mut redelivery = Redelivery::default();
        assert_eq!((0..999).filter(|_| redelivery.is_suspicious()).count(), 0);
        redelivery.resumed();
        assert_eq!((0..999).filter(|_| redelivery.is_suspicious()).count(), 0);
        assert!(redelivery.is_suspicious());
        assert_eq!((0..5000).filter(|_| redelivery.is_suspicious()).count(), 0);
        redelivery.resumed();
        assert_eq!((0..5000).filter(|_| redelivery.is_suspicious()).count(), 0);
    }
}
