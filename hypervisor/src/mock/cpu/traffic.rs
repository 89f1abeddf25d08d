//! The accesses of the instruction under way: what was read, what is to be written, what exits. It outlives an exit.

use std::collections::VecDeque;

use crate::{Access, AddressSpace};

/// What the interpreter's vCPU has to do with the outside.
#[derive(Default)]
pub(super) struct Traffic {
    /// The read that waits for its data now.
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

/// A write of 1 to 8 bytes, within one page.
#[derive(Clone, Copy)]
pub(super) struct Write {
    pub(super) space: AddressSpace,
    pub(super) address: u64,
    pub(super) width: usize,
    pub(super) value: u64,
}

impl Traffic {
    /// The read that waits for its data.
    pub(super) fn asked(&self) -> Option<Access> {
        self.asked
    }

    pub(super) fn ask(&mut self, access: Access) {
        self.asked = Some(access);
    }

    /// Answers it.
    pub(super) fn answer(&mut self, data: &[u8]) {
        if let Some(access) = self.asked.take() {
            self.answered.push(access);
            self.answers.extend_from_slice(data);
        }
    }

    #[inline]
    pub(super) fn has_no_answers(&self) -> bool {
        self.answered.is_empty()
    }

    /// The data that the log has for this read, if it is next there.
    pub(super) fn logged(&mut self, access: &Access) -> Option<&[u8]> {
        let next = self.answered.get(self.used)?;
        if next != access {
            return None;
        }
        let from = self.used_bytes;
        self.used += 1;
        self.used_bytes += access.len();
        self.answers.get(from..from + access.len())
    }

    #[inline]
    pub(super) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    #[inline]
    pub(super) fn writes(&self) -> &[Write] {
        &self.writes
    }

    #[inline]
    pub(super) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(super) fn forget_writes(&mut self) {
        self.writes.clear();
    }

    /// Takes out the write of memory with exactly this place: its value.
    pub(super) fn take_write(&mut self, address: u64, width: usize) -> Option<u64> {
        let is_it =
            |write: &Write| write.space == AddressSpace::Mmio && (write.address, write.width) == (address, width);
        let index = self.writes.iter().position(is_it)?;
        Some(self.writes.swap_remove(index).value)
    }

    /// An instruction that reads back what it has just written sees it, although it is not in memory yet.
    pub(super) fn with_own_writes(&self, address: u64, width: usize, mut value: u64) -> u64 {
        let memory = self.writes.iter().filter(|write| write.space == AddressSpace::Mmio);
        for write in memory {
            for (at, byte) in write.value.to_le_bytes().into_iter().take(write.width).enumerate() {
                let place = write.address.wrapping_add(at as u64).wrapping_sub(address);
                if place < width as u64 {
                    value = value & !(0xff << (8 * place)) | u64::from(byte) << (8 * place);
                }
            }
        }
        value
    }

    /// The write whose exit is next, or now.
    pub(super) fn exit(&self) -> Option<&Access> {
        self.exits.front()
    }

    pub(super) fn add_exit(&mut self, access: Option<Access>) {
        self.exits.extend(access);
    }

    /// The exit at the front was served.
    pub(super) fn exit_is_done(&mut self) {
        self.exits.pop_front();
    }

    /// Begins an attempt at an instruction: the log is read from its start.
    pub(super) fn rewind(&mut self) {
        (self.used, self.used_bytes) = (0, 0);
        self.writes.clear();
    }

    /// Forgets the log: the instruction is completed or given up.
    pub(super) fn forget(&mut self) {
        if !self.answered.is_empty() {
            self.answered.clear();
            self.answers.clear();
        }
        self.rewind();
    }
}
