//! The IOAPIC, as KVM models it: no more than its state and what changes it. Intel's 82093AA data sheet says what its
//! registers mean.
//!
//! A pin that is triggered by level sends its message again at the end of the interrupt, as long as it is high. One
//! that is triggered by edge has sent it once and for all; what comes while it is masked is lost. As in KVM, and other
//! than in hardware, a pin is high or low as its line says, whatever polarity its entry has, and a message of mode
//! ExtINT or SMI does nothing.
#![allow(unsafe_code, reason = "an entry of kvm_ioapic_state is a union of a number and its bits")]
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

use kvm_bindings::{kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1 as Redirection};

use super::apic_message::Message;
use crate::mock::reset;

pub(in crate::mock) const PINS: u32 = 24;

/// Bits of an entry.
const SENT: u64 = 1 << 12;
/// Triggered by level: the message was accepted, and its end has not been told.
const REMOTE_REQUEST: u64 = 1 << 14;
const BY_LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// Takes messages to where they are for; false where nobody accepts one.
pub(in crate::mock) type Deliver<'a> = &'a dyn Fn(&Message) -> bool;

pub(in crate::mock) struct Ioapic {
    base: u64,
    /// The register that is read and written at the window.
    selected: u8,
    id: u8,
    entries: [u64; PINS as usize],
    /// Pins that are high.
    levels: u32,
    /// Of those, pins that have sent the message of their edge.
    delivered: u32,
}

/// What a write leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mock) struct Effect {
    /// The pin that is not masked any more.
    pub(in crate::mock) opened: Option<u32>,
    /// The pin that is to be [sent](Ioapic::send_if_high) when those who hold it high have had a say.
    pub(in crate::mock) sends: Option<u32>,
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::of(&reset::ioapic())
    }
}

impl Ioapic {
    /// With all pins low.
    fn of(state: &kvm_ioapic_state) -> Self {
        Self {
            base: state.base_address,
            selected: state.ioregsel as u8,
            id: state.id as u8,
            // SAFETY: all of the entry's 64 bits are initialised, and any are a number.
            entries: state.redirtbl.map(|entry| unsafe { entry.bits }),
            levels: 0,
            delivered: 0,
        }
    }

    /// Its state, in which a pin whose edge was sent is low.
    pub(in crate::mock) fn state(&self) -> kvm_ioapic_state {
        kvm_ioapic_state {
            base_address: self.base,
            ioregsel: self.selected.into(),
            id: self.id.into(),
            irr: self.levels & !self.delivered,
            redirtbl: self.entries.map(|bits| Redirection { bits }),
            ..Default::default()
        }
    }

    /// Sets its state. Pins that are high there rise.
    pub(in crate::mock) fn set_state(&mut self, state: &kvm_ioapic_state, deliver: Deliver) {
        *self = Self::of(state);
        for pin in (0..PINS).filter(|pin| state.irr >> pin & 1 == 1) {
            self.set_pin(pin, true, deliver);
        }
    }

    fn entry(&self, pin: u32) -> u64 {
        self.entries.get(pin as usize).copied().unwrap_or(MASKED)
    }

    fn is_high(&self, pin: u32) -> bool {
        self.levels >> pin & 1 == 1
    }

    /// A pin, 0 to 23, has this level now.
    pub(in crate::mock) fn set_pin(&mut self, pin: u32, level: bool, deliver: Deliver) {
        let was_high = self.is_high(pin);
        if !level {
            self.levels &= !(1 << pin);
            return;
        }
        self.levels |= 1 << pin;
        if self.entry(pin) & BY_LEVEL == 0 {
            self.delivered &= !(1 << pin);
            if was_high {
                return;
            }
        }
        self.send(pin, deliver);
    }

