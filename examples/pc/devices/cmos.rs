//! The real-time clock and the memory beside it that its battery keeps: an index at port 0x70, data at 0x71. Of that memory
//! it has what firmware asks for: how much RAM there is, and what to boot from.

use std::time::Duration;

/// Which register; the top bit, which masks NMIs on a PC, does nothing here.
pub(crate) const INDEX: u16 = 0x70;
/// The register.
pub(crate) const DATA: u16 = 0x71;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Registers, by their index.
mod register {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const DAY_OF_WEEK: u8 = 0x06;
    pub(super) const DAY_OF_MONTH: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const STATUS_A: u8 = 0x0a;
    pub(super) const STATUS_B: u8 = 0x0b;
    pub(super) const STATUS_C: u8 = 0x0c;
    pub(super) const STATUS_D: u8 = 0x0d;
    pub(super) const CENTURY: u8 = 0x32;

    /// KiB below 640 KiB; two bytes, as the others.
    pub(super) const BASE_MEMORY: usize = 0x15;
    /// KiB above 1 MiB, at two places.
    pub(super) const EXTENDED_MEMORY: [usize; 2] = [0x17, 0x30];
    /// Units of 64 KiB above 16 MiB.
    pub(super) const MEMORY_ABOVE_16M: usize = 0x34;
    /// What to boot from first, and second, a digit each: 2 is the hard disk.
    pub(super) const BOOT_ORDER: usize = 0x3d;
}

/// The clock's divider set for 32.768 kHz and its usual rate; no update under way, ever.
const STATUS_A: u8 = 0x26;
/// 24 hours, BCD.
const STATUS_B: u8 = 0x02;
/// The battery is good.
const STATUS_D: u8 = 0x80;

/// The clock and its memory.
#[derive(Debug)]
pub(crate) struct Cmos {
    index: u8,
    memory: [u8; 128],
}

impl Cmos {
    /// Of a PC with `ram` bytes of RAM, all of them below 4 GiB.
    pub(crate) fn new(ram: u64) -> Self {
        let mut cmos = Self { index: 0, memory: [0; 128] };
        cmos.put(register::BASE_MEMORY, 640);
        for place in register::EXTENDED_MEMORY {
            cmos.put(place, ram.saturating_sub(MIB) / KIB);
        }
        cmos.put(register::MEMORY_ABOVE_16M, ram.saturating_sub(16 * MIB) / (64 * KIB));
        cmos.memory[register::BOOT_ORDER] = 2;
        cmos
    }

    /// Two bytes, the most they can say where `value` is more.
    fn put(&mut self, place: usize, value: u64) {
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        self.memory[place..place + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// `now` is the time since 1970 that the clock shows, UTC.
    pub(crate) fn read(&self, port: u16, now: Duration) -> u8 {
        if port == INDEX {
            return super::FLOATING;
        }
        let time = Time::of(now.as_secs());
        match self.index {
            register::SECONDS => bcd(time.second),
            register::MINUTES => bcd(time.minute),
            register::HOURS => bcd(time.hour),
            register::DAY_OF_WEEK => bcd(time.day_of_week),
            register::DAY_OF_MONTH => bcd(time.day),
            register::MONTH => bcd(time.month),
            register::YEAR => bcd(time.year % 100),
            register::CENTURY => bcd(time.year / 100 % 100),
            register::STATUS_A => STATUS_A,
            register::STATUS_B => STATUS_B,
            // No interrupt waits, for it makes none.
            register::STATUS_C => 0,
            register::STATUS_D => STATUS_D,
            index => self.memory[usize::from(index)],
        }
    }

    /// The clock cannot be set; the memory keeps what is written.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        if port == INDEX {
            self.index = value & 0x7f;
        } else {
            self.memory[usize::from(self.index)] = value;
        }
    }
}

