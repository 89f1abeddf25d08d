//! From a program to machine code.
//!
//! While it goes, the assembler keeps track of what it can know: which registers hold constants, whether the stack
//! pointer points at the stack, and which flags are undefined. So memory is touched where the picks say, and no
//! undefined flag is looked at.

use std::collections::HashMap;

use iced_x86::{Code as Opcode, Encoder, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use super::layout::{self, CODE, FINAL_PORT, Windows};
use super::program::{Mode, Op, Program};
use super::{quirks, undefined};

/// The general registers, by their number in an encoding.
pub(super) const GENERAL: [Register; 8] = [
    Register::EAX,
    Register::ECX,
    Register::EDX,
    Register::EBX,
    Register::ESP,
    Register::EBP,
    Register::ESI,
    Register::EDI,
];
pub(super) const EAX: usize = 0;
pub(super) const ECX: usize = 1;
pub(super) const EDX: usize = 2;
pub(super) const EBX: usize = 3;
pub(super) const ESP: usize = 4;
pub(super) const EBP: usize = 5;
pub(super) const ESI: usize = 6;
pub(super) const EDI: usize = 7;

/// What is known of the general registers.
pub(super) type Known = [Option<u32>; 8];

/// What a program has become.
#[derive(Clone, Debug)]
pub struct Code {
    /// The machine code.
    pub bytes: Vec<u8>,
    /// The flags that have no meaning after its last instruction.
    pub undefined: u32,
    /// The flags that have none somewhere on the way.
    pub ever_undefined: u32,
}

impl From<&[u8]> for Code {
    /// Code that leaves no flag undefined.
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), undefined: 0, ever_undefined: 0 }
    }
}

/// The code of a program.
pub(super) fn assemble(program: &Program) -> Code {
    let mut assembler = Assembler::new(program);
    for (index, op) in program.ops.iter().enumerate() {
        assembler.begin(index);
        assembler.op(op);
    }
    assembler.begin(program.ops.len());
    let mut last = Instruction::default();
    last.set_code(Opcode::Out_imm8_AL);
    last.set_op_kind(0, OpKind::Immediate8);
    last.set_immediate8(FINAL_PORT as u8);
    last.set_op1_register(Register::AL);
    assembler.emit(last);
    assembler.finish()
}

pub(super) struct Assembler {
    pub(super) mode: Mode,
    pub(super) bits: u32,
    pub(super) windows: Windows,
    pub(super) known: Known,
    /// The stack pointer may be anywhere.
    pub(super) stack_lost: bool,
    /// Registers the op in hand has prepared; nothing else may be loaded into them.
    pub(super) held: Vec<usize>,
    /// Flags without a meaning now, and those that ever had none.
    undefined: u32,
    ever_undefined: u32,
    op: usize,
    ops: usize,
    items: Vec<Item>,
    /// Where each op begins: an index into `items`.
    labels: Vec<usize>,
    /// What is known at the jumps to an op that is still to come, and whether the stack pointer is lost there.
    jumps: HashMap<usize, Vec<(Known, bool)>>,
    info: InstructionInfoFactory,
}

struct Item {
    instruction: Instruction,
    target: Option<usize>,
}

impl Assembler {
    fn new(program: &Program) -> Self {
        let mode = program.start.mode;
        let mut known = program.start.registers.map(Some);
        known[ESP] = None;
        Self {
            mode,
            bits: mode.bits(),
            windows: layout::windows(mode),
            known,
            stack_lost: false,
            held: Vec::new(),
            undefined: 0,
            ever_undefined: 0,
            op: 0,
            ops: program.ops.len(),
            items: Vec::new(),
            labels: Vec::new(),
            jumps: HashMap::new(),
            info: InstructionInfoFactory::new(),
        }
    }

    fn begin(&mut self, index: usize) {
        self.op = index;
        self.held.clear();
        self.labels.push(self.items.len());
        for (known, stack_lost) in self.jumps.remove(&index).unwrap_or_default() {
            self.stack_lost |= stack_lost;
            for (here, there) in self.known.iter_mut().zip(known) {
                if *here != there {
                    *here = None;
                }
            }
            self.undefined = self.ever_undefined;
        }
    }

    /// The op that a jump from here goes to: one of the next three.
    pub(super) fn target(&self, pick: u32) -> usize {
        (self.op + 1 + (pick % 3) as usize).min(self.ops)
    }

    /// Adds an instruction that stays where it is.
    pub(super) fn emit(&mut self, instruction: Instruction) {
        self.push(instruction, None);
    }

    /// Adds an instruction that mentions the address of an op.
    pub(super) fn emit_to(&mut self, instruction: Instruction, target: usize) {
        self.push(instruction, Some(target));
    }

    /// From here the guest may go on at an op.
    pub(super) fn leave_to(&mut self, target: usize) {
        self.jumps.entry(target).or_default().push((self.known, self.stack_lost));
    }

