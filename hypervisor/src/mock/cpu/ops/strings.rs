//! String instructions, with and without their prefixes.
//!
//! Each repetition is an execution of its own, which exits and faults by itself. As in KVM's emulator, RIP leaves a repeated
//! instruction only when it finds its counter at 0, one execution after the last repetition.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::exception::Result;
use super::super::flags::{DF, ZF};
use super::super::operands::Use;
use super::super::regs::{AX, CX, DI, DX, SI};
use super::super::segments::Seg;
use super::super::{Exec, Handler};
use crate::PAGE_SIZE;

/// Most bytes that KVM's emulator reads ahead for a `rep ins`.
const READ_AHEAD: u64 = 1024;

/// Where the items left are a multiple of this, a repeated instruction is fetched anew.
pub(in super::super) const REFETCH: u64 = 1024;

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = match mnemonic {
        Mnemonic::Movsb => |exec, instruction| repeat(exec, instruction, 1, movs),
        Mnemonic::Movsw => |exec, instruction| repeat(exec, instruction, 2, movs),
        Mnemonic::Movsd => |exec, instruction| repeat(exec, instruction, 4, movs),
        Mnemonic::Movsq => |exec, instruction| repeat(exec, instruction, 8, movs),
        Mnemonic::Cmpsb => |exec, instruction| repeat(exec, instruction, 1, cmps),
        Mnemonic::Cmpsw => |exec, instruction| repeat(exec, instruction, 2, cmps),
        Mnemonic::Cmpsd => |exec, instruction| repeat(exec, instruction, 4, cmps),
        Mnemonic::Cmpsq => |exec, instruction| repeat(exec, instruction, 8, cmps),
        Mnemonic::Scasb => |exec, instruction| repeat(exec, instruction, 1, scas),
        Mnemonic::Scasw => |exec, instruction| repeat(exec, instruction, 2, scas),
        Mnemonic::Scasd => |exec, instruction| repeat(exec, instruction, 4, scas),
        Mnemonic::Scasq => |exec, instruction| repeat(exec, instruction, 8, scas),
        Mnemonic::Lodsb => |exec, instruction| repeat(exec, instruction, 1, lods),
        Mnemonic::Lodsw => |exec, instruction| repeat(exec, instruction, 2, lods),
        Mnemonic::Lodsd => |exec, instruction| repeat(exec, instruction, 4, lods),
        Mnemonic::Lodsq => |exec, instruction| repeat(exec, instruction, 8, lods),
        Mnemonic::Stosb => |exec, instruction| repeat(exec, instruction, 1, stos),
        Mnemonic::Stosw => |exec, instruction| repeat(exec, instruction, 2, stos),
        Mnemonic::Stosd => |exec, instruction| repeat(exec, instruction, 4, stos),
        Mnemonic::Stosq => |exec, instruction| repeat(exec, instruction, 8, stos),
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
    left: u64,
}

/// How many items were done, and whether that was the last whatever the counter says.
struct Done {
    items: u64,
    last: bool,
}

const ONE: Done = Done { items: 1, last: false };