/// A number below 100 with a decimal digit in each half.
fn bcd(value: u64) -> u8 {
    // Below 100 both digits fit.
    (value / 10 % 10 * 16 + value % 10) as u8
}

/// A time in the Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Time {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    /// Sunday is 1.
    day_of_week: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    /// `seconds` after 1970 began.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (mut year, mut day) = (1970, days);
        while day >= days_of_year(year) {
            day -= days_of_year(year);
            year += 1;
        }
        let mut month = 1;
        while day >= days_of_month(year, month) {
            day -= days_of_month(year, month);
            month += 1;
        }
        Self {
            year,
            month,
            day: day + 1,
            // 1970 began on a Thursday.
            day_of_week: (days + 4) % 7 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cmos: &mut Cmos, index: u8, now: u64) -> u8 {
        cmos.write(INDEX, index);
        cmos.read(DATA, Duration::from_secs(now))
    }

    fn word(cmos: &mut Cmos, index: u8) -> u16 {
        u16::from_le_bytes([index, index + 1].map(|index| read(cmos, index, 0)))
    }

    /// Seconds, minutes, hours, day of the week, day, month, year, century.
    fn clock(now: u64) -> [u8; 8] {
        let mut cmos = Cmos::new(0);
        [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(|index| read(&mut cmos, index, now))
    }

    #[test]
    fn the_clock_shows_the_time_it_is_given() {
        assert_eq!(clock(0), [0x00, 0x00, 0x00, 0x05, 0x01, 0x01, 0x70, 0x19]);
        // `date -u -d @...`: Tue Feb 29 12:34:56 2000; Sat Nov 28 23:59:59 2026; Mon Mar 1 00:00:00 2100.
        assert_eq!(clock(951_827_696), [0x56, 0x34, 0x12, 0x03, 0x29, 0x02, 0x00, 0x20]);
        assert_eq!(clock(1_795_910_399), [0x59, 0x59, 0x23, 0x07, 0x28, 0x11, 0x26, 0x20]);
        assert_eq!(clock(4_107_542_400), [0x00, 0x00, 0x00, 0x02, 0x01, 0x03, 0x00, 0x21]);
    }

    #[test]
    fn the_clock_is_never_in_the_midst_of_an_update_and_cannot_be_set() {
        let mut cmos = Cmos::new(0);
        for (index, value) in [(0x0a, 0x26), (0x0b, 0x02), (0x0c, 0), (0x0d, 0x80), (0x00, 0x07)] {
            cmos.write(INDEX, index);
            cmos.write(DATA, 0xaa);
            assert_eq!(read(&mut cmos, index, 7), value, "{index:#x}");
        }
    }

    #[test]
    fn memory_is_told_in_kib_above_1_mib_and_in_64_kib_above_16_mib() {
        // RAM in MiB, KiB above 1 MiB, units of 64 KiB above 16 MiB.
        for (ram, extended, above) in
            [(1, 0, 0), (8, 7 << 10, 0), (16, 15 << 10, 0), (64, 63 << 10, 48 << 4), (3072, 0xffff, 3056 << 4)]
        {
            let mut cmos = Cmos::new(ram * MIB);
            assert_eq!(word(&mut cmos, 0x15), 640);
            for index in [0x17, 0x30] {
                assert_eq!(word(&mut cmos, index), extended, "{ram} MiB");
            }
            assert_eq!(word(&mut cmos, 0x34), above, "{ram} MiB");
        }
    }

    #[test]
    fn memory_keeps_what_is_written_whatever_the_nmi_bit() {
        let mut cmos = Cmos::new(0);
        cmos.write(INDEX, 0x80 | 0x0f);
        cmos.write(DATA, 0x5a);
        assert_eq!(read(&mut cmos, 0x0f, 0), 0x5a);
        assert_eq!(read(&mut cmos, 0x7f, 0), 0);
        assert_eq!(cmos.read(INDEX, Duration::ZERO), 0xff);
    }
}