    fn push(&mut self, instruction: Instruction, target: Option<usize>) {
        if undefined::in_eflags(instruction.rflags_read()) & self.undefined != 0
            || pushes_flags(&instruction) && self.undefined != 0
        {
            self.define_flags();
        }
        let info = self.info.info(&instruction);
        for used in info.used_registers() {
            let number = used.register().full_register32().number();
            if is_write(used.access()) && used.register().is_gpr() {
                self.known[number] = None;
                let named = instruction.op0_register().full_register32() == Register::ESP;
                self.stack_lost |= number == ESP && (named || !instruction.is_stack_instruction());
            }
        }
        if !may_leave_flags(&instruction) {
            self.undefined &= !undefined::in_eflags(instruction.rflags_modified());
        }
        self.undefined |= undefined::flags(&instruction) | quirks::wrong_flags(&instruction);
        self.ever_undefined |= self.undefined;
        self.items.push(Item { instruction, target });
    }

    /// `cmp eax, 0` gives all flags a meaning again.
    fn define_flags(&mut self) {
        let mut compare = Instruction::default();
        compare.set_code(Opcode::Cmp_EAX_imm32);
        compare.set_op0_register(Register::EAX);
        compare.set_op1_kind(OpKind::Immediate32);
        self.push(compare, None);
    }

    /// `mov r32, value`
    pub(super) fn load(&mut self, register: usize, value: u32) {
        let load = Instruction::with2(Opcode::Mov_r32_imm32, GENERAL[register], value).expect("mov r32, imm32");
        self.emit(load);
        self.known[register] = Some(value);
    }

    /// Puts the stack pointer where the stack is, if it may be elsewhere.
    pub(super) fn settle_stack(&mut self) {
        if self.stack_lost {
            self.load(ESP, self.stack_offset(layout::STACK_TOP));
            self.stack_lost = false;
        }
    }

    /// The offset in SS of a byte of the stack's page.
    pub(super) fn stack_offset(&self, byte: u32) -> u32 {
        (layout::STACK.start as u32).wrapping_sub(self.windows.stack.base) + byte
    }

    /// `mov r32, address of an op`
    pub(super) fn load_target(&mut self, register: usize, target: usize) {
        let load = Instruction::with2(Opcode::Mov_r32_imm32, GENERAL[register], 0_u32).expect("mov r32, imm32");
        self.emit_to(load, target);
    }

    /// Loads a value that nothing else in this op may change.
    pub(super) fn hold(&mut self, register: usize, value: u32) {
        if self.known[register] != Some(value) {
            self.load(register, value);
        }
        self.held.push(register);
    }

    fn finish(self) -> Code {
        let start = CODE.start - u64::from(self.windows.code.base);
        // Lengths do not depend on where a jump goes to, so the first pass finds them with each jump to its own end.
        let mut addresses = vec![start];
        for item in &self.items {
            let at = *addresses.last().unwrap_or(&start);
            let mut instruction = item.instruction;
            if item.target.is_some() {
                aim(&mut instruction, at + 8);
            }
            let mut encoder = Encoder::new(self.bits);
            let len = encoder.encode(&instruction, at).unwrap_or_else(|error| panic!("{instruction}: {error}"));
            addresses.push(at + len as u64);
        }
        let mut bytes = Vec::new();
        for (item, at) in self.items.iter().zip(&addresses) {
            let mut instruction = item.instruction;
            if let Some(target) = item.target {
                aim(&mut instruction, addresses[self.labels[target]]);
            }
            let mut encoder = Encoder::new(self.bits);
            encoder.encode(&instruction, *at).unwrap_or_else(|error| panic!("{instruction}: {error}"));
            bytes.extend(encoder.take_buffer());
        }
        assert!(bytes.len() as u64 <= layout::PROGRAM_LEN, "a program of {} bytes", bytes.len());
        Code { bytes, undefined: self.undefined, ever_undefined: self.ever_undefined }
    }
}

/// Puts an address where the instruction mentions one.
fn aim(instruction: &mut Instruction, address: u64) {
    match instruction.op_kinds().last() {
        _ if instruction.op0_kind() == OpKind::NearBranch16 => instruction.set_near_branch16(address as u16),
        _ if instruction.op0_kind() == OpKind::NearBranch32 => instruction.set_near_branch32(address as u32),
        _ if instruction.op0_kind() == OpKind::FarBranch16 => instruction.set_far_branch16(address as u16),
        _ if instruction.op0_kind() == OpKind::FarBranch32 => instruction.set_far_branch32(address as u32),
        Some(OpKind::Immediate16) => instruction.set_immediate16(address as u16),
        Some(OpKind::Immediate32) => instruction.set_immediate32(address as u32),
        kind => panic!("{instruction} mentions no address: {kind:?}"),
    }
}

pub(super) fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Instructions that leave the flags alone if their count is 0.
pub(super) fn may_leave_flags(instruction: &Instruction) -> bool {
    let by_cl = instruction.op_kinds().last() == Some(OpKind::Register)
        && instruction.op_register(instruction.op_count() - 1) == Register::CL;
    by_cl || instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

/// Instructions that put all flags into memory.
pub(super) fn pushes_flags(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Int, Int3, Into, Pushf, Pushfd, Pushfq};
    matches!(instruction.mnemonic(), Int | Int3 | Into | Pushf | Pushfd | Pushfq)
}

impl Assembler {
    fn op(&mut self, op: &Op) {
        super::preparation::add(self, op);
    }
}