    /// Sends a pin's message, if it is not masked and its interrupt not under way already.
    fn send(&mut self, pin: u32, deliver: Deliver) {
        let entry = self.entry(pin);
        let by_level = entry & BY_LEVEL != 0;
        if entry & MASKED != 0 || by_level && entry & REMOTE_REQUEST != 0 {
            return;
        }
        if !by_level {
            self.delivered |= 1 << pin;
        }
        if deliver(&Message::of_entry(entry))
            && by_level
            && let Some(entry) = self.entries.get_mut(pin as usize)
        {
            *entry |= REMOTE_REQUEST;
        }
    }

    /// The pins that send this vector.
    pub(in crate::mock) fn pins_of(&self, vector: u8) -> impl Iterator<Item = u32> + use<> {
        let entries = self.entries;
        (0..PINS).zip(entries).filter(move |(_, entry)| *entry as u8 == vector).map(|(pin, _)| pin)
    }

    /// Whether the end of an interrupt of this vector is told: that of a pin which is triggered by level.
    pub(in crate::mock) fn is_told_of(&self, vector: u8) -> bool {
        self.entries.iter().any(|&entry| entry as u8 == vector && entry & BY_LEVEL != 0)
    }

    /// The interrupt of a pin has ended.
    pub(in crate::mock) fn end(&mut self, pin: u32, deliver: Deliver) {
        if let Some(entry) = self.entries.get_mut(pin as usize) {
            *entry &= !REMOTE_REQUEST;
        }
        self.send_if_high(pin, deliver);
    }

    /// Sends a pin's message, if it is high.
    pub(in crate::mock) fn send_if_high(&mut self, pin: u32, deliver: Deliver) {
        if self.is_high(pin) {
            self.send(pin, deliver);
        }
    }

    /// Where in its registers an address lies.
    pub(in crate::mock) fn offset_of(&self, address: u64) -> Option<u8> {
        u8::try_from(address.wrapping_sub(self.base)).ok()
    }

    /// Reads up to 8 bytes, lowest first.
    pub(in crate::mock) fn read(&self, offset: u8) -> u64 {
        let value = match offset {
            SELECT => self.selected.into(),
            WINDOW => self.read_register(),
            _ => 0,
        };
        value.into()
    }

    fn read_register(&self) -> u32 {
        // Version 0x11, and the number of the last pin.
        const VERSION: u32 = 0x17_0011;
        match self.selected {
            0 | 2 => u32::from(self.id & 0xf) << 24,
            1 => VERSION,
            register => {
                let entry = entry_of(register).and_then(|index| self.entries.get(index)).copied().unwrap_or(u64::MAX);
                if register & 1 == 0 { entry as u32 } else { (entry >> 32) as u32 }
            }
        }
    }

    /// Writes 1 to 8 bytes, of which at most 4 count.
    pub(in crate::mock) fn write(&mut self, offset: u8, data: &[u8]) -> Effect {
        let value = data.iter().take(4).rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        match offset {
            SELECT => self.selected = value as u8,
            WINDOW if self.selected == 0 => self.id = (value >> 24) as u8 & 0xf,
            WINDOW => {
                if let Some(index) = entry_of(self.selected) {
                    return self.write_entry(index, value);
                }
            }
            _ => {}
        }
        Effect::default()
    }

    /// Writes the selected half of an entry. What the IOAPIC tells there stays, but an entry that is triggered by edge
    /// has no interrupt whose end it waits for.
    fn write_entry(&mut self, index: usize, value: u32) -> Effect {
        let pin = index as u32;
        let Some(entry) = self.entries.get_mut(index) else { return Effect::default() };
        let before = *entry;
        let value = u64::from(value);
        let new =
            if self.selected & 1 == 1 { before & 0xffff_ffff | value << 32 } else { before & !0xffff_ffff | value };
        const TOLD: u64 = SENT | REMOTE_REQUEST;
        let mut new = new & !TOLD | before & TOLD;
        if new & BY_LEVEL == 0 {
            new &= !REMOTE_REQUEST;
        }
        *entry = new;
        let opened = (before & !new & MASKED != 0).then_some(pin);
        let sends = new & (BY_LEVEL | MASKED | REMOTE_REQUEST) == BY_LEVEL && self.is_high(pin);
        Effect { opened, sends: sends.then_some(pin) }
    }
}

