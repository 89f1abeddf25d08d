//! What an instruction touches outside of its processor: memory, and what needs an exit.
//!
//! Reads happen at once. One that only the outside can answer ends the attempt; the answer is kept in the log of
//! [`Traffic`], and the instruction is begun anew and finds it there, as KVM's emulator does it. Writes are collected,
//! and made when the instruction is sure to be completed; those for the outside are exits one by one after it.

use std::collections::VecDeque;

use crate::mock::atomic::is_split;
use crate::mock::memory::{Slot, Slots};
use crate::mock::vcpu::event_inbox::EventInbox as Intake;
use crate::mock::vm::Platform;
use crate::{Access, AddressSpace, Direction, MAX_ACCESS_BYTES, PAGE_SIZE};

use super::fault::{Fault, Result};

/// What the interpreter's vCPU has to do with the outside. It outlives an exit.
#[derive(Default)]
pub(super) struct Traffic {
    /// The read that is asked for now.
    asked: Option<Access>,
    /// The reads of this instruction that have been answered, in order, and their bytes.
    answered: Vec<Access>,
    answers: Vec<u8>,
    /// How many of those this attempt has used, and how many bytes.
    used: usize,
    used_bytes: usize,
    /// Writes of this attempt.
    writes: Vec<Write>,
    /// Exits of the completed instruction that are left, the current one first.
    exits: VecDeque<Access>,
}

#[derive(Clone, Copy)]
struct Write {
    space: AddressSpace,
    address: u32,
    width: usize,
    value: u64,
}

impl Traffic {
    /// The read that waits for an answer.
    pub(super) fn asked(&self) -> Option<Access> {
        self.asked
    }

    /// Answers it.
    pub(super) fn answer(&mut self, data: &[u8]) {
        if let Some(access) = self.asked.take() {
            self.answered.push(access);
            self.answers.extend_from_slice(data);
        }
    }

    /// The write whose exit is next, or now.
    pub(super) fn exit(&self) -> Option<&Access> {
        self.exits.front()
    }

    /// The write whose exit it is has been seen.
    pub(super) fn exit_is_done(&mut self) {
        self.exits.pop_front();
    }

    /// Begins an attempt at an instruction: the log is read from its start.
    pub(super) fn rewind(&mut self) {
        (self.used, self.used_bytes) = (0, 0);
        self.writes.clear();
    }

    /// Forgets the log: the instruction is completed or given up.
    fn forget(&mut self) {
        if !self.answered.is_empty() {
            self.answered.clear();
            self.answers.clear();
        }
        self.rewind();
    }
}

/// A slot that was found before, with its bounds.
#[derive(Clone, Copy)]
struct Found<'a> {
    start: u64,
    len: u64,
    slot: &'a Slot,
}

/// Memory and outside, as one vCPU sees them while slots stand still.
pub(super) struct Bus<'a> {
    slots: &'a Slots,
    pub(super) platform: &'a Platform,
    pub(super) intake: &'a Intake,
    pub(super) traffic: &'a mut Traffic,
    code: Option<Found<'a>>,
    data: Option<Found<'a>>,
    /// No other vCPU touches memory.
    alone: bool,
    /// The instruction is to read and write as one.
    pub(super) locked: bool,
    /// What it has read so: address, width, value.
    locked_read: Option<(u32, usize, u64)>,
}

impl<'a> Bus<'a> {
    pub(super) fn new(slots: &'a Slots, platform: &'a Platform, intake: &'a Intake, traffic: &'a mut Traffic) -> Self {
        Self {
            slots,
            platform,
            intake,
            traffic,
            code: None,
            data: None,
            alone: false,
            locked: false,
            locked_read: None,
        }
    }

    /// One whose slots nobody else looks at.
    pub(super) fn alone(
        slots: &'a Slots,
        platform: &'a Platform,
        intake: &'a Intake,
        traffic: &'a mut Traffic,
    ) -> Self {
        Self { alone: true, ..Self::new(slots, platform, intake, traffic) }
    }

    #[inline]
    fn find(&mut self, address: u32) -> Option<(&'a Slot, usize)> {
        let address = u64::from(address);
        if let Some(found) = self.data
            && let offset = address.wrapping_sub(found.start)
            && offset < found.len
        {
            return Some((found.slot, offset as usize));
        }
        let (slot, offset) = self.slots.find(address)?;
        self.data = Some(Found { start: slot.start, len: slot.len, slot });
        Some((slot, offset))
    }

    /// Up to 16 bytes of code, lowest first, and how many there are before memory ends.
    #[inline]
    pub(super) fn code(&mut self, address: u32) -> (u128, u32) {
        let found = match self.code {
            Some(found) if u64::from(address).wrapping_sub(found.start) < found.len => found,
            _ => match self.slots.find(address.into()) {
                Some((slot, _)) => *self.code.insert(Found { start: slot.start, len: slot.len, slot }),
                None => return (0, 0),
            },
        };
        let offset = (u64::from(address) - found.start) as usize;
        found.slot.load_16(offset).map_or_else(|| self.code_at_an_edge(address), |code| (code, 16))
    }

