//! The stack.

use iced_x86::{Instruction, Mnemonic};

use super::super::Exec;
use super::super::regs::{BP, SP, mask};
use super::super::segments::Seg;
use super::access::Spot;
use super::{Fast, Flow, Form, Op};

macro_rules! for_width {
    ($function:ident, $width:expr) => {
        match $width {
            2 => Some($function::<2> as Fast),
            4 => Some($function::<4> as Fast),
            8 => Some($function::<8> as Fast),
            _ => None,
        }
    };
}

pub(super) fn select(instruction: &Instruction, form: Form, _: u32) -> Option<Fast> {
    let width = instruction.stack_pointer_increment().unsigned_abs();
    match (instruction.mnemonic(), form) {
        (Mnemonic::Push, Form::Register) => for_width!(push_register, width),
        (Mnemonic::Push, Form::Immediate) => for_width!(push_immediate, width),
        (Mnemonic::Pop, Form::Register) => for_width!(pop_register, width),
        (Mnemonic::Leave, _) => match instruction.code() {
            iced_x86::Code::Leaved => Some(leave::<4> as Fast),
            iced_x86::Code::Leaveq => Some(leave::<8> as Fast),
            _ => None,
        },
        _ => None,
    }
}

impl<'b> Exec<'b> {
    /// Where the next item is to be pushed, and the stack pointer then.
    #[inline(always)]
    pub(super) fn fast_push<const WIDTH: u32>(&self) -> Option<(Spot<'b>, u64)> {
        let width = self.state.mode.stack_width.into();
        let top = self.state.regs.low(SP, width).wrapping_sub(WIDTH.into()) & mask(width);
        Some((self.spot::<WIDTH>(Seg::Ss as u8, top, self.state.mode.write)?, top))
    }

    /// The item on top of the stack, and the stack pointer without it.
    #[inline(always)]
    pub(super) fn fast_pop<const WIDTH: u32>(&self) -> Option<(u64, u64)> {
        let top = self.state.regs.low(SP, self.state.mode.stack_width.into());
        let spot = self.spot::<WIDTH>(Seg::Ss as u8, top, self.state.mode.read)?;
        Some((spot.load::<WIDTH>(), top.wrapping_add(WIDTH.into())))
    }

    #[inline(always)]
    pub(super) fn set_top(&mut self, top: u64) {
        self.state.regs.set_kept(SP, self.state.mode.stack_width.into(), top);
    }
}

#[inline(always)]
fn push<const WIDTH: u32>(exec: &mut Exec, value: u64) -> Flow {
    let Some((spot, top)) = exec.fast_push::<WIDTH>() else { return Flow::Slow };
    exec.set_top(top);
    exec.fast_store::<WIDTH>(&spot, value)
}

fn push_register<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let value = exec.fast_register(op.dst);
    push::<WIDTH>(exec, value)
}

fn push_immediate<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    push::<WIDTH>(exec, op.imm)
}

fn pop_register<const WIDTH: u32>(exec: &mut Exec, op: &Op) -> Flow {
    let Some((value, top)) = exec.fast_pop::<WIDTH>() else { return Flow::Slow };
    exec.set_top(top);
    exec.set_fast_register::<WIDTH>(op.dst, value);
    Flow::Next
}

/// With a stack as wide as its items.
fn leave<const WIDTH: u32>(exec: &mut Exec, _: &Op) -> Flow {
    if u32::from(exec.state.mode.stack_width) != WIDTH {
        return Flow::Slow;
    }
    let frame = exec.state.regs.low(BP, WIDTH);
    let Some(spot) = exec.spot::<WIDTH>(Seg::Ss as u8, frame, exec.state.mode.read) else { return Flow::Slow };
    exec.set_top(frame.wrapping_add(WIDTH.into()));
    exec.state.regs.set_low(BP, WIDTH, spot.load::<WIDTH>());
    Flow::Next
}
