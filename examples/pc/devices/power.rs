//! ACPI's registers for power, those of the block PM1a: events, of which none happens, and control, by which the guest switches
//! the PC off.

use std::ops::RangeInclusive;

/// Status and enable bits of events, two bytes each.
pub(crate) const EVENTS: u16 = 0x600;
/// The control register, two bytes.
pub(crate) const CONTROL: u16 = 0x604;
/// All of them.
pub(crate) const PORTS: RangeInclusive<u16> = EVENTS..=CONTROL + 1;

/// The type of sleep that is "off", 3 bits.
pub(crate) const OFF: u8 = 5;

const ENABLE: u16 = EVENTS + 2;
/// In the control register's low byte: the machine is in ACPI's mode, always.
const SCI_ENABLE: u8 = 0x01;
/// In its high byte: the type, and "now".
const TYPE: u8 = 0x1c;
const SLEEP: u8 = 0x20;

/// The registers.
#[derive(Debug, Default)]
pub(crate) struct Power {
    enable: [u8; 2],
    sleep_type: u8,
}

impl Power {
    /// Of one of [`PORTS`].
    pub(crate) fn read(&self, port: u16) -> u8 {
        match port {
            ENABLE => self.enable[0],
            CONTROL => SCI_ENABLE,
            _ if port == ENABLE + 1 => self.enable[1],
            _ if port == CONTROL + 1 => self.sleep_type,
            _ => 0,
        }
    }

    /// Returns whether this switches the PC off.
    #[must_use]
    pub(crate) fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            ENABLE => self.enable[0] = value,
            _ if port == ENABLE + 1 => self.enable[1] = value,
            _ if port == CONTROL + 1 => {
                self.sleep_type = value & TYPE;
                return value & SLEEP != 0 && value & TYPE == OFF << 2;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sleep_of_the_type_off_switches_off() {
        let mut power = Power::default();
        for value in 0..=0xff {
            let is_off = value & 0x20 != 0 && value & 0x1c == 0x14;
            assert_eq!(power.write(0x605, value), is_off, "{value:#x}");
        }
        assert!(!power.write(0x604, 0xff));
        assert!(!power.write(0x600, 0xff));
    }

    #[test]
    fn the_mode_is_acpi_and_no_event_has_happened() {
        let mut power = Power::default();
        for (port, value) in [(0x600, 0xff), (0x601, 0xff), (0x602, 0x20), (0x603, 0x01), (0x604, 0), (0x605, 0x14)] {
            let _ = power.write(port, value);
        }
        assert_eq!(PORTS.map(|port| power.read(port)).collect::<Vec<_>>(), [0, 0, 0x20, 0x01, 0x01, 0x14]);
    }
}
