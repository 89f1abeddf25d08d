//! What looks after x87's and MMX's registers instead of computing with them.

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::exception::Result;
use super::super::mode::CR0_PE;
use super::super::operands::Use;
use super::super::{Exec, Handler, flags};
use super::check::{Unit, ready, wait};
use super::images::{Form, MAX_ENVIRONMENT, environment, first_ten, set_environment};
use super::operands::is_memory;
use super::state::EXCEPTIONS;

/// Bytes of the eight registers behind an environment.
const REGISTERS: usize = 80;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic::*;
    let handler: Handler = match mnemonic {
        Wait => |exec, _| wait(exec),
        // Instructions of the 8087 and the 80287 that do nothing since.
        Fneni | Fndisi | Fnsetpm => |exec, _| ready(exec, Unit::X87NoWait),
        Fnclex => |exec, _| ready(exec, Unit::X87NoWait).map(|()| exec.state.fpu.clear_exceptions()),
        Fninit => |exec, _| ready(exec, Unit::X87NoWait).map(|()| exec.state.fpu.init_x87()),
        Emms => |exec, _| ready(exec, Unit::Mmx).map(|()| exec.state.fpu.end_mmx()),
        Fldcw => load_control,
        Fnstcw => |exec, instruction| store_word(exec, instruction, exec.state.fpu.control()),
        Fnstsw => |exec, instruction| store_word(exec, instruction, exec.state.fpu.status()),
        Fldenv => |exec, instruction| load(exec, instruction, 0),
        Frstor => |exec, instruction| load(exec, instruction, REGISTERS),
        Fnstenv => store_environment,
        Fnsave => save,
        _ => return None,
    };
    Some(handler)
}

fn load_control(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::X87)?;
    let linear = exec.wide_address(instruction, 2, 1, Use::Read)?;
    let mut bytes = [0; 2];
    exec.load_bytes(linear, &mut bytes)?;
    exec.state.fpu.set_control(u16::from_le_bytes(bytes));
    Ok(())
}

/// To memory, or to AX.
fn store_word(exec: &mut Exec, instruction: &Instruction, word: u16) -> Result<()> {
    ready(exec, Unit::X87NoWait)?;
    if is_memory(instruction, 0) {
        let linear = exec.wide_address(instruction, 2, 1, Use::Write)?;
        exec.store_bytes(linear, &word.to_le_bytes())?;
    } else {
        exec.set_vector(Register::AX, word.into());
    }
    Ok(())
}

fn form(exec: &Exec, instruction: &Instruction) -> Form {
    let real = exec.state.sregs.cr0 & CR0_PE == 0 || exec.state.regs.has(flags::VM);
    let wide = !matches!(instruction.memory_size().size(), 14 | 94);
    Form { wide, real }
}

/// Loads the environment, and the registers behind it if there are bytes of them.
fn load(exec: &mut Exec, instruction: &Instruction, registers: usize) -> Result<()> {
    ready(exec, Unit::X87)?;
    let form = form(exec, instruction);
    let linear = exec.wide_address(instruction, form.len() + registers, 1, Use::Read)?;
    let mut image = [0; MAX_ENVIRONMENT + REGISTERS];
    let (image, _) = image.split_at_mut(form.len() + registers);
    exec.load_bytes(linear, image)?;
    let (environment, registers) = image.split_at(form.len());
    set_environment(&mut exec.state.fpu, form, environment, !registers.is_empty());
    for (index, register) in registers.chunks(10).enumerate() {
        exec.state.fpu.set_st(index, first_ten(register));
    }
    Ok(())
}

/// Stores the environment, then masks all exceptions.
fn store_environment(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::X87NoWait)?;
    let form = form(exec, instruction);
    let linear = exec.wide_address(instruction, form.len(), 1, Use::Write)?;
    let image = environment(&exec.state.fpu, form);
    exec.store_bytes(linear, image.get(..form.len()).unwrap_or_default())?;
    let control = exec.state.fpu.control();
    exec.state.fpu.set_control(control | EXCEPTIONS);
    Ok(())
}

/// Stores the environment and the registers, then begins anew.
fn save(exec: &mut Exec, instruction: &Instruction) -> Result<()> {
    ready(exec, Unit::X87NoWait)?;
    let form = form(exec, instruction);
    let linear = exec.wide_address(instruction, form.len() + REGISTERS, 1, Use::Write)?;
    let mut image = [0; MAX_ENVIRONMENT + REGISTERS];
    let (image, _) = image.split_at_mut(form.len() + REGISTERS);
    let (head, registers) = image.split_at_mut(form.len());
    head.iter_mut().zip(environment(&exec.state.fpu, form)).for_each(|(to, from)| *to = from);
    for (index, register) in registers.chunks_mut(10).enumerate() {
        register.iter_mut().zip(exec.state.fpu.st(index)).for_each(|(to, from)| *to = from);
    }
    exec.store_bytes(linear, image)?;
    exec.state.fpu.init_x87();
    Ok(())
}
