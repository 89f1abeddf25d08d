//! What an instruction touches outside of its processor, by physical addresses: memory, and what needs an exit.
//!
//! Reads happen immediately. One that only the outside can answer ends the attempt; its data is kept in the log of
//! [`Traffic`], and the instruction is replayed and finds it there, as KVM's emulator does it. Writes are collected,
//! and made when the instruction is sure to be completed; those for the outside are exits one by one after it.

use crate::mock::atomic::is_split;
use crate::mock::memory::{Slot, Slots};
use crate::mock::vcpu::event_inbox::EventInbox as Intake;
use crate::mock::vm::Platform;
use crate::{Access, AddressSpace, Direction, MAX_ACCESS_BYTES, PAGE_SIZE};

use super::exception::{Fault, Result};
use super::tlb::{Tlb, Translation};
use super::traffic::{Traffic, Write};

/// A slot that was found before, with its bounds.
#[derive(Clone, Copy)]
struct Found<'a> {
    start: u64,
    len: u64,
    slot: &'a Slot,
}

/// Memory and outside, as one vCPU sees them while slots do not change.
pub(super) struct Bus<'a> {
    pub(super) slots: &'a Slots,
    pub(super) platform: &'a Platform,
    pub(super) intake: &'a Intake,
    pub(super) traffic: &'a mut Traffic,
    pub(super) tlb: &'a mut Tlb,
    data: Option<Found<'a>>,
    /// Physical address and bytes of the code that is executed, and whether a write has changed it.
    code_start: u64,
    code_len: u64,
    pub(super) code_changed: bool,
    /// No other vCPU touches memory.
    alone: bool,
    /// The instruction is to read and write as one.
    pub(super) locked: bool,
    /// What it has read so: address, width, value.
    locked_read: Option<(u64, usize, u64)>,
    /// What it exchanges so: address, 16 bytes before and after.
    locked_16: Option<(u64, u128, u128)>,
}

impl<'a> Bus<'a> {
    pub(super) fn new(
        slots: &'a Slots,
        platform: &'a Platform,
        intake: &'a Intake,
        traffic: &'a mut Traffic,
        tlb: &'a mut Tlb,
    ) -> Self {
        tlb.attach(slots);
        Self {
            slots,
            platform,
            intake,
            traffic,
            tlb,
            data: None,
            code_start: 0,
            code_len: 0,
            code_changed: false,
            alone: false,
            locked: false,
            locked_read: None,
            locked_16: None,
        }
    }

