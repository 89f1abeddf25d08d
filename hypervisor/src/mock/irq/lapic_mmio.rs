//! The page of a local APIC's registers, as its guest reads and writes it: which there are, and what a write does.
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

use super::lapic::register::*;
use super::lapic::{LVT_ENTRIES, Lapic, MASKED, SOFTWARE_ENABLED};
use super::lapic_timer::{PERIODIC, TSC_DEADLINE};

/// What a write to a local APIC does beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) enum Written {
    /// Nothing.
    Nothing,
    /// The interrupt of this vector has ended, which was triggered by level or not.
    Ended { vector: u8, by_level: bool },
    /// A command is to be sent: its halves.
    Command { low: u32, high: u32 },
}

/// Bytes that an access can reach, of the 16 of each register.
const WIDTH: usize = 4;

impl Lapic {
    /// Reads 1 to 8 bytes, lowest first. What cannot be read is 0; all is ones where the local APIC is off.
    pub(in crate::mock) fn read(&self, offset: usize, width: usize, now: u64) -> u64 {
        let (register, skipped) = (offset & !0xf, offset & 0xf);
        if !self.is_on() {
            return u64::MAX;
        }
        // No more than 15 and 8.
        if skipped.saturating_add(width) > WIDTH {
            return 0;
        }
        let value = match register {
            PROCESSOR_PRIORITY => self.priority().into(),
            END => 0,
            CURRENT_COUNT => self.current_count(now),
            _ => self.register(register),
        };
        (u64::from(value) >> (skipped << 3)) & !(u64::MAX << (width << 3))
    }

    /// Writes a register, which takes aligned words alone.
    pub(in crate::mock) fn write(&mut self, offset: usize, data: &[u8], now: u64) -> Written {
        let &[a, b, c, d] = data else { return Written::Nothing };
        if self.is_on() && offset & 0xf == 0 {
            self.write_register(offset, u32::from_le_bytes([a, b, c, d]), now)
        } else {
            Written::Nothing
        }
    }

    fn write_register(&mut self, offset: usize, value: u32, now: u64) -> Written {
        const HIGHEST_BYTE: u32 = 0xff00_0000;
        const SPURIOUS_BITS: u32 = 0x3ff;
        const BUSY: u32 = 1 << 12;
        match offset {
            ID | LOGICAL_ID | COMMAND_HIGH => self.set_register(offset, value & HIGHEST_BYTE),
            TASK_PRIORITY => {
                self.set_register(offset, value & 0xff);
                self.update_priority();
            }
            END => {
                if let Some((vector, by_level)) = self.end() {
                    return Written::Ended { vector, by_level };
                }
            }
            LOGICAL_FORMAT => self.set_register(offset, value | !(0xf << 28)),
            SPURIOUS => {
                self.set_register(offset, value & SPURIOUS_BITS);
                if value & SOFTWARE_ENABLED == 0 {
                    for entry in entries() {
                        self.set_register(entry, self.register(entry) | MASKED);
                    }
                }
            }
            COMMAND => {
                // It is never busy: a command is sent at once.
                let low = value & !BUSY;
                self.set_register(offset, low);
                return Written::Command { low, high: self.register(COMMAND_HIGH) };
            }
            INITIAL_COUNT => self.set_initial_count(value, now),
            DIVISOR => self.set_divisor(value, now),
            _ => self.write_entry(offset, value),
        }
        Written::Nothing
    }

    /// Writes an entry of the local vector table, if it is one. They stay masked while software has turned the APIC
    /// off.
    fn write_entry(&mut self, offset: usize, value: u32) {
        const VECTOR_AND_STATE: u32 = 0x10ff | MASKED;
        const MODE: u32 = 7 << 8;
        const PIN: u32 = 7 << 13;
        let Some(index) = entries().position(|entry| entry == offset) else { return };
        let writable = VECTOR_AND_STATE
            | match index {
                0 if self.timer.has_deadline_mode() => PERIODIC | TSC_DEADLINE,
                0 => PERIODIC,
                1 | 2 => MODE,
                3 | 4 => MODE | PIN,
                _ => 0,
            };
        let is_enabled = self.register(SPURIOUS) & SOFTWARE_ENABLED != 0;
        let before = self.register(offset);
        self.set_register(offset, value & writable | if is_enabled { 0 } else { MASKED });
        if index == 0 {
            self.timer_entry_changed(before);
        }
    }
}

/// The offsets of the local vector table's.
fn entries() -> impl Iterator<Item = usize> {
    (LVT..).step_by(0x10).take(LVT_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VcpuId;

    #[test]
    fn a_register_is_written_by_aligned_words_and_read_in_parts() {
        let mut lapic = Lapic::new(VcpuId(0));
        assert_eq!(lapic.write(TASK_PRIORITY, &[0x12, 0x34, 0, 0], 0), Written::Nothing);
        assert_eq!(lapic.read(TASK_PRIORITY, 4, 0), 0x12);
        for (offset, data) in
            [(TASK_PRIORITY + 1, &[1, 2, 3, 4][..]), (TASK_PRIORITY, &[1, 2]), (TASK_PRIORITY, &[1; 8])]
        {
            let _ = lapic.write(offset, data, 0);
            assert_eq!(lapic.read(TASK_PRIORITY, 4, 0), 0x12);
        }
        assert_eq!(
            [lapic.read(VERSION, 4, 0), lapic.read(VERSION + 2, 1, 0), lapic.read(VERSION, 8, 0)],
            [0x5_0014, 5, 0]
        );
    }

    #[test]
    fn the_local_vector_table_is_masked_while_software_has_it_off() {
        let mut lapic = Lapic::new(VcpuId(0));
        let _ = lapic.write(LINT0, &[0, 7, 0, 0], 0);
        assert_eq!(lapic.read(LINT0, 4, 0), 0x1_0700);
        let _ = lapic.write(SPURIOUS, &[0xff, 1, 0, 0], 0);
        let _ = lapic.write(LINT0, &[0, 7, 0, 0], 0);
        assert_eq!(lapic.read(LINT0, 4, 0), 0x700);
        let _ = lapic.write(SPURIOUS, &[0xff, 0, 0, 0], 0);
        assert_eq!(lapic.read(LINT0, 4, 0), 0x1_0700);
    }

    #[test]
    fn a_command_is_told() {
        let mut lapic = Lapic::new(VcpuId(0));
        let _ = lapic.write(COMMAND_HIGH, &[0, 0, 0, 2], 0);
        assert_eq!(lapic.write(COMMAND, &[0x41, 0x50, 0, 0], 0), Written::Command { low: 0x4041, high: 2 << 24 });
    }
}