fn repeat(
    exec: &mut Exec,
    instruction: &Instruction,
    width: u32,
    make: fn(&mut Exec, &Instruction, &Form) -> Result<Done>,
) -> Result<()> {
    let address_width = address_width(instruction);
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let left = if repeats { exec.state.regs.low(CX, address_width) } else { 1 };
    if left == 0 {
        mask_registers(exec, instruction, address_width);
        return Ok(());
    }
    let source = Seg::named(instruction.memory_segment());
    let form = Form { width, address_width, source, left };
    let flags_before = exec.state.regs.rflags;
    let done = make(exec, instruction, &form)?;
    if repeats {
        let left = left.wrapping_sub(done.items);
        exec.set_address_register(CX, address_width, left);
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

/// Without a repetition, and with addresses of 32 bits in 64-bit code, Intel's processors clear what is above 32 bits of some
/// registers, as KVM does for their vendor's name.
fn mask_registers(exec: &mut Exec, instruction: &Instruction, address_width: u32) {
    use Mnemonic::{Movsb, Movsd, Movsq, Movsw, Stosb, Stosd, Stosq, Stosw};
    if !exec.is_64_bit() || address_width != 4 {
        return;
    }
    let masked: &[usize] = match instruction.mnemonic() {
        Movsb | Movsw | Movsd | Movsq => &[CX, SI, DI],
        Stosb | Stosw | Stosd | Stosq => &[CX, DI],
        _ => &[CX],
    };
    for &register in masked {
        let value = exec.state.regs.low(register, 4);
        exec.state.regs.set_low(register, 4, value);
    }
}

/// The bytes of counter and indices.
pub(in super::super) fn address_width(instruction: &Instruction) -> u32 {
    let width = |operand| match instruction.op_kind(operand) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
        _ => None,
    };
    // A string instruction has one of these.
    width(0).or_else(|| width(1)).unwrap_or(4)
}

impl Exec<'_> {
    /// The address of the next item.
    fn item(&mut self, register: usize, form: &Form, seg: Seg, what_for: Use) -> Result<u64> {
        self.memory_at(seg, self.state.regs.low(register, form.address_width), form.width, what_for)
    }

    fn source(&mut self, form: &Form) -> Result<u64> {
        let linear = self.item(SI, form, form.source, Use::Read)?;
        self.load(linear, form.width)
    }

    /// Moves an index by items, in the direction of DF.
    fn pass(&mut self, register: usize, form: &Form, items: u64) {
        let step = u64::from(form.width).wrapping_mul(items);
        let step = if self.state.regs.has(DF) { step.wrapping_neg() } else { step };
        let index = self.state.regs.low(register, form.address_width).wrapping_add(step);
        self.set_address_register(register, form.address_width, index);
    }
}

fn movs(exec: &mut Exec, _: &Instruction, form: &Form) -> Result<Done> {
    let value = exec.source(form)?;
    let to = exec.item(DI, form, Seg::Es, Use::Write)?;
    exec.store(to, form.width, value)?;
    exec.pass(SI, form, 1);
    exec.pass(DI, form, 1);
    Ok(ONE)
}

fn cmps(exec: &mut Exec, instruction: &Instruction, form: &Form) -> Result<Done> {
    let a = exec.source(form)?;
    let linear = exec.item(DI, form, Seg::Es, Use::Read)?;
    let b = exec.load(linear, form.width)?;
    exec.pass(SI, form, 1);
    exec.pass(DI, form, 1);
    Ok(compare(exec, instruction, form, a, b))
}

fn scas(exec: &mut Exec, instruction: &Instruction, form: &Form) -> Result<Done> {
    let linear = exec.item(DI, form, Seg::Es, Use::Read)?;
    let b = exec.load(linear, form.width)?;
    let a = exec.state.regs.low(AX, form.width);
    exec.pass(DI, form, 1);
    Ok(compare(exec, instruction, form, a, b))
}

fn compare(exec: &mut Exec, instruction: &Instruction, form: &Form, a: u64, b: u64) -> Done {
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
    let to = exec.item(DI, form, Seg::Es, Use::Write)?;
    let value = exec.state.regs.low(AX, form.width);
    exec.store(to, form.width, value)?;
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
    let (within_page, width) = (index % PAGE_SIZE, u64::from(form.width));
    let to_page_end = if backwards { within_page } else { PAGE_SIZE - within_page };
    let items = to_page_end.min(READ_AHEAD / width).min(form.left).max(1);
    if backwards || exec.state.mode.is_paged {
        // The port is not read again for an item that faults.
        exec.item(DI, form, Seg::Es, Use::Write)?;
    }
    let bytes = exec.bus.input_string(port, form.width, items as u16)?;
    if !backwards {
        let to = exec.memory_at(Seg::Es, index, bytes.len() as u32, Use::Write)?;
        exec.store_bytes(to, &bytes)?;
        exec.pass(DI, form, items);
        return Ok(Done { items, last: false });
    }
    let mut done = 0;
    for item in bytes.chunks(form.width as usize) {
        match exec.item(DI, form, Seg::Es, Use::Write) {
            Ok(to) => exec.store_bytes(to, item)?,
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
    exec.bus.output(port, form.width, value as u32);
    exec.pass(SI, form, 1);
    Ok(ONE)
}