    fn code_at_an_edge(&self, address: u32) -> (u128, u32) {
        let mut code = 0;
        for at in 0..16 {
            match self.slots.find(address.wrapping_add(at).into()) {
                Some((slot, offset)) => code |= u128::from(slot.load(offset, 1)) << (8 * at),
                None => return (code, at),
            }
        }
        (code, 16)
    }

    /// Reads 1 to 8 bytes of memory.
    #[inline]
    pub(super) fn load(&mut self, address: u32, width: usize) -> Result<u64> {
        let within_page = address % PAGE_SIZE as u32 + width as u32 <= PAGE_SIZE as u32;
        let mut value = match self.find(address) {
            Some((slot, offset)) if within_page && self.traffic.answered.is_empty() => slot.load(offset, width),
            _ => self.load_in_pieces(address, width)?,
        };
        if !self.traffic.writes.is_empty() {
            value = self.with_own_writes(address, width, value);
        }
        if self.locked {
            if !self.alone && is_split(address as usize, width) && self.is_ram(address, width) {
                return Err(Fault::Split);
            }
            self.locked_read = Some((address, width, value));
        }
        Ok(value)
    }

    /// Whether the instruction reads and writes there without an exit.
    fn is_ram(&mut self, address: u32, width: usize) -> bool {
        let mut pieces = pieces(address, width);
        let is_ram = pieces.all(|(at, ..)| self.find(at).is_some_and(|(slot, _)| !slot.is_read_only()));
        is_ram && self.traffic.answered.is_empty()
    }

    fn load_in_pieces(&mut self, address: u32, width: usize) -> Result<u64> {
        let mut value = 0;
        for (at, skip, width) in pieces(address, width) {
            let access = Access::read(AddressSpace::Mmio, at.into(), width as u8).ok_or(Fault::Unknown)?;
            let piece = match self.logged(&access) {
                Some(bytes) => little_endian(bytes),
                None => match self.find(at) {
                    Some((slot, offset)) => slot.load(offset, width),
                    None => match self.platform.irqs.load(at.into(), width, self.intake) {
                        Some(value) => value & u64::MAX >> (64 - 8 * width),
                        None => return Err(self.ask(access)),
                    },
                },
            };
            value |= piece << (8 * skip);
        }
        Ok(value)
    }

    /// An instruction that reads back what it has just written sees it, although it is not in memory yet.
    fn with_own_writes(&self, address: u32, width: usize, mut value: u64) -> u64 {
        let memory = self.traffic.writes.iter().filter(|write| write.space == AddressSpace::Mmio);
        for write in memory {
            for (at, byte) in write.value.to_le_bytes().into_iter().take(write.width).enumerate() {
                let place = write.address.wrapping_add(at as u32).wrapping_sub(address) as usize;
                if place < width {
                    value = value & !(0xff << (8 * place)) | u64::from(byte) << (8 * place);
                }
            }
        }
        value
    }

    /// The answer that the log has for this read, if it is next there.
    fn logged(&mut self, access: &Access) -> Option<&[u8]> {
        let next = self.traffic.answered.get(self.traffic.used)?;
        if next != access {
            return None;
        }
        let from = self.traffic.used_bytes;
        self.traffic.used += 1;
        self.traffic.used_bytes += access.len();
        self.traffic.answers.get(from..from + access.len())
    }

    fn ask(&mut self, access: Access) -> Fault {
        // Nobody could tell the order of a read between writes that have not been seen yet.
        let is_outside =
            |write: &Write| write.space == AddressSpace::Pio || self.slots.find(write.address.into()).is_none();
        if self.traffic.writes.iter().any(is_outside) {
            return Fault::Unknown;
        }
        self.traffic.asked = Some(access);
        Fault::Unanswered
    }

    /// Writes the low `width` bytes of `value`, 1 to 8, to memory when the instruction is complete.
    #[inline]
    pub(super) fn store(&mut self, address: u32, width: usize, value: u64) {
        self.traffic.writes.push(Write { space: AddressSpace::Mmio, address, width, value });
    }

    /// Takes the interrupt that the vCPU is asked to take: its vector, if it is still there.
    pub(super) fn take_interrupt(&self) -> Option<u8> {
        self.platform.irqs.take_interrupt(self.intake)
    }

    /// Reads a port.
    pub(super) fn input(&mut self, port: u16, width: u32) -> Result<u32> {
        if let Some(value) = self.platform.irqs.input(port, width as usize, self.intake) {
            return Ok(value);
        }
        let access = Access::read(AddressSpace::Pio, port.into(), width as u8).ok_or(Fault::Unknown)?;
        match self.logged(&access) {
            Some(bytes) => Ok(little_endian(bytes) as u32),
            None => Err(self.ask(access)),
        }
    }

