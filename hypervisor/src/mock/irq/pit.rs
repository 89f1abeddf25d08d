//! The interval timer of a PC, an 8254: the state that KVM has of it, and what time and the guest make of that by
//! Intel's data sheet.
//!
//! The first channel interrupts; its gate is always open. The third is the speaker's, whose gate and output are at port
//! 0x61, which is not the PIT's: setting the state, or a count, is what its gate's rise would be. As in KVM interrupts
//! that come while one has not ended are made up for at its end. `docs/mock-chips.md` lists what was checked.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use kvm_bindings::{KVM_PIT_FLAGS_HPET_LEGACY, kvm_pit_channel_state as Channel, kvm_pit_state2};

use super::lapic_timer::SHORTEST_PERIOD;
use crate::mock::reset;

/// Counts a second: a third of a colour carrier's frequency, in hertz.
const FREQUENCY: u64 = 1_193_182;
const NANOSECONDS: u64 = 1_000_000_000;
/// The count that is written as 0, and the same in BCD.
const LARGEST_COUNT: u32 = 0x1_0000;
const LARGEST_DECIMAL: u32 = 10_000;

/// The first port, and how many there are.
const PORT: u64 = 0x40;
const PORTS: u64 = 4;
/// The last: commands.
const COMMAND: u8 = 3;

/// How bytes are read and written (`rw_mode`), and which is next.
const HIGH: u8 = 2;
const LOW_OF_TWO: u8 = 3;
const HIGH_OF_TWO: u8 = 4;

pub(in crate::mock) struct Pit {
    state: kvm_pit_state2,
    /// The first channel's.
    timer: Option<Timer>,
    /// Interrupts that have come since the last that has ended, and it.
    pending: u32,
    /// The last interrupt has ended.
    has_ended: bool,
}

#[derive(Clone, Copy)]
struct Timer {
    start: u64,
    next: u64,
    period: u64,
    repeats: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self { state: reset::pit(), timer: None, pending: 0, has_ended: true }
    }
}

impl Pit {
    /// The port at which an access of this width begins, 0 to 3, where all of it is the PIT's.
    pub(in crate::mock) fn port_of(number: u64, width: usize) -> Option<u8> {
        let first = number.checked_sub(PORT)?;
        (first.saturating_add(width as u64) <= PORTS).then_some(first as u8)
    }

    pub(in crate::mock) fn state(&self) -> kvm_pit_state2 {
        self.state
    }

    /// Sets the state; all counts begin anew.
    pub(in crate::mock) fn set_state(&mut self, new: &kvm_pit_state2, now: u64) {
        self.state = kvm_pit_state2 { reserved: [0; 9], ..*new };
        for (index, channel) in new.channels.iter().enumerate() {
            self.load(index, channel.count, now);
        }
    }

    /// When the first channel interrupts next.
    pub(in crate::mock) fn deadline(&self) -> Option<u64> {
        self.timer.map(|timer| timer.next)
    }

    /// Time has come to `now`: whether there is an interrupt.
    pub(in crate::mock) fn pass(&mut self, now: u64) -> bool {
        let Some(timer) = self.timer.as_mut().filter(|timer| timer.next <= now) else { return false };
        let late = now.saturating_sub(timer.next);
        let more = if timer.repeats { late.checked_div(timer.period).unwrap_or(0) } else { 0 };
        let count = more.saturating_add(1);
        if timer.repeats {
            timer.start = timer.start.saturating_add(count.saturating_mul(timer.period));
            timer.next = timer.start.saturating_add(timer.period);
        } else {
            timer.next = u64::MAX;
        }
        self.pending = self.pending.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        std::mem::take(&mut self.has_ended)
    }

    /// The interrupt has ended: whether the next comes at once.
    pub(in crate::mock) fn end(&mut self) -> bool {
        self.pending = self.pending.saturating_sub(1);
        self.has_ended = self.pending == 0;
        !self.has_ended
    }

    /// Its pin is not masked any more: what came meanwhile is forgotten.
    pub(in crate::mock) fn forget(&mut self) {
        (self.pending, self.has_ended) = (0, true);
    }

