//! System control port B, 0x61: the gate and the output of the timer's channel 2, by which firmware measures the processor's
//! clock. The timer itself is the VMM's; the port is made of its state.

use std::time::Duration;

use plugin_sdk::kvm_pit_state2;

/// The port.
pub(crate) const PORT: u16 = 0x61;

/// The timer's clock, in Hz.
const FREQUENCY: u128 = 1_193_182;

/// The channel's gate and the speaker: what is written and read back.
const KEPT: u8 = 0x03;
/// Changes with each refresh of memory, every 15 µs.
const REFRESH: u8 = 0x10;
/// The channel's output.
const OUTPUT: u8 = 0x20;

/// The port.
#[derive(Debug, Default)]
pub(crate) struct PortB {
    kept: u8,
}

impl PortB {
    /// `pit` is the timer's state, `now` the time of the host's monotonic clock, by which that state tells when a count began.
    pub(crate) fn read(&self, pit: &kvm_pit_state2, now: Duration) -> u8 {
        let refresh = if (now.as_micros() / 15).is_multiple_of(2) { 0 } else { REFRESH };
        let output = if output(pit, now) { OUTPUT } else { 0 };
        self.kept | refresh | output
    }

    pub(crate) fn write(&mut self, value: u8) {
        self.kept = value & KEPT;
    }
}

/// Whether the channel's output is high. A count of 0 in the state stands for the longest, 0x10000.
fn output(pit: &kvm_pit_state2, now: Duration) -> bool {
    let channel = &pit.channels[2];
    let begun = u128::try_from(channel.count_load_time).unwrap_or(0);
    let ticks = now.as_nanos().saturating_sub(begun) * FREQUENCY / 1_000_000_000;
    let count = if channel.count == 0 { 0x10000 } else { u128::from(channel.count) };
    match channel.mode {
        // High when the count has ended, once.
        0 | 1 => ticks >= count,
        // Low for the last tick of each round, or for the second half.
        2 | 6 => ticks % count != count - 1,
        3 | 7 => ticks % count < count.div_ceil(2),
        // Low for one tick at the end.
        _ => ticks != count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timer whose channel 2 was loaded a second after the clock's beginning.
    fn pit(mode: u8, count: u32) -> kvm_pit_state2 {
        let mut pit = kvm_pit_state2::default();
        pit.channels[2].mode = mode;
        pit.channels[2].count = count;
        pit.channels[2].count_load_time = 1_000_000_000;
        pit
    }

    fn output_after(pit: &kvm_pit_state2, ticks: u32) -> bool {
        let nanoseconds = (u64::from(ticks) * 1_000_000_000).div_ceil(FREQUENCY as u64);
        PortB::default().read(pit, Duration::from_secs(1) + Duration::from_nanos(nanoseconds)) & OUTPUT != 0
    }

    #[test]
    fn in_mode_0_the_output_is_high_once_the_count_has_ended() {
        let once = pit(0, 0x800);
        assert!(!output_after(&once, 0));
        assert!(!output_after(&once, 0x7ff));
        assert!(output_after(&once, 0x800));
        assert!(output_after(&once, 0x8000));
    }

    #[test]
    fn a_count_of_0_is_the_longest() {
        let once = pit(0, 0);
        assert!(!output_after(&once, 0xff00));
        assert!(output_after(&once, 0x10000));
    }

    #[test]
    fn in_mode_3_the_output_is_a_square_wave() {
        let wave = pit(3, 100);
        let levels = [0, 40, 60, 90, 110, 160].map(|ticks| output_after(&wave, ticks));
        assert_eq!(levels, [true, true, false, false, true, false]);
    }

    #[test]
    fn in_mode_2_the_output_is_low_for_a_tick() {
        let pulses = pit(2, 10);
        let low = (0..20).filter(|ticks| !output_after(&pulses, *ticks)).collect::<Vec<_>>();
        assert_eq!(low, [9, 19]);
    }

    #[test]
    fn the_gate_is_read_back_and_refresh_goes_on() {
        let mut port = PortB::default();
        port.write(0xff);
        let pit = pit(0, 100);
        assert_eq!(port.read(&pit, Duration::ZERO), 0x03);
        assert_eq!(port.read(&pit, Duration::from_micros(15)), 0x13);
        assert_eq!(port.read(&pit, Duration::from_micros(30)), 0x03);
    }

    /// The state is the VMM's word, but nothing here may depend on it.
    #[test]
    fn a_count_that_began_in_the_future_has_not_ended() {
        let mut later = pit(0, 1);
        later.channels[2].count_load_time = i64::MAX;
        assert!(!output_after(&later, 5));
        later.channels[2].count_load_time = i64::MIN;
        assert!(output_after(&later, 5));
    }
}
