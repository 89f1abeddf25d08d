//! The instructions that raise interrupts and exceptions. How those are delivered, is in `delivery`.

use iced_x86::{Instruction, Mnemonic};

use super::super::delivery::Source;
use super::super::exception::{BREAKPOINT, DEBUG, Exception, Fault, OVERFLOW, Result};
use super::super::flags::OF;
use super::super::operands::Use;
use super::super::regs::{register_width, signed};
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Int => |exec, instruction| {
            let what = Exception::new(instruction.immediate8(), None);
            if exec.state.mode.is_virtual_8086 {
                return exec.interrupt_in_virtual_8086(what);
            }
            exec.interrupt(what, Source::Software)
        },
        Mnemonic::Int3 => |exec, _| exec.interrupt(Exception::new(BREAKPOINT, None), Source::Software),
        // Its gate is not asked for permission.
        Mnemonic::Int1 => |exec, _| exec.interrupt(Exception::new(DEBUG, None), Source::Privileged),
        Mnemonic::Into => into,
        Mnemonic::Bound => bound,
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Rsm => |_, _| Err(Fault::invalid_opcode()),
        _ => return None,
    };
    Some(handler)
}

fn into(exec: &mut Exec, _: &Instruction) -> Result<()> {
    if exec.state.regs.has(OF) { exec.interrupt(Exception::new(OVERFLOW, None), Source::Software) } else { Ok(()) }
}

fn bound(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let register = instruction.op0_register();
    let width = register_width(register);
    let linear = exec.memory(instruction, 2 * width, Use::Read)?;
    let lower = signed(exec.load(linear, width)?, width);
    let upper = signed(exec.load(linear.wrapping_add(width.into()), width)?, width);
    let index = signed(exec.state.regs.get(register), width);
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(Fault::bound()) }
}
