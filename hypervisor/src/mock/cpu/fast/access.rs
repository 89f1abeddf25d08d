//! Memory operands that are plain memory, within one page.

use super::super::Exec;
use super::super::tlb::Right;
use super::{Flow, NONE, Op};
use crate::PAGE_SIZE;
use crate::mock::atomic::Span;

/// Where an operand lies in this process.
pub(super) struct Spot<'a> {
    page: Span<'a>,
    offset: usize,
    physical: u64,
}

impl<'b> Exec<'b> {
    /// A general register, of which only the lowest bits of the number count.
    #[inline(always)]
    pub(super) fn fast_register(&self, number: u8) -> u64 {
        self.state.regs.gpr[usize::from(number & 15)]
    }

    #[inline(always)]
    pub(super) fn set_fast_register<const WIDTH: u32>(&mut self, number: u8, value: u64) {
        self.state.regs.set_low(usize::from(number & 15), WIDTH, value);
    }

    /// The offset of the memory operand in its segment.
    #[inline(always)]
    pub(super) fn fast_offset(&self, op: &Op) -> u64 {
        let mut offset = op.disp;
        if op.base != NONE {
            offset = offset.wrapping_add(self.fast_register(op.base));
        }
        if op.index != NONE {
            offset = offset.wrapping_add(self.fast_register(op.index) << op.scale);
        }
        offset & u64::MAX >> op.unused_bits
    }

    /// Where `WIDTH` bytes at an offset of a segment lie.
    #[inline(always)]
    pub(super) fn spot<const WIDTH: u32>(&self, segment: u8, offset: u64, right: Right) -> Option<Spot<'b>> {
        let segment = self.state.segments.get(usize::from(segment))?;
        let room = if right.meets(Right::WRITES) { segment.writable } else { segment.readable };
        if offset.wrapping_add(WIDTH.into()) > room {
            return None;
        }
        let linear = segment.base.wrapping_add(offset) & self.state.mode.linear_mask;
        if WIDTH > 1 && linear % PAGE_SIZE > PAGE_SIZE - u64::from(WIDTH) {
            return None;
        }
        let (page, physical) = self.bus.tlb.host(linear, right, self.bus.slots)?;
        Some(Spot { page, offset: (linear % PAGE_SIZE) as usize, physical: physical | (linear % PAGE_SIZE) })
    }

    #[inline(always)]
    pub(super) fn fast_load<const WIDTH: u32>(&self, op: &Op) -> Option<u64> {
        let spot = self.spot::<WIDTH>(op.segment, self.fast_offset(op), self.state.mode.read)?;
        Some(spot.load::<WIDTH>())
    }

    /// Where the operand lies, to be written.
    #[inline(always)]
    pub(super) fn fast_spot<const WIDTH: u32>(&self, op: &Op) -> Option<Spot<'b>> {
        self.spot::<WIDTH>(op.segment, self.fast_offset(op), self.state.mode.write)
    }

    /// Stores, and says whether the block's own code was changed.
    #[inline(always)]
    pub(super) fn fast_store<const WIDTH: u32>(&self, spot: &Spot, value: u64) -> Flow {
        spot.page.store(spot.offset, WIDTH as usize, value);
        if self.bus.is_code(spot.physical, WIDTH as usize) { Flow::Leave } else { Flow::Next }
    }
}

impl Spot<'_> {
    /// Bytes to the end of the page.
    pub(super) fn room(&self) -> u64 {
        PAGE_SIZE - self.offset as u64
    }

    pub(super) fn physical(&self) -> u64 {
        self.physical
    }

    /// The item so many bytes behind it in its page.
    #[inline(always)]
    pub(super) fn load_at<const WIDTH: u32>(&self, bytes: usize) -> u64 {
        self.page.load(self.offset + bytes, WIDTH as usize)
    }

    #[inline(always)]
    pub(super) fn store_at<const WIDTH: u32>(&self, bytes: usize, value: u64) {
        self.page.store(self.offset + bytes, WIDTH as usize, value);
    }

    #[inline(always)]
    pub(super) fn load<const WIDTH: u32>(&self) -> u64 {
        self.page.load(self.offset, WIDTH as usize)
    }
}
