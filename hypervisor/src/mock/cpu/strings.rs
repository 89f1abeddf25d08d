//! String instructions, with and without their prefixes.
//!
//! Each repetition is an execution of its own, which exits and faults by itself. As in KVM's emulator, RIP leaves a repeated
//! instruction only when it finds its counter at 0, one execution after the last repetition.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::fault::{Fault, Result};
use super::flags::{DF, ZF};
use super::regs::{AX, CX, DI, DX, SI};
use super::segments::Seg;
use super::{Exec, Handler};
use crate::PAGE_SIZE;

/// Most bytes that KVM's emulator reads ahead for a `rep ins`.
const READ_AHEAD: u32 = 1024;

/// Where the items left are a multiple of this, a repeated instruction is fetched anew.
const REFETCH: u32 = 1024;

pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Movsb => |exec, instruction| repeat(exec, instruction, 1, movs),
        Mnemonic::Movsw => |exec, instruction| repeat(exec, instruction, 2, movs),
        Mnemonic::Movsd => |exec, instruction| repeat(exec, instruction, 4, movs),
        Mnemonic::Cmpsb => |exec, instruction| repeat(exec, instruction, 1, cmps),
        Mnemonic::Cmpsw => |exec, instruction| repeat(exec, instruction, 2, cmps),
        Mnemonic::Cmpsd => |exec, instruction| repeat(exec, instruction, 4, cmps),
        Mnemonic::Scasb => |exec, instruction| repeat(exec, instruction, 1, scas),
        Mnemonic::Scasw => |exec, instruction| repeat(exec, instruction, 2, scas),
        Mnemonic::Scasd => |exec, instruction| repeat(exec, instruction, 4, scas),
        Mnemonic::Lodsb => |exec, instruction| repeat(exec, instruction, 1, lods),
        Mnemonic::Lodsw => |exec, instruction| repeat(exec, instruction, 2, lods),
        Mnemonic::Lodsd => |exec, instruction| repeat(exec, instruction, 4, lods),
        Mnemonic::Stosb => |exec, instruction| repeat(exec, instruction, 1, stos),
        Mnemonic::Stosw => |exec, instruction| repeat(exec, instruction, 2, stos),
        Mnemonic::Stosd => |exec, instruction| repeat(exec, instruction, 4, stos),
        Mnemonic::Insb => |exec, instruction| repeat(exec, instruction, 1, ins),
        Mnemonic::Insw => |exec, instruction| repeat(exec, instruction, 2, ins),
        Mnemonic::Insd => |exec, instruction| repeat(exec, instruction, 4, ins),
        Mnemonic::Outsb => |exec, instruction| repeat(exec, instruction, 1, outs),
        Mnemonic::Outsw => |exec, instruction| repeat(exec, instruction, 2, outs),
        Mnemonic::Outsd => |exec, instruction| repeat(exec, instruction, 4, outs),
        _ => return None,
    };
    Some(handler)
}

/// What the parts of a string instruction need to know of it.
struct Form {
    /// Bytes of an item.
    width: u32,
    /// Bytes of counter and indices.
    address_width: u32,
    /// The segment of the source.
    source: Seg,
    /// The items left to do.
    left: u32,
}

/// How many items were done, and whether that was the last whatever the counter says.
struct Done {
    items: u32,
    last: bool,
}

const ONE: Done = Done { items: 1, last: false };

fn repeat(
    exec: &mut Exec,
    instruction: &Instruction,
    width: u32,
    make: fn(&mut Exec, &Instruction, &Form) -> Result<Done>,
) -> Result<()> {
    // SSE2 has a `movsd` and a `cmpsd` too.
    if !instruction.is_string_instruction() {
        return Err(Fault::Unknown);
    }
    let short = [0, 1].iter().any(|&operand| {
        matches!(instruction.op_kind(operand), OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI)
    });
    let address_width = if short { 2 } else { 4 };
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let left = if repeats { exec.state.regs.low(CX, address_width) } else { 1 };
    if left == 0 {
        return Ok(());
    }
    let source = Seg::named(instruction.memory_segment());
    let form = Form { width, address_width, source, left };
    let flags_before = exec.state.regs.rflags;
    let done = make(exec, instruction, &form)?;
    if repeats {
        let left = left.wrapping_sub(done.items);
        exec.state.regs.set_kept(CX, address_width, left);
        if left != 0 && !done.last {
            // The flags are the last comparison's: should a later one fault, they are as before the first.
            exec.state.regs.rflags = flags_before;
        }
        if !done.last {
            exec.state.regs.rip = exec.start;
            // KVM's emulator fetches the instruction again whenever this many are left, and so for the last look too.
            exec.repeats = left % REFETCH != 0;
        }
    }
    Ok(())
}

