//! Executing a block.

use kvm_bindings::KVM_MP_STATE_RUNNABLE;

use super::super::Exec;
use super::super::decode::Decoded;
use super::super::execute::is_read;
use super::super::fast::Flow;
use super::super::flags::{IF, RF, TF};
use super::{Block, Blocks, Key};
use crate::PAGE_SIZE;
use crate::mock::vcpu::event_inbox::INTERRUPT;

impl Exec<'_> {
    /// Whether nothing has to be looked at between instructions: no event that can be taken, no trap, no shadow.
    #[inline]
    pub(in super::super) fn is_quiet(&self) -> bool {
        let flags = self.state.regs.rflags;
        let word = self.bus.intake.word();
        let nothing_to_take = word == 0 || word == INTERRUPT && flags & IF == 0;
        nothing_to_take
            && flags & (TF | RF) == 0
            && self.state.mp_state.mp_state == KVM_MP_STATE_RUNNABLE
            && !self.state.mode.has_breakpoints
            && self.state.events.interrupt.shadow == 0
            && !self.state.events_are_under_way()
    }

    /// Executes the block at CS:RIP, at most `most` instructions of it, and returns how many; 0 where that has to be done in
    /// another way. An exit, and the instruction that it suspends, are left in their places.
    #[inline]
    pub(in super::super) fn run_block(
        &mut self,
        blocks: &mut Blocks,
        suspended: &mut Option<Decoded>,
        most: u32,
    ) -> u32 {
        if !self.is_quiet() {
            return 0;
        }
        let (rip, bits, linear) = (self.state.regs.rip, self.state.mode.bits, self.code_address());
        let Some((page, physical)) = self.bus.tlb.host(linear, self.state.mode.fetch, self.bus.slots) else { return 0 };
        let key = Key { physical: physical | (linear % PAGE_SIZE), rip, bits };
        match blocks.find(key, page, self.state.features) {
            Some(block) if self.is_within_segment(rip, block.len) => self.execute_block(block, suspended, most),
            _ => 0,
        }
    }

    /// Whether code lies before the end of its segment.
    #[inline]
    fn is_within_segment(&self, rip: u64, len: u64) -> bool {
        self.is_64_bit() || rip.saturating_add(len - 1) <= self.state.sregs.cs.limit.into()
    }

    fn execute_block(&mut self, block: &Block, suspended: &mut Option<Decoded>, most: u32) -> u32 {
        let start = block.key.rip;
        self.bus.watch_code(block.key.physical, block.len);
        // Instructions that the clock knows of, and bytes before the next one.
        let (mut counted, mut end) = (0, 0);
        for (index, op) in (0..most).zip(&block.ops) {
            match (op.run)(self, op) {
                Flow::Next => {}
                Flow::Jumped => {
                    self.bus.intake.count((index + 1 - counted).into());
                    return index + 1;
                }
                Flow::Leave => {
                    self.leave_block(start, op.end, index + 1 - counted);
                    return index + 1;
                }
                Flow::Slow => {
                    self.leave_block(start, end, index - counted);
                    counted = index + 1;
                    let Some(decoded) = block.decoded.get(index as usize) else { return counted };
                    self.complete(decoded);
                    if self.split || self.exit.is_some() {
                        *suspended = (self.split || self.exit.as_ref().is_some_and(is_read)).then_some(*decoded);
                        return counted;
                    }
                    let expected = start.wrapping_add(op.end.into()) & self.state.mode.linear_mask;
                    let is_as_expected = self.state.regs.rip == expected && !self.bus.code_changed && self.is_quiet();
                    if op.ends_block || !is_as_expected {
                        return counted;
                    }
                }
            }
            end = op.end;
        }
        let done = most.min(block.ops.len() as u32);
        self.leave_block(start, end, done - counted);
        done
    }

    /// Sets RIP behind what was executed, and counts it.
    #[inline]
    fn leave_block(&mut self, start: u64, end: u8, instructions: u32) {
        self.state.regs.rip = start.wrapping_add(end.into()) & self.state.mode.linear_mask;
        self.bus.intake.count(instructions.into());
    }
}
