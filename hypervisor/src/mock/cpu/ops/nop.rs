//! What does nothing here: no-ops, hints, and what is about caches and the order of accesses.
//!
//! The host keeps the order of accesses that x86 promises, and caches are not there to be seen.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::operands::Use;
use super::super::{Exec, Handler};

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Nop | Mnemonic::Pause | Mnemonic::Reservednop => |_, _| Ok(()),
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence => |_, _| Ok(()),
        Mnemonic::Clflush | Mnemonic::Clflushopt => flush_line,
        _ => return None,
    };
    Some(handler)
}

/// It faults as a load of one byte does.
fn flush_line(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    let linear = exec.memory(instruction, 1, Use::Read)?;
    exec.probe(linear, 1, exec.state.mode.read)
}
