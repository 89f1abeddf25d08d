//! Memory by linear addresses: what lies between the segment step and the bus.
//!
//! Each access is translated as a whole before any of its bytes is touched, so that it faults or happens.

use super::Exec;
use super::exception::{Fault, Result};
use super::ops::debug_regs::Watched;
use super::tlb::Right;
use crate::PAGE_SIZE;

/// A part of an access within one page.
#[derive(Clone, Copy)]
struct Piece {
    physical: u64,
    /// Bytes of the access before it, and its own.
    skip: usize,
    len: usize,
}

const NO_PIECE: Piece = Piece { physical: 0, skip: 0, len: 0 };

impl Exec<'_> {
    /// Loads 1 to 8 bytes as the program.
    #[inline]
    pub(super) fn load(&mut self, linear: u64, width: u32) -> Result<u64> {
        self.check_alignment(linear, width)?;
        self.load_with(linear, width as usize, self.state.mode.read)
    }

    /// Stores the low `width` bytes of `value`, 1 to 8, as the program, when the instruction is complete.
    #[inline]
    pub(super) fn store(&mut self, linear: u64, width: u32, value: u64) -> Result<()> {
        self.check_alignment(linear, width)?;
        self.store_with(linear, width as usize, value, self.state.mode.write)
    }

    /// Loads 1 to 8 bytes of a descriptor table or a TSS, which the processor reads by itself at any privilege level.
    pub(super) fn load_system(&mut self, linear: u64, width: u32) -> Result<u64> {
        self.load_with(linear & self.system_mask(), width as usize, Right::GUARDED_READ)
    }

    /// Stores there.
    pub(super) fn store_system(&mut self, linear: u64, width: u32, value: u64) -> Result<()> {
        self.store_with(linear & self.system_mask(), width as usize, value, Right::GUARDED_WRITE)
    }

    /// The bits of addresses of descriptor tables: in compatibility mode too all 64.
    fn system_mask(&self) -> u64 {
        if self.state.mode.is_long { u64::MAX } else { u32::MAX.into() }
    }

    /// Loads up to 16 bytes, lowest first: of x87 and SSE operands.
    pub(super) fn load_wide(&mut self, linear: u64, width: u32) -> Result<u128> {
        let mut bytes = [0; 16];
        self.load_bytes(linear, bytes.get_mut(..width as usize).ok_or(Fault::Unknown)?)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Stores the low `width` bytes of a value, up to 16.
    pub(super) fn store_wide(&mut self, linear: u64, width: u32, value: u128) -> Result<()> {
        self.store_bytes(linear, value.to_le_bytes().get(..width as usize).ok_or(Fault::Unknown)?)
    }

    /// Loads bytes, 8 at a time from the first on.
    pub(super) fn load_bytes(&mut self, linear: u64, into: &mut [u8]) -> Result<()> {
        self.probe(linear, into.len() as u32, self.state.mode.read)?;
        for (index, chunk) in (0..).zip(into.chunks_mut(8)) {
            let at = linear.wrapping_add(8 * index);
            let value = self.load_with(at & self.state.mode.linear_mask(), chunk.len(), self.state.mode.read)?;
            for (to, from) in chunk.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }

    /// Stores bytes, up to the end of the page and then the others, 8 at a time, when the instruction is complete.
    pub(super) fn store_bytes(&mut self, linear: u64, bytes: &[u8]) -> Result<()> {
        self.probe(linear, bytes.len() as u32, self.state.mode.write)?;
        let first = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        let (here, there) = bytes.split_at(first.min(bytes.len()));
        for (start, part) in [(linear, here), (linear.wrapping_add(first as u64), there)] {
            for (index, chunk) in (0..).zip(part.chunks(8)) {
                let at = start.wrapping_add(8 * index) & self.state.mode.linear_mask();
                self.store_with(at, chunk.len(), super::bus::little_endian(chunk), self.state.mode.write)?;
            }
        }
        Ok(())
    }

    /// Raises the page fault of an access to `len` bytes, if it has one.
    pub(super) fn probe(&mut self, linear: u64, len: u32, right: Right) -> Result<()> {
        let mask = self.state.mode.linear_mask();
        let last = linear.wrapping_add(u64::from(len.saturating_sub(1))) & mask;
        self.translate(linear & mask, right)?;
        let pages = (last / PAGE_SIZE).wrapping_sub(linear / PAGE_SIZE);
        // No operand is larger than two pages; an address that wraps has its last page at 0.
        if pages != 0 {
            self.translate(last & !(PAGE_SIZE - 1), right)?;
        }
        Ok(())
    }

    /// #AC where the program asked for it. Operands of no power of two bytes, and those of 16, have rules of their own.
    #[inline]
    pub(super) fn check_alignment(&self, linear: u64, width: u32) -> Result<()> {
        if self.state.mode.checks_alignment && matches!(width, 2 | 4 | 8) && !linear.is_multiple_of(width.into()) {
            return Err(Fault::alignment());
        }
        Ok(())
    }

    #[inline]
    fn load_with(&mut self, linear: u64, width: usize, right: Right) -> Result<u64> {
        if self.state.mode.has_breakpoints {
            self.watch(linear, width as u64, Watched::Read);
        }
        if linear % PAGE_SIZE + width as u64 <= PAGE_SIZE {
            let physical = self.translate(linear, right)?;
            return if self.bus.locked {
                self.bus.load_locked(physical, width, false)
            } else {
                self.bus.load(physical, width)
            };
        }
        let mut value = 0;
        for piece in self.pieces(linear, width, right)? {
            let part = if self.bus.locked {
                self.bus.load_locked(piece.physical, piece.len, true)?
            } else {
                self.bus.load(piece.physical, piece.len)?
            };
            value |= part << (8 * piece.skip);
        }
        Ok(value)
    }

    #[inline]
    pub(super) fn store_with(&mut self, linear: u64, width: usize, value: u64, right: Right) -> Result<()> {
        if self.state.mode.has_breakpoints {
            self.watch(linear, width as u64, Watched::Write);
        }
        if linear % PAGE_SIZE + width as u64 <= PAGE_SIZE {
            let physical = self.translate(linear, right)?;
            self.bus.store(physical, width, value);
            return Ok(());
        }
        for piece in self.pieces(linear, width, right)? {
            self.bus.store(piece.physical, piece.len, value >> (8 * piece.skip));
        }
        Ok(())
    }

    /// An access over the end of a page, cut there as KVM's emulator cuts it.
    fn pieces(&mut self, linear: u64, width: usize, right: Right) -> Result<[Piece; 2]> {
        let first = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        let mut pieces = [NO_PIECE; 2];
        let mask = if self.state.mode.is_long { u64::MAX } else { u32::MAX.into() };
        for (piece, (skip, len)) in pieces.iter_mut().zip([(0, first), (first, width - first)]) {
            let physical = self.translate(linear.wrapping_add(skip as u64) & mask, right)?;
            *piece = Piece { physical, skip, len };
        }
        Ok(pieces)
    }
}