    fn load(&mut self, index: usize, count: u32, now: u64) {
        let Some(channel) = self.state.channels.get_mut(index) else { return };
        channel.count = if count == 0 { LARGEST_COUNT } else { count };
        if index != 0 {
            channel.count_load_time = now.cast_signed();
            return;
        }
        let repeats = matches!(channel.mode, 2 | 3);
        let period = nanoseconds(counts(channel));
        let period = if repeats { period.max(SHORTEST_PERIOD) } else { period };
        // Modes 1 and 5 wait for a rise of the gate.
        let interrupts = matches!(channel.mode, 0 | 2 | 3 | 4) && self.state.flags & KVM_PIT_FLAGS_HPET_LEGACY == 0;
        self.timer = interrupts.then_some(Timer { start: now, next: now.saturating_add(period), period, repeats });
        self.forget();
    }

    /// Counts since a channel's count was loaded, or since its last period began.
    fn counted(&self, index: usize, now: u64) -> u64 {
        let start = match (index, self.timer, self.state.channels.get(index)) {
            (0, timer, _) => timer.map(|timer| timer.start),
            (_, _, channel) => channel.map(|channel| channel.count_load_time.cast_unsigned()),
        };
        let elapsed = u128::from(start.map_or(0, |start| now.saturating_sub(start)));
        let counts = elapsed.saturating_mul(FREQUENCY.into()).checked_div(NANOSECONDS.into());
        counts.unwrap_or(0) as u64
    }

    /// A channel's count, and its output.
    fn look(&self, index: usize, now: u64) -> (u16, bool) {
        let Some(channel) = self.state.channels.get(index) else { return (0, false) };
        let (count, counted) = (u64::from(counts(channel)), self.counted(index, now));
        let within = counted.checked_rem(count).unwrap_or(0);
        let down = |by: u64| encode(channel, count.wrapping_sub(by));
        match channel.mode {
            0 | 1 => (down(counted), counted >= count),
            2 => (down(within), within.saturating_add(1) != count),
            3 => {
                // It goes down by 2, twice in a period, from an even number.
                let half = count.div_ceil(2);
                let step = within.checked_sub(half).unwrap_or(within);
                (encode(channel, (count & !1).wrapping_sub(step.wrapping_mul(2))), within < half)
            }
            4 | 5 => (down(counted), counted != count),
            _ => (down(within), false),
        }
    }

    fn latch_count(&mut self, index: usize, now: u64) {
        let (count, _) = self.look(index, now);
        if let Some(channel) = self.state.channels.get_mut(index).filter(|channel| channel.count_latched == 0) {
            (channel.latched_count, channel.count_latched) = (count, channel.rw_mode);
        }
    }

    fn latch_status(&mut self, index: usize, now: u64) {
        let (_, output) = self.look(index, now);
        if let Some(channel) = self.state.channels.get_mut(index).filter(|channel| channel.status_latched == 0) {
            channel.status = u8::from(output) << 7 | channel.rw_mode << 4 | channel.mode << 1 | channel.bcd;
            channel.status_latched = 1;
        }
    }

    /// The guest writes to a port.
    pub(in crate::mock) fn write(&mut self, port: u8, value: u8, now: u64) {
        if port == COMMAND {
            return self.command(value, now);
        }
        let index = usize::from(port);
        let Some(channel) = self.state.channels.get_mut(index) else { return };
        let count = match channel.write_state {
            HIGH => u32::from(value) << 8,
            LOW_OF_TWO => {
                (channel.write_latch, channel.write_state) = (value, HIGH_OF_TWO);
                return;
            }
            HIGH_OF_TWO => {
                channel.write_state = LOW_OF_TWO;
                u32::from(value) << 8 | u32::from(channel.write_latch)
            }
            _ => value.into(),
        };
        self.load(index, count, now);
    }

    fn command(&mut self, value: u8, now: u64) {
        const READ_BACK: u8 = 3;
        const NO_COUNT: u8 = 0x20;
        const NO_STATUS: u8 = 0x10;
        let index = value >> 6;
        if index == READ_BACK {
            for index in (0..3_usize).filter(|index| value >> index & 2 != 0) {
                if value & NO_COUNT == 0 {
                    self.latch_count(index, now);
                }
                if value & NO_STATUS == 0 {
                    self.latch_status(index, now);
                }
            }
            return;
        }
        let bytes = value >> 4 & 3;
        if bytes == 0 {
            return self.latch_count(index.into(), now);
        }
        if let Some(channel) = self.state.channels.get_mut(usize::from(index)) {
            (channel.rw_mode, channel.read_state, channel.write_state) = (bytes, bytes, bytes);
            // Modes 2 and 3 have two numbers.
            channel.mode = match value >> 1 & 7 {
                mode @ 6.. => mode & 3,
                mode => mode,
            };
            channel.bcd = value & 1;
            // The channel begins anew: nothing is latched any more, and it does not count until it has a count.
            (channel.count_latched, channel.status_latched) = (0, 0);
            if index == 0 {
                self.timer = None;
            }
        }
    }