impl Exec<'_> {
    /// The address of the next item.
    fn item(&self, register: usize, form: &Form, seg: Seg, write: bool) -> Result<u32> {
        self.linear(seg, self.state.regs.low(register, form.address_width), form.width, write)
    }

    fn source(&mut self, form: &Form) -> Result<u32> {
        let linear = self.item(SI, form, form.source, false)?;
        self.load(linear, form.width)
    }

    fn step_of(&self, form: &Form) -> u32 {
        if self.state.regs.has(DF) { form.width.wrapping_neg() } else { form.width }
    }

    /// Moves an index on, by items.
    fn pass(&mut self, register: usize, form: &Form, items: u32) {
        let step = self.step_of(form).wrapping_mul(items);
        let index = self.state.regs.low(register, form.address_width).wrapping_add(step);
        self.state.regs.set_kept(register, form.address_width, index);
    }
}

fn movs(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let value = exec.source(form)?;
    let to = exec.item(DI, form, Seg::Es, true)?;
    exec.store(to, form.width, value);
    exec.pass(SI, form, 1);
    exec.pass(DI, form, 1);
    Ok(ONE)
}

fn cmps(exec: &mut Exec, instruction: &Instruction, form: &Form) -> Result<Done> {
    let a = exec.source(form)?;
    let linear = exec.item(DI, form, Seg::Es, false)?;
    let b = exec.load(linear, form.width)?;
    exec.pass(SI, form, 1);
    exec.pass(DI, form, 1);
    Ok(compare(exec, instruction, form, a, b))
}

fn scas(exec: &mut Exec, instruction: &Instruction, form: &Form) -> Result<Done> {
    let linear = exec.item(DI, form, Seg::Es, false)?;
    let b = exec.load(linear, form.width)?;
    let a = exec.state.regs.low(AX, form.width);
    exec.pass(DI, form, 1);
    Ok(compare(exec, instruction, form, a, b))
}

fn compare(exec: &mut Exec, instruction: &Instruction, form: &Form, a: u32, b: u32) -> Done {
    exec.state.regs.subtract(a, b, false, form.width);
    let equal = exec.state.regs.has(ZF);
    let last = instruction.has_repe_prefix() && !equal || instruction.has_repne_prefix() && equal;
    Done { items: 1, last }
}

fn lods(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let value = exec.source(form)?;
    exec.state.regs.set_low(AX, form.width, value);
    exec.pass(SI, form, 1);
    Ok(ONE)
}

fn stos(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let to = exec.item(DI, form, Seg::Es, true)?;
    let value = exec.state.regs.low(AX, form.width);
    exec.store(to, form.width, value);
    exec.pass(DI, form, 1);
    Ok(ONE)
}

/// Reads as many items at once as KVM does, before it looks where they go: as many as there are bytes to the page's end,
/// and as its buffer holds. Forwards they are stored as one block, backwards one by one up to the first that faults.
fn ins(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let port = exec.state.regs.low(DX, 2) as u16;
    exec.check_port(port, form.width)?;
    let index = exec.state.regs.low(DI, form.address_width);
    let backwards = exec.state.regs.has(DF);
    let within_page = index % PAGE_SIZE as u32;
    let to_page_end = if backwards { within_page } else { PAGE_SIZE as u32 - within_page };
    let items = to_page_end.min(READ_AHEAD / form.width).min(form.left).max(1);
    if backwards {
        // Where an earlier item of the same block has been stored, the port is not read again for one that faults.
        exec.item(DI, form, Seg::Es, true)?;
    }
    let bytes = exec.bus.input_string(port, form.width, items as u16)?;
    if !backwards {
        let to = exec.linear(Seg::Es, index, bytes.len() as u32, true)?;
        exec.bus.store_block(to, &bytes);
        exec.pass(DI, form, items);
        return Ok(Done { items, last: false });
    }
    let mut done = 0;
    for item in bytes.chunks(form.width as usize) {
        match exec.item(DI, form, Seg::Es, true) {
            Ok(to) => exec.bus.store_block(to, item),
            Err(fault) if done == 0 => return Err(fault),
            // Its exception comes when the instruction goes on with it.
            Err(_) => break,
        }
        exec.pass(DI, form, 1);
        done += 1;
    }
    Ok(Done { items: done, last: false })
}

/// One item at a time, as KVM does.
fn outs(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let port = exec.state.regs.low(DX, 2) as u16;
    exec.check_port(port, form.width)?;
    let value = exec.source(form)?;
    exec.bus.output(port, form.width, value);
    exec.pass(SI, form, 1);
    Ok(ONE)
}
