//! The timer of a local APIC: Intel SDM volume 3, section 12.5.4.
//!
//! Its input runs at 1 GHz, the frequency of KVM's and that of the time-stamp counter, so a count is a nanosecond times
//! the divisor. As in KVM a period is at least 200 microseconds, and a state that is set continues from its current
//! count.
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

use super::lapic::register::{CURRENT_COUNT, DIVISOR, INITIAL_COUNT, LVT};
use super::lapic::{Lapic, MASKED};
use super::time_source::NEVER;

/// The shortest period, in nanoseconds: KVM's `min_timer_period_us` of 200.
pub(in crate::mock) const SHORTEST_PERIOD: u64 = 200_000;
/// Bits of the timer's entry in the local vector table: its mode.
const MODE: u32 = 3 << 17;

/// What the timer's entry says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    fn of(entry: u32) -> Self {
        match entry & MODE {
            0 => Self::OneShot,
            PERIODIC => Self::Periodic,
            _ => Self::TscDeadline,
        }
    }
}

/// In the timer's entry: periodic mode.
pub(in crate::mock) const PERIODIC: u32 = 1 << 17;
/// In the timer's entry: the time-stamp counter's deadline.
pub(in crate::mock) const TSC_DEADLINE: u32 = 1 << 18;

/// What its registers do not hold.
pub(in crate::mock) struct Timer {
    /// By the VM's clock; [`NEVER`] where it does not run.
    expires: u64,
    /// `IA32_TSC_DEADLINE`, 0 where it is not armed.
    tsc_deadline: u64,
    /// What is added to the VM's clock to give the time-stamp counter.
    tsc_offset: u64,
    /// Whether CPUID offers the deadline mode.
    has_deadline_mode: bool,
}

impl Default for Timer {
    fn default() -> Self {
        Self { expires: NEVER, tsc_deadline: 0, tsc_offset: 0, has_deadline_mode: true }
    }
}

impl Timer {
    /// When it expires, by the VM's clock.
    pub(in crate::mock) fn expires(&self) -> u64 {
        self.expires
    }

    pub(in crate::mock) fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    pub(in crate::mock) fn has_deadline_mode(&self) -> bool {
        self.has_deadline_mode
    }

    pub(in crate::mock) fn set_has_deadline_mode(&mut self, has: bool) {
        self.has_deadline_mode = has;
    }

    fn stop(&mut self) {
        (self.expires, self.tsc_deadline) = (NEVER, 0);
    }
}

impl Lapic {
    fn timer_mode(&self) -> Mode {
        Mode::of(self.register(LVT))
    }

    /// By how much the timer's input is divided.
    fn divisor(&self) -> u64 {
        let register = self.register(DIVISOR);
        let exponent = (register & 3 | register >> 1 & 4).wrapping_add(1) & 7;
        1 << exponent
    }

    /// How long so many counts take, in nanoseconds.
    fn duration_of(&self, count: u32) -> u64 {
        // 32 and 8 bits.
        u64::from(count).saturating_mul(self.divisor())
    }

    /// How long the initial count takes.
    fn period(&self) -> u64 {
        let period = self.duration_of(self.register(INITIAL_COUNT));
        if period != 0 && self.timer_mode() == Mode::Periodic { period.max(SHORTEST_PERIOD) } else { period }
    }

    /// INIT stops the timer.
    pub(in crate::mock) fn init_timer(&mut self) {
        self.timer.stop();
    }

    /// The current count, which is 0 where the timer does not count.
    pub(in crate::mock) fn current_count(&self, now: u64) -> u32 {
        if self.timer.expires == NEVER || self.timer_mode() == Mode::TscDeadline {
            return 0;
        }
        let remaining = match self.timer.expires.checked_sub(now) {
            Some(remaining) => remaining,
            None if self.timer_mode() == Mode::Periodic => {
                let late = now.saturating_sub(self.timer.expires).checked_rem(self.period()).unwrap_or(0);
                self.period().saturating_sub(late)
            }
            None => 0,
        };
        remaining.checked_div(self.divisor()).unwrap_or(0) as u32
    }