    /// The guest reads a port.
    pub(in crate::mock) fn read(&mut self, port: u8, now: u64) -> u8 {
        let index = usize::from(port);
        let (count, _) = self.look(index, now);
        let Some(channel) = self.state.channels.get_mut(index) else { return 0 };
        if channel.status_latched != 0 {
            channel.status_latched = 0;
            return channel.status;
        }
        let [low, high] = if channel.count_latched == 0 { count } else { channel.latched_count }.to_le_bytes();
        if channel.count_latched != 0 {
            let (byte, next) = match channel.count_latched {
                HIGH => (high, 0),
                LOW_OF_TWO => (low, HIGH),
                _ => (low, 0),
            };
            channel.count_latched = next;
            return byte;
        }
        let (byte, next) = match channel.read_state {
            HIGH => (high, HIGH),
            LOW_OF_TWO => (low, HIGH_OF_TWO),
            HIGH_OF_TWO => (high, LOW_OF_TWO),
            other => (low, other),
        };
        channel.read_state = next;
        byte
    }
}

/// A channel's count; digits are decimal ones in BCD.
fn counts(channel: &Channel) -> u32 {
    let decimal = |count: u32| {
        [12, 8, 4, 0].iter().fold(0_u32, |sum, shift| sum.wrapping_mul(10).wrapping_add(count >> shift & 0xf))
    };
    match (channel.bcd, channel.count) {
        (0, count) => count,
        (_, LARGEST_COUNT) => LARGEST_DECIMAL,
        (_, count) => decimal(count),
    }
}

/// A number, of which there are as many as the largest count, as a channel shows it.
fn encode(channel: &Channel, number: u64) -> u16 {
    if channel.bcd == 0 {
        return number as u16;
    }
    // Below 0 it goes on from the largest.
    let number = number.cast_signed().checked_rem_euclid(LARGEST_DECIMAL.into()).unwrap_or(0);
    let digit = |place: i64| number.checked_div(place).unwrap_or(0).checked_rem(10).unwrap_or(0) as u16;
    digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
}