    /// The same bus where nobody else uses the slots.
    pub(super) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    #[inline]
    fn find(&mut self, address: u64) -> Option<(&'a Slot, usize)> {
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

    /// The code at a physical address is executed from now on.
    #[inline]
    pub(super) fn watch_code(&mut self, start: u64, len: u64) {
        (self.code_start, self.code_len, self.code_changed) = (start, len, false);
    }

    /// Whether a write there changes the code that is executed.
    #[inline(always)]
    pub(super) fn is_code(&self, address: u64, width: usize) -> bool {
        let before = width as u64 - 1;
        address.wrapping_add(before).wrapping_sub(self.code_start) < self.code_len + before
    }

    pub(super) fn keep_translation(&mut self, linear: u64, translation: &Translation) {
        self.tlb.insert(linear, translation, self.slots);
    }

    /// An entry of a page table, of 4 or 8 bytes. `None` where no slot is.
    pub(super) fn load_entry(&mut self, address: u64, width: u32) -> Option<u64> {
        let (slot, offset) = self.find(address)?;
        Some(slot.load(offset, width as usize))
    }

    /// Puts an entry of a page table in place of another; false where it is not there any more. One in read-only memory
    /// stays, and that is fine.
    pub(super) fn exchange_entry(&mut self, address: u64, width: u32, old: u64, new: u64) -> bool {
        match self.find(address) {
            Some((slot, offset)) if !slot.is_read_only() => slot.exchange(offset, width as usize, old, new),
            _ => true,
        }
    }

    /// Code from an address to the end of its page, at most 16 bytes, lowest first, and how many. None where no memory is.
    pub(super) fn code(&mut self, address: u64) -> (u128, u32) {
        let len = (PAGE_SIZE - address % PAGE_SIZE).min(16) as u32;
        let Some((slot, offset)) = self.find(address) else { return (0, 0) };
        let byte = |at: u32| u128::from(slot.load(offset + at as usize, 1)) << (8 * at);
        let code = slot.load_16(offset).unwrap_or_else(|| (0..len).fold(0, |code, at| code | byte(at)));
        (code & u128::MAX >> (128 - 8 * len), len)
    }

    /// Reads 1 to 8 bytes within a page.
    #[inline]
    pub(super) fn load(&mut self, address: u64, width: usize) -> Result<u64> {
        let mut value = match self.find(address) {
            Some((slot, offset)) if self.traffic.has_no_answers() => slot.load(offset, width),
            _ => self.load_outside(address, width)?,
        };
        if self.traffic.has_writes() {
            value = self.traffic.with_own_writes(address, width, value);
        }
        Ok(value)
    }

    /// The same as the first part of what reads and writes as one. The pieces of an operand over the end of a page are split
    /// always.
    pub(super) fn load_locked(&mut self, address: u64, width: usize, is_piece: bool) -> Result<u64> {
        let value = self.load(address, width)?;
        if !self.alone && (is_piece || is_split(address as usize, width)) && self.is_ram(address) {
            return Err(Fault::Split);
        }
        if !is_piece {
            self.locked_read = Some((address, width, value));
        }
        Ok(value)
    }

    /// The instruction puts 16 aligned bytes in place of others as one; false where that cannot be done so.
    pub(super) fn exchange_16(&mut self, address: u64, old: u128, new: u128) -> bool {
        if self.alone || !self.is_ram(address) {
            return false;
        }
        self.locked_16 = Some((address, old, new));
        true
    }

    /// Whether a read and a write there are without an exit.
    pub(super) fn is_ram(&mut self, address: u64) -> bool {
        self.find(address).is_some_and(|(slot, _)| !slot.is_read_only()) && self.traffic.has_no_answers()
    }

    fn load_outside(&mut self, address: u64, width: usize) -> Result<u64> {
        let access = Access::read(AddressSpace::Mmio, address, width as u8).ok_or(Fault::Unknown)?;
        if let Some(bytes) = self.traffic.logged(&access) {
            return Ok(little_endian(bytes));
        }
        if let Some((slot, offset)) = self.find(address) {
            return Ok(slot.load(offset, width));
        }
        match self.platform.irqs.load(address, width, self.intake) {
            Some(value) => Ok(value & u64::MAX >> (64 - 8 * width)),
            None => Err(self.ask(access)),
        }
    }

    fn ask(&mut self, access: Access) -> Fault {
        // Nobody could tell the order of a read between writes that have not been seen yet.
        let is_outside = |write: &Write| write.space == AddressSpace::Pio || self.slots.find(write.address).is_none();
        if self.traffic.writes().iter().any(is_outside) {
            return Fault::Unknown;
        }
        self.traffic.ask(access);
        Fault::Unanswered
    }

    /// Writes the low `width` bytes of `value`, 1 to 8 within a page, to memory when the instruction is complete.
    #[inline]
    pub(super) fn store(&mut self, address: u64, width: usize, value: u64) {
        self.traffic.write(Write { space: AddressSpace::Mmio, address, width, value });
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
        match self.traffic.logged(&access) {
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
        match self.traffic.logged(&access) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(self.ask(access)),
        }
    }

    /// Writes to a port when the instruction is complete.
    pub(super) fn output(&mut self, port: u16, width: u32, value: u32) {
        let (address, width, value) = (port.into(), width as usize, value.into());
        self.traffic.write(Write { space: AddressSpace::Pio, address, width, value });
    }

    /// Makes the writes. False where memory that was to be read and written as one has changed in between: then nothing
    /// was written, and the instruction must be replayed.
    #[must_use]
    #[inline]
    pub(super) fn commit(&mut self) -> bool {
        if self.locked && !self.write_locked() {
            return false;
        }
        if self.traffic.has_writes() {
            for index in 0.. {
                let Some(&write) = self.traffic.writes().get(index) else { break };
                self.write(write);
            }
            self.traffic.forget_writes();
        }
        if self.locked || !self.traffic.has_no_answers() {
            self.give_up();
        }
        true
    }

    #[inline]
    fn write(&mut self, Write { space, address, width, value }: Write) {
        if space == AddressSpace::Mmio
            && let Some((slot, offset)) = self.find(address)
            && !slot.is_read_only()
        {
            self.code_changed |= self.is_code(address, width);
            return slot.store(offset, width, value);
        }
        self.write_outside(space, address, width, value);
    }

    /// Drops what the instruction was about to write, and the log.
    pub(super) fn give_up(&mut self) {
        self.traffic.forget();
        self.unlock();
    }

    /// Begins the instruction again.
    pub(super) fn rewind(&mut self) {
        self.traffic.rewind();
        self.unlock();
    }

    fn unlock(&mut self) {
        self.locked = false;
        self.locked_read = None;
        self.locked_16 = None;
    }

    /// The write that belongs to a locked read, where both are memory's: then it is made here. False where it lost a race.
    /// There is none over what is split, since nobody else executes then.
    fn write_locked(&mut self) -> bool {
        if let Some((address, old, new)) = self.locked_16 {
            self.code_changed |= self.is_code(address, 16);
            let exchanged = self.find(address).and_then(|(slot, offset)| slot.exchange_16(offset, old, new));
            return exchanged.unwrap_or(true);
        }
        let Some((address, width, old)) = self.locked_read else { return true };
        if is_split(address as usize, width) || !self.is_ram(address) {
            return true;
        }
        let Some(value) = self.traffic.take_write(address, width) else { return true };
        self.code_changed |= self.is_code(address, width);
        match self.find(address) {
            Some((slot, offset)) => slot.exchange(offset, width, old, value),
            None => true,
        }
    }

    fn write_outside(&mut self, space: AddressSpace, address: u64, width: usize, value: u64) {
        let bytes = value.to_le_bytes();
        let data = bytes.get(..width).unwrap_or_default();
        if self.platform.takes_write(space, address, data, self.intake) {
            return;
        }
        // One to eight bytes are an access always.
        self.traffic.add_exit(Access::write(space, address, data));
    }
}

/// A number of up to 8 bytes, lowest first.
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
