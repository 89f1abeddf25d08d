//! Many repetitions of `rep movs` and `rep stos` together, within a page of plain memory each.

use iced_x86::Mnemonic;

use super::super::Exec;
use super::super::decode::Decoded;
use super::super::flags::{DF, RF, TF};
use super::super::ops::strings::{REFETCH, address_width};
use super::super::regs::{AX, CX, DI, SI, mask};
use super::super::segments::Seg;
use super::access::Spot;

/// What is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Repeated {
    Move,
    Store,
}

/// What a decoded instruction repeats, if it is for here, and the bytes of an item.
pub(in super::super) fn repeated(instruction: &iced_x86::Instruction) -> Option<(Repeated, u8)> {
    if !instruction.is_string_instruction() || !instruction.has_rep_prefix() {
        return None;
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Movsb => (Repeated::Move, 1),
        Mnemonic::Movsw => (Repeated::Move, 2),
        Mnemonic::Movsd => (Repeated::Move, 4),
        Mnemonic::Movsq => (Repeated::Move, 8),
        Mnemonic::Stosb => (Repeated::Store, 1),
        Mnemonic::Stosw => (Repeated::Store, 2),
        Mnemonic::Stosd => (Repeated::Store, 4),
        Mnemonic::Stosq => (Repeated::Store, 8),
        _ => return None,
    })
}

impl Exec<'_> {
    /// Makes repetitions of the instruction at RIP as long as nothing is in the way, and at most up to where it is fetched
    /// again: whether it is to be left then.
    pub(in super::super) fn repeat_fast(&mut self, decoded: &Decoded, what: Repeated, width: u8) -> bool {
        let items = match width {
            1 => self.items::<1>(decoded, what),
            2 => self.items::<2>(decoded, what),
            4 => self.items::<4>(decoded, what),
            _ => self.items::<8>(decoded, what),
        };
        if items == 0 {
            return false;
        }
        self.state.regs.rflags &= !RF;
        self.state.set_shadow(0);
        self.bus.intake.count(items);
        let address_width = address_width(&decoded.instruction);
        let moved: &[usize] = if what == Repeated::Move { &[SI, DI] } else { &[DI] };
        for &register in moved {
            let index = self.state.regs.low(register, address_width).wrapping_add(items * u64::from(width));
            self.set_address_register(register, address_width, index);
        }
        let left = self.state.regs.low(CX, address_width) - items;
        self.set_address_register(CX, address_width, left);
        left.is_multiple_of(REFETCH)
    }

    /// Copies or stores items: how many.
    fn items<const WIDTH: u32>(&mut self, decoded: &Decoded, what: Repeated) -> u64 {
        let is_watched = self.state.regs.has(TF | DF) || self.state.mode.has_breakpoints;
        if is_watched || !self.bus.traffic.has_no_answers() {
            return 0;
        }
        let address_width = address_width(&decoded.instruction);
        let index = |register| self.state.regs.low(register, address_width);
        let (left, source, destination) = (index(CX), index(SI), index(DI));
        let Some(to) = self.spot::<WIDTH>(Seg::Es as u8, destination, self.state.mode.write) else { return 0 };
        let segment = Seg::named(decoded.instruction.memory_segment()) as u8;
        let from = match what {
            Repeated::Store => None,
            Repeated::Move => match self.spot::<WIDTH>(segment, source, self.state.mode.read) {
                Some(from) => Some(from),
                None => return 0,
            },
        };
        let until_refetch = if left == 0 { 0 } else { (left - 1) % REFETCH + 1 };
        let within = |spot: &Spot, segment: u8, offset: u64, writes: bool| {
            let window = self.state.segments.get(usize::from(segment)).copied().unwrap_or_default();
            let room = if writes { window.writable } else { window.readable };
            // Neither the page nor the segment ends before, nor does the index begin again at 0.
            let bytes =
                spot.room().min(room.saturating_sub(offset)).min((mask(address_width) - offset).saturating_add(1));
            bytes / u64::from(WIDTH)
        };
        let mut items = until_refetch.min(within(&to, Seg::Es as u8, destination, true));
        if let Some(from) = &from {
            items = items.min(within(from, segment, source, false));
        }
        if items == 0 || self.bus.is_code(to.physical(), (items * u64::from(WIDTH)) as usize) {
            return 0;
        }
        let value = self.state.regs.low(AX, WIDTH);
        for item in 0..items {
            let at = (item * u64::from(WIDTH)) as usize;
            let value = from.as_ref().map_or(value, |from| from.load_at::<WIDTH>(at));
            to.store_at::<WIDTH>(at, value);
        }
        items
    }
}