/// How long so many counts take.
fn nanoseconds(counts: u32) -> u64 {
    // 32 and 30 bits.
    u64::from(counts).saturating_mul(NANOSECONDS).checked_div(FREQUENCY).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PIT whose channel has this count, both bytes of which were written at time 0.
    fn with(channel: u8, mode: u8, count: u16) -> Pit {
        let mut pit = Pit::default();
        pit.write(COMMAND, channel << 6 | 0x30 | mode << 1, 0);
        for byte in count.to_le_bytes() {
            pit.write(channel, byte, 0);
        }
        pit
    }

    /// When this many counts have passed.
    fn after(counts: u64) -> u64 {
        (counts * NANOSECONDS).div_ceil(FREQUENCY)
    }

    fn count(pit: &mut Pit, channel: u8, now: u64) -> u16 {
        pit.write(COMMAND, channel << 6, now);
        u16::from_le_bytes([pit.read(channel, now), pit.read(channel, now)])
    }

    fn output(pit: &mut Pit, channel: u8, now: u64) -> bool {
        pit.write(COMMAND, 0xe0 | 2 << channel, now);
        pit.read(channel, now) & 0x80 != 0
    }

    #[test]
    fn counts_and_outputs_are_those_of_their_mode() {
        for (mode, expected) in [
            (0, [(1000, false), (1, false), (0, true), (0xffff, true)]),
            (1, [(1000, false), (1, false), (0, true), (0xffff, true)]),
            (2, [(1000, true), (1, false), (1000, true), (999, true)]),
            (3, [(1000, true), (2, false), (1000, true), (998, true)]),
            (4, [(1000, true), (1, true), (0, false), (0xffff, true)]),
            (5, [(1000, true), (1, true), (0, false), (0xffff, true)]),
        ] {
            let mut pit = with(2, mode, 1000);
            for (counted, expected) in [0, 999, 1000, 1001].into_iter().zip(expected) {
                let now = after(counted);
                assert_eq!((count(&mut pit, 2, now), output(&mut pit, 2, now)), expected, "mode {mode}, {counted}");
            }
        }
    }

    #[test]
    fn an_odd_square_wave_is_high_for_one_count_longer() {
        let mut pit = with(2, 3, 5);
        let seen =
            [0, 1, 2, 3, 4, 5].map(|counted| (count(&mut pit, 2, after(counted)), output(&mut pit, 2, after(counted))));
        assert_eq!(seen, [(4, true), (2, true), (0, true), (4, false), (2, false), (4, true)]);
    }

    #[test]
    fn decimal_counts_have_decimal_digits() {
        for (written, expected) in [(0x1000, [0x1000, 0x0999, 0x0000, 0x9999]), (0, [0x0000, 0x9999, 0x9000, 0x8999])] {
            let mut pit = Pit::default();
            for (port, value) in [(COMMAND, 0xb1), (2, written as u8), (2, (written >> 8) as u8)] {
                pit.write(port, value, 0);
            }
            assert_eq!([0, 1, 1000, 1001].map(|counted| count_of(&mut pit, after(counted))), expected);
        }
        let mut pit = Pit::default();
        for (port, value) in [(COMMAND, 0x31), (0, 0), (0, 0x10)] {
            pit.write(port, value, 0);
        }
        assert_eq!(pit.deadline(), Some(nanoseconds(1000)));
    }

    /// The third channel's count, latched.
    fn count_of(pit: &mut Pit, now: u64) -> u16 {
        pit.write(COMMAND, 0x80, now);
        u16::from_le_bytes([pit.read(2, now), pit.read(2, now)])
    }

    #[test]
    fn a_control_word_ends_what_was_latched_and_the_count() {
        let mut pit = with(0, 2, 1000);
        pit.write(COMMAND, 0xc2, after(10));
        assert_eq!((pit.state().channels[0].count_latched, pit.state().channels[0].status_latched), (3, 1));
        pit.write(COMMAND, 0x14, after(10));
        assert_eq!((pit.state().channels[0].count_latched, pit.state().channels[0].status_latched), (0, 0));
        assert_eq!(pit.deadline(), None);
        pit.write(0, 200, after(10));
        assert_eq!(pit.read(0, after(110)), 100, "the count as it is");
    }

    #[test]
    fn a_latched_count_stays_until_it_was_read() {
        let mut pit = with(2, 2, 1000);
        pit.write(COMMAND, 0x80, after(10));
        pit.write(COMMAND, 0x80, after(20));
        assert_eq!([pit.read(2, after(30)), pit.read(2, after(30))], 990_u16.to_le_bytes());
    }

    #[test]
    fn modes_that_wait_for_the_gate_do_not_interrupt() {
        for (mode, interrupts) in [(0, true), (1, false), (2, true), (3, true), (4, true), (5, false)] {
            assert_eq!(with(0, mode, 1000).deadline().is_some(), interrupts, "mode {mode}");
        }
    }

    #[test]
    fn it_interrupts_once_or_again_and_again() {
        let mut once = with(0, 0, 1000);
        assert!(!once.pass(nanoseconds(1000) - 1));
        assert!(once.pass(nanoseconds(1000)));
        assert!(!once.end());
        assert!(!once.pass(after(100_000)));

        let mut again = with(0, 2, 1000);
        let period = nanoseconds(1000);
        for round in 1..4 {
            assert_eq!(again.deadline(), Some(round * period));
            assert!(!again.pass(round * period - 1));
            assert!(again.pass(round * period));
            assert!(!again.end());
        }
    }

    #[test]
    fn interrupts_that_were_missed_are_made_up_for() {
        let mut pit = with(0, 2, 1000);
        assert!(pit.pass(3 * nanoseconds(1000)));
        assert!(!pit.pass(3 * nanoseconds(1000)));
        assert_eq!([pit.end(), pit.end(), pit.end()], [true, true, false]);
        assert!(pit.pass(5 * nanoseconds(1000)));
        pit.forget();
        assert!(!pit.end());
    }

    #[test]
    fn a_short_period_is_made_longer() {
        assert_eq!(with(0, 2, 10).deadline(), Some(SHORTEST_PERIOD));
        assert_eq!(with(0, 0, 10).deadline(), Some(nanoseconds(10)));
        assert_eq!(with(0, 5, 10).deadline(), None);
    }

    #[test]
    fn bytes_are_read_and_written_as_they_were_asked_for() {
        let mut pit = Pit::default();
        for (command, written, expected) in [(0x90, 0x12, 0x12), (0xa0, 0x12, 0x1200), (0x90, 0, LARGEST_COUNT)] {
            pit.write(COMMAND, command, 0);
            pit.write(2, written, 0);
            assert_eq!(pit.state().channels[2].count, expected);
        }
        assert_eq!(pit.read(COMMAND, 0), 0);
    }
}
