//! What a pin of the IOAPIC, a message-signalled interrupt and a vCPU's command become: a message to local APICs.
//!
//! Its parts mean the same everywhere (Intel SDM volume 3, sections 12.6.1, 12.6.2 and 12.11), but lie at other places.
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

use crate::VcpuId;

/// A message to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) struct Message {
    pub(in crate::mock) to: Destination,
    pub(in crate::mock) mode: Mode,
    pub(in crate::mock) vector: u8,
    /// Triggered by level, so that its end is to be told to the IOAPIC.
    pub(in crate::mock) by_level: bool,
    /// Only a command can say the opposite: it takes back an `Init`.
    pub(in crate::mock) asserts: bool,
}

/// Which local APICs a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) enum Destination {
    /// The one with this id; 0xff is all.
    Physical(u8),
    /// Those that recognize themselves in it; 0xff is all.
    Logical(u8),
    /// The sender.
    Itself(VcpuId),
    /// All, with the sender.
    All,
    /// All but the sender.
    Others(VcpuId),
}

impl Destination {
    fn of(id: u8, is_logical: bool) -> Self {
        if is_logical { Self::Logical(id) } else { Self::Physical(id) }
    }
}

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) enum Mode {
    /// Interrupts by its vector.
    Fixed,
    /// As `Fixed`, but one of those it is for alone.
    Lowest,
    Nmi,
    Init,
    StartUp,
    /// Nothing happens: system management mode has no model, KVM takes the PICs' vectors at LINT0 only, and one is
    /// reserved.
    Nothing,
}

impl Mode {
    /// By the three bits at `shift`.
    fn of(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::Lowest,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::Nothing,
        }
    }
}

fn bit(value: u64, at: u32) -> bool {
    value >> at & 1 == 1
}

impl Message {
    /// Of an entry of the IOAPIC's redirection table.
    pub(in crate::mock) fn of_entry(entry: u64) -> Self {
        Self {
            to: Destination::of((entry >> 56) as u8, bit(entry, 11)),
            mode: Mode::of(entry >> 8),
            vector: entry as u8,
            by_level: bit(entry, 15),
            asserts: true,
        }
    }

    /// Of a message-signalled interrupt.
    pub(in crate::mock) fn of_msi(address: u64, data: u32) -> Self {
        let data = u64::from(data);
        let to = Destination::of((address >> 12) as u8, bit(address, 2));
        let mode = match Mode::of(data >> 8) {
            // The redirection hint: one of them alone.
            Mode::Fixed if bit(address, 3) => Mode::Lowest,
            mode => mode,
        };
        Self { to, mode, vector: data as u8, by_level: bit(data, 15), asserts: true }
    }

    /// Of both halves of `sender`'s interrupt command register.
    pub(in crate::mock) fn of_command(low: u32, high: u32, sender: VcpuId) -> Self {
        let command = u64::from(high) << 32 | u64::from(low);
        let to = match command >> 18 & 3 {
            0 => Destination::of((command >> 56) as u8, bit(command, 11)),
            1 => Destination::Itself(sender),
            2 => Destination::All,
            _ => Destination::Others(sender),
        };
        Self {
            to,
            mode: Mode::of(command >> 8),
            vector: command as u8,
            by_level: bit(command, 15),
            asserts: bit(command, 14),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO_3: Message =
        Message { to: Destination::Physical(3), mode: Mode::Fixed, vector: 0x41, by_level: false, asserts: true };

    #[test]
    fn an_entry_a_message_and_a_command_can_say_the_same() {
        assert_eq!(Message::of_entry(0x0300_0000_0000_0041), TO_3);
        assert_eq!(Message::of_msi(0xfee0_3000, 0x41), TO_3);
        assert_eq!(Message::of_command(0x4041, 3 << 24, VcpuId(0)), TO_3);
        let logical = Message { to: Destination::Logical(3), mode: Mode::Lowest, by_level: true, ..TO_3 };
        assert_eq!(Message::of_entry(0x0300_0000_0000_8941), logical);
        assert_eq!(Message::of_msi(0xfee0_3004, 0x8141), logical);
        assert_eq!(Message::of_command(0xc941, 3 << 24, VcpuId(0)), logical);
    }

    #[test]
    fn a_hint_makes_a_message_one_ones() {
        assert_eq!(Message::of_msi(0xfee0_300c, 0x41).mode, Mode::Lowest);
    }

    #[test]
    fn a_command_has_shorthands() {
        let to = |low| Message::of_command(low, 0, VcpuId(2)).to;
        assert_eq!(to(1 << 18), Destination::Itself(VcpuId(2)));
        assert_eq!(to(2 << 18), Destination::All);
        assert_eq!(to(3 << 18), Destination::Others(VcpuId(2)));
    }
}