    /// A write to the initial count starts the timer, or stops it. With the time-stamp counter's deadline it does
    /// nothing.
    pub(in crate::mock) fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.timer_mode() == Mode::TscDeadline {
            return;
        }
        self.set_register(INITIAL_COUNT, count);
        self.timer.expires = if count == 0 { NEVER } else { now.saturating_add(self.period()) };
    }

    /// Another divisor: the counts that are left stay, and take longer or shorter.
    pub(in crate::mock) fn set_divisor(&mut self, value: u32, now: u64) {
        let left = self.current_count(now);
        self.set_register(DIVISOR, value & 0xb);
        if self.timer.expires != NEVER && self.timer_mode() != Mode::TscDeadline {
            self.timer.expires = now.saturating_add(self.duration_of(left));
        }
    }

    /// The timer's entry was written. A change from or to the time-stamp counter's deadline stops the timer.
    pub(in crate::mock) fn timer_entry_changed(&mut self, before: u32) {
        let [before, after] = [before, self.register(LVT)].map(Mode::of);
        if before != after && (before == Mode::TscDeadline || after == Mode::TscDeadline) {
            self.timer.stop();
            self.set_register(INITIAL_COUNT, 0);
        }
    }

    /// The page was set: the timer continues from the current count there.
    pub(in crate::mock) fn resume_timer(&mut self, now: u64) {
        if self.timer_mode() == Mode::TscDeadline {
            return self.set_tsc_deadline(self.timer.tsc_deadline, now);
        }
        self.timer.stop();
        let (period, left) = (self.period(), self.duration_of(self.register(CURRENT_COUNT)));
        let first = match left {
            0 if self.timer_mode() == Mode::Periodic => period,
            left => left.min(period),
        };
        if period != 0 {
            self.timer.expires = now.saturating_add(first);
        }
    }

    /// `IA32_TSC_DEADLINE`, which reads as 0 in the other modes.
    pub(in crate::mock) fn tsc_deadline(&self) -> u64 {
        if self.timer_mode() == Mode::TscDeadline { self.timer.tsc_deadline } else { 0 }
    }

    /// Arms the timer for the time when the time-stamp counter has this value, or stops it by 0. Nothing happens in the
    /// other modes.
    pub(in crate::mock) fn set_tsc_deadline(&mut self, deadline: u64, now: u64) {
        if self.timer_mode() != Mode::TscDeadline {
            return;
        }
        self.timer.tsc_deadline = deadline;
        let left = deadline.saturating_sub(now.wrapping_add(self.timer.tsc_offset));
        self.timer.expires = if deadline == 0 { NEVER } else { now.saturating_add(left) };
    }

    /// The time-stamp counter is this much ahead of the VM's clock now.
    pub(in crate::mock) fn set_tsc_offset(&mut self, offset: u64, now: u64) {
        self.timer.tsc_offset = offset;
        self.set_tsc_deadline(self.timer.tsc_deadline, now);
    }

    /// Time has come to `now`: requests the timer's vector, if it has expired.
    pub(in crate::mock) fn pass(&mut self, now: u64) {
        let Some(late) = now.checked_sub(self.timer.expires) else { return };
        let period = self.period();
        if self.timer_mode() == Mode::Periodic && period != 0 {
            let periods = late.checked_div(period).unwrap_or(0).saturating_add(1);
            self.timer.expires = self.timer.expires.saturating_add(periods.saturating_mul(period));
        } else {
            self.timer.stop();
        }
        let entry = self.register(LVT);
        if entry & MASKED == 0 {
            self.request(entry as u8, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lapic::SOFTWARE_ENABLED;
    use super::super::lapic::register::SPURIOUS;
    use super::*;
    use crate::VcpuId;

    /// One whose timer has this entry, with a divisor of 1.
    fn with(entry: u32) -> Lapic {
        let mut lapic = Lapic::new(VcpuId(0));
        lapic.set_register(SPURIOUS, SOFTWARE_ENABLED | 0xff);
        lapic.set_register(LVT, entry);
        lapic.set_register(DIVISOR, 0xb);
        lapic
    }

    #[test]
    fn each_divisor_is_that_of_the_manual() {
        let divisors = [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xa, 128), (0xb, 1)];
        for (register, divisor) in divisors {
            let mut lapic = with(0x41);
            lapic.set_divisor(register, 0);
            assert_eq!(lapic.divisor(), divisor, "{register:#x}");
            lapic.set_initial_count(1000, 0);
            assert_eq!(lapic.timer.expires(), 1000 * divisor);
            assert_eq!(lapic.current_count(divisor), 999);
        }
    }

    #[test]
    fn one_shot_expires_once() {
        let mut lapic = with(0x41);
        lapic.set_initial_count(1000, 50);
        assert_eq!([50, 51, 1049, 1050, 2000].map(|now| lapic.current_count(now)), [1000, 999, 1, 0, 0]);
        lapic.pass(1049);
        assert_eq!(lapic.next(), None);
        lapic.pass(1050);
        assert_eq!((lapic.take(), lapic.timer.expires()), (Some(0x41), NEVER));
        assert_eq!((lapic.current_count(1050), lapic.register(INITIAL_COUNT)), (0, 1000));
    }

    #[test]
    fn periodic_expires_again_and_keeps_its_phase() {
        let mut lapic = with(PERIODIC | 0x41);
        lapic.set_initial_count(1_000_000, 0);
        assert_eq!([0, 999_999, 1_000_000, 1_000_001].map(|now| lapic.current_count(now)), [1_000_000, 1, 0, 999_999]);
        lapic.pass(1_000_000);
        assert_eq!((lapic.take(), lapic.timer.expires()), (Some(0x41), 2_000_000));
        assert_eq!(lapic.end(), Some((0x41, false)));
        lapic.pass(5_300_000);
        assert_eq!((lapic.take(), lapic.next(), lapic.timer.expires()), (Some(0x41), None, 6_000_000));
    }

    #[test]
    fn a_short_period_is_made_longer() {
        let mut lapic = with(PERIODIC | 0x41);
        lapic.set_initial_count(10, 0);
        assert_eq!(lapic.timer.expires(), SHORTEST_PERIOD);
    }

    #[test]
    fn a_masked_timer_expires_without_an_interrupt() {
        let mut lapic = with(MASKED | 0x41);
        lapic.set_initial_count(10, 0);
        lapic.pass(10);
        assert_eq!((lapic.next(), lapic.timer.expires()), (None, NEVER));
    }

    #[test]
    fn the_deadline_is_that_of_the_time_stamp_counter() {
        let mut lapic = with(TSC_DEADLINE | 0x41);
        lapic.set_tsc_offset(500, 0);
        lapic.set_tsc_deadline(1500, 100);
        assert_eq!((lapic.tsc_deadline(), lapic.timer.expires(), lapic.current_count(200)), (1500, 1000, 0));
        lapic.set_tsc_offset(1000, 100);
        assert_eq!(lapic.timer.expires(), 500, "the counter was moved on");
        lapic.pass(500);
        assert_eq!((lapic.take(), lapic.tsc_deadline(), lapic.timer.expires()), (Some(0x41), 0, NEVER));
        lapic.set_tsc_deadline(10, 600);
        assert_eq!(lapic.timer.expires(), 600, "one that has passed");
        lapic.set_tsc_deadline(0, 600);
        assert_eq!(lapic.timer.expires(), NEVER);
        lapic.set_initial_count(5, 600);
        assert_eq!((lapic.register(INITIAL_COUNT), lapic.timer.expires()), (0, NEVER));
    }

    #[test]
    fn a_change_to_or_from_the_deadline_mode_stops_the_timer() {
        let mut lapic = with(0x41);
        lapic.set_initial_count(1000, 0);
        lapic.set_register(LVT, PERIODIC | 0x41);
        lapic.timer_entry_changed(0x41);
        assert_eq!(lapic.timer.expires(), 1000);
        lapic.set_register(LVT, TSC_DEADLINE | 0x41);
        lapic.timer_entry_changed(PERIODIC | 0x41);
        assert_eq!((lapic.timer.expires(), lapic.register(INITIAL_COUNT)), (NEVER, 0));
        lapic.set_tsc_deadline(10, 0);
        lapic.set_register(LVT, 0x41);
        lapic.timer_entry_changed(TSC_DEADLINE | 0x41);
        assert_eq!((lapic.timer.expires(), lapic.tsc_deadline()), (NEVER, 0));
    }

    #[test]
    fn init_stops_the_timer() {
        for entry in [0x41, PERIODIC | 0x41] {
            let mut lapic = with(entry);
            lapic.set_initial_count(1000, 0);
            lapic.init();
            assert_eq!((lapic.timer.expires(), lapic.register(INITIAL_COUNT), lapic.register(LVT)), (NEVER, 0, MASKED));
        }
    }

    #[test]
    fn another_divisor_leaves_the_counts_that_are_left() {
        let mut lapic = with(0x41);
        lapic.set_initial_count(1000, 0);
        lapic.set_divisor(0, 400);
        assert_eq!((lapic.current_count(400), lapic.timer.expires()), (600, 1600));
    }

    #[test]
    fn a_state_that_is_set_continues_from_its_count() {
        let mut lapic = with(PERIODIC | 0x41);
        lapic.set_initial_count(1_000_000, 0);
        let state = lapic.state(400_000);
        let mut other = Lapic::new(VcpuId(0));
        other.set_state(&state, 9_000_000);
        assert_eq!((other.current_count(9_000_000), other.timer.expires()), (600_000, 9_600_000));
    }
}