    /// Reads `count` items from a port in one exit, at most [`MAX_ACCESS_BYTES`]: their bytes.
    pub(super) fn input_string(&mut self, port: u16, width: u32, count: u16) -> Result<Vec<u8>> {
        if let Some(first) = self.platform.irqs.input(port, width as usize, self.intake) {
            let others = (1..count).filter_map(|_| self.platform.irqs.input(port, width as usize, self.intake));
            let items = std::iter::once(first).chain(others);
            return Ok(items.flat_map(|item| item.to_le_bytes().into_iter().take(width as usize)).collect());
        }
        let access = Access::new(AddressSpace::Pio, port.into(), Direction::Read, width as u8, count);
        let access = access.filter(|access| access.len() <= MAX_ACCESS_BYTES).ok_or(Fault::Unknown)?;
        match self.logged(&access) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(self.ask(access)),
        }
    }

    /// Writes many bytes to memory when the instruction is complete. Outside of memory they are cut into pieces of 8.
    pub(super) fn store_block(&mut self, address: u32, block: &[u8]) {
        for (at, skip, len) in pieces(address, block.len()) {
            let piece = block.get(skip..skip + len).unwrap_or_default();
            for (index, chunk) in (0..).zip(piece.chunks(8)) {
                self.store(at.wrapping_add(8 * index), chunk.len(), little_endian(chunk));
            }
        }
    }

    /// Writes to a port when the instruction is complete.
    pub(super) fn output(&mut self, port: u16, width: u32, value: u32) {
        let (address, width, value) = (port.into(), width as usize, value.into());
        self.traffic.writes.push(Write { space: AddressSpace::Pio, address, width, value });
    }

    /// Makes the writes. False where memory that was to be read and written as one has changed in between: then nothing
    /// was written, and the instruction must be begun anew.
    #[must_use]
    #[inline]
    pub(super) fn commit(&mut self) -> bool {
        if self.locked && !self.write_locked() {
            return false;
        }
        match *self.traffic.writes {
            [] => {}
            [only] => {
                self.write(only);
                self.traffic.writes.clear();
            }
            _ => {
                for index in 0..self.traffic.writes.len() {
                    let Some(&write) = self.traffic.writes.get(index) else { break };
                    self.write(write);
                }
                self.traffic.writes.clear();
            }
        }
        if self.locked || !self.traffic.answered.is_empty() {
            self.give_up();
        }
        true
    }

    #[inline]
    fn write(&mut self, Write { space, address, width, value }: Write) {
        if space == AddressSpace::Pio {
            return self.write_outside(space, address, width, value);
        }
        for (at, skip, width) in pieces(address, width) {
            let value = value >> (8 * skip);
            match self.find(at) {
                Some((slot, offset)) if !slot.is_read_only() => slot.store(offset, width, value),
                _ => self.write_outside(space, at, width, value),
            }
        }
    }

    /// Drops what the instruction was about to write.
    pub(super) fn give_up(&mut self) {
        self.traffic.forget();
        self.locked = false;
        self.locked_read = None;
    }

    /// Begins the instruction anew.
    pub(super) fn rewind(&mut self) {
        self.traffic.rewind();
        self.locked = false;
        self.locked_read = None;
    }

    /// The write that belongs to a locked read, where both are memory's: then it is made here. False where it lost a race.
    /// There is none over what is split, since nobody else is at work then.
    fn write_locked(&mut self) -> bool {
        let Some((address, width, old)) = self.locked_read else { return true };
        let is_its_own =
            |write: &Write| write.space == AddressSpace::Mmio && (write.address, write.width) == (address, width);
        let Some(index) = self.traffic.writes.iter().position(is_its_own) else { return true };
        if is_split(address as usize, width) {
            return true;
        }
        match self.find(address) {
            Some((slot, offset)) if !slot.is_read_only() => {
                let value = self.traffic.writes.swap_remove(index).value;
                slot.exchange(offset, width, old, value)
            }
            _ => true,
        }
    }

    fn write_outside(&mut self, space: AddressSpace, address: u32, width: usize, value: u64) {
        let bytes = value.to_le_bytes();
        let data = bytes.get(..width).unwrap_or_default();
        if self.platform.takes_write(space, address.into(), data, self.intake) {
            return;
        }
        // One to eight bytes are an access always.
        self.traffic.exits.extend(Access::write(space, address.into(), data));
    }
}

/// A memory access cut at the end of its page, as KVM's emulator cuts it: address, bytes skipped, bytes.
fn pieces(address: u32, width: usize) -> impl Iterator<Item = (u32, usize, usize)> {
    let to_page_end = (PAGE_SIZE as u32 - address % PAGE_SIZE as u32) as usize;
    let first = width.min(to_page_end);
    // No access reaches over more than one end.
    let pieces = [(address, 0, first), (address.wrapping_add(first as u32), first, width - first)];
    pieces.into_iter().filter(|&(.., width)| width != 0)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