/// Offsets of the registers' number and of the register it selects.
const SELECT: u8 = 0;
const WINDOW: u8 = 0x10;

/// The entry that a register is a half of.
fn entry_of(register: u8) -> Option<usize> {
    const FIRST: u8 = 0x10;
    register.checked_sub(FIRST).map(|register| usize::from(register / 2))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const NOBODY: Deliver = &|_| false;

    /// An IOAPIC whose pin 4 has this entry.
    fn with(entry: u64) -> Ioapic {
        let mut ioapic = Ioapic::default();
        write(&mut ioapic, 4, entry);
        ioapic
    }

    fn write(ioapic: &mut Ioapic, pin: u8, entry: u64) -> Effect {
        let half = |register, value: u32, ioapic: &mut Ioapic| {
            let _ = ioapic.write(SELECT, &[register]);
            ioapic.write(WINDOW, &value.to_le_bytes())
        };
        half(0x11 + 2 * pin, (entry >> 32) as u32, ioapic);
        half(0x10 + 2 * pin, entry as u32, ioapic)
    }

    /// The vectors that `what` sends.
    fn sent(what: impl FnOnce(Deliver)) -> Vec<u8> {
        let vectors = RefCell::new(Vec::new());
        what(&|message| {
            vectors.borrow_mut().push(message.vector);
            true
        });
        vectors.into_inner()
    }

    #[test]
    fn an_edge_is_sent_once() {
        let mut ioapic = with(0x41);
        assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), [0x41]);
        assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), []);
        ioapic.set_pin(4, false, NOBODY);
        assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), [0x41]);
        assert_eq!(ioapic.state().irr, 0);
    }

    #[test]
    fn a_level_is_sent_again_at_its_end() {
        let mut ioapic = with(BY_LEVEL | 0x41);
        assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), [0x41]);
        assert_eq!(ioapic.entry(4), BY_LEVEL | REMOTE_REQUEST | 0x41);
        assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), [], "its end was not told");
        assert_eq!(sent(|deliver| ioapic.end(4, deliver)), [0x41]);
        ioapic.set_pin(4, false, NOBODY);
        assert_eq!(sent(|deliver| ioapic.end(4, deliver)), []);
        assert_eq!(ioapic.entry(4), BY_LEVEL | 0x41);
    }

    #[test]
    fn behind_a_mask_a_level_waits_and_an_edge_is_lost() {
        for (trigger, sends) in [(BY_LEVEL, Some(4)), (0, None)] {
            let mut ioapic = with(MASKED | trigger | 0x41);
            assert_eq!(sent(|deliver| ioapic.set_pin(4, true, deliver)), []);
            assert_eq!(ioapic.state().irr, 1 << 4);
            assert_eq!(write(&mut ioapic, 4, trigger | 0x41), Effect { opened: Some(4), sends });
        }
    }

    #[test]
    fn a_level_that_nobody_takes_is_not_under_way() {
        let mut ioapic = with(BY_LEVEL | 0x41);
        ioapic.set_pin(4, true, NOBODY);
        assert_eq!(ioapic.entry(4), BY_LEVEL | 0x41);
    }

    #[test]
    fn what_is_told_in_an_entry_is_not_written() {
        let mut ioapic = with(BY_LEVEL | REMOTE_REQUEST | SENT | 0x41);
        assert_eq!(ioapic.entry(4), BY_LEVEL | 0x41);
        ioapic.set_pin(4, true, &|_| true);
        write(&mut ioapic, 4, BY_LEVEL | 0x42);
        assert_eq!(ioapic.entry(4), BY_LEVEL | REMOTE_REQUEST | 0x42);
        write(&mut ioapic, 4, 0x42);
        assert_eq!(ioapic.entry(4), 0x42);
    }
}
