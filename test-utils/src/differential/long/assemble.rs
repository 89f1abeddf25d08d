//! From a user-mode program to machine code.
//!
//! While it goes, the assembler keeps track of what it can know: whether the stack pointer points at the stack, how many x87
//! registers are in use, and which flags are undefined. So no undefined flag is looked at.

use std::collections::HashMap;

use iced_x86::{
    Code as Opcode, Encoder, Instruction, InstructionInfoFactory, MemoryOperand as Address, Mnemonic, OpKind, Register,
};

use super::layout::{self, CODE, FIRST_STATE, LAST_STATE};
use super::preparation;
use super::program::Program;
use crate::differential::layout::FINAL_PORT;
use crate::differential::{Code, assemble as other, undefined};

pub(super) const RAX: usize = 0;
pub(super) const RCX: usize = 1;
pub(super) const RDX: usize = 2;
pub(super) const RBX: usize = 3;
pub(super) const RSP: usize = 4;
pub(super) const RBP: usize = 5;
pub(super) const RSI: usize = 6;
pub(super) const RDI: usize = 7;

/// The general register of a number.
pub(super) fn general(number: usize) -> Register {
    Register::RAX + number as u32 % 16
}

pub(super) struct Assembler {
    /// The stack pointer may be anywhere.
    pub(super) stack_lost: bool,
    /// x87 registers in use, as far as is known.
    pub(super) depth: i32,
    /// Registers that the op in hand has prepared; nothing else may be loaded into them.
    pub(super) held: Vec<usize>,
    undefined: u32,
    ever_undefined: u32,
    op: usize,
    ops: usize,
    items: Vec<Item>,
    /// Where each op begins: an index into `items`.
    labels: Vec<usize>,
    /// At the jumps to an op that is still to come: whether the stack pointer is lost there.
    jumps: HashMap<usize, Vec<bool>>,
    info: InstructionInfoFactory,
}

struct Item {
    instruction: Instruction,
    target: Option<usize>,
}

/// The code of a program.
pub(super) fn assemble(program: &Program) -> Code {
    let mut a = Assembler {
        stack_lost: false,
        depth: layout::depth(&program.start) as i32,
        held: Vec::new(),
        undefined: 0,
        ever_undefined: 0,
        op: 0,
        ops: program.ops.len(),
        items: Vec::new(),
        labels: Vec::new(),
        jumps: HashMap::new(),
        info: InstructionInfoFactory::new(),
    };
    a.emit(state(Opcode::Fxrstor64_m512byte, FIRST_STATE));
    for (index, op) in program.ops.iter().enumerate() {
        a.begin(index);
        preparation::add(&mut a, op);
    }
    a.begin(program.ops.len());
    for instruction in end() {
        a.emit(instruction);
    }
    a.finish()
}

/// What comes behind all instructions of a program.
fn end() -> [Instruction; 2] {
    let last = Instruction::with2(Opcode::Out_imm8_AL, u32::from(FINAL_PORT), Register::AL);
    [state(Opcode::Fxsave64_m512byte, LAST_STATE), last.expect("out imm8, al")]
}

/// `code` with what comes before and behind a program's instructions.
pub(super) fn framed(code: &[u8]) -> Vec<u8> {
    let encoded = |instruction: &Instruction| encode(instruction, CODE.start, None);
    let mut bytes = encoded(&state(Opcode::Fxrstor64_m512byte, FIRST_STATE));
    bytes.extend(code);
    bytes.extend(end().iter().flat_map(encoded));
    bytes
}

/// `fxrstor64` or `fxsave64` of an address.
fn state(code: Opcode, address: u64) -> Instruction {
    Instruction::with1(code, Address::with_displ(address, 8)).expect("an address below 2 GiB")
}

impl Item {
    /// `loop` and `jrcxz` have short forms alone.
    fn is_short(&self) -> bool {
        let code = self.instruction.code();
        code.is_jmp_short() || code.is_jcc_short() || code.is_loop() || code.is_loopcc() || code.is_jcx_short()
    }
}

impl Assembler {
    fn begin(&mut self, index: usize) {
        self.op = index;
        self.held.clear();
        self.labels.push(self.items.len());
        for stack_lost in self.jumps.remove(&index).unwrap_or_default() {
            self.stack_lost |= stack_lost;
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
        self.jumps.entry(target).or_default().push(self.stack_lost);
    }

    fn push(&mut self, instruction: Instruction, target: Option<usize>) {
        let reads = undefined::in_eflags(instruction.rflags_read()) & self.undefined != 0;
        if reads || self.undefined != 0 && other::pushes_flags(&instruction) {
            self.define_flags();
        }
        for used in self.info.info(&instruction).used_registers() {
            if other::is_write(used.access()) && used.register().full_register() == Register::RSP {
                let named = instruction.op0_register().full_register() == Register::RSP;
                self.stack_lost |= named || !instruction.is_stack_instruction();
            }
        }
        if !other::may_leave_flags(&instruction) {
            self.undefined &= !undefined::in_eflags(instruction.rflags_modified());
        }
        self.undefined |= undefined::flags(&instruction);
        self.ever_undefined |= self.undefined;
        self.items.push(Item { instruction, target });
    }

    /// `cmp eax, 0` gives all flags a meaning again.
    fn define_flags(&mut self) {
        let compare = Instruction::with2(Opcode::Cmp_EAX_imm32, Register::EAX, 0_u32);
        self.push(compare.expect("cmp eax, imm32"), None);
    }

    /// `mov r64, value`
    pub(super) fn load(&mut self, register: usize, value: u64) {
        let load = match u32::try_from(value) {
            Ok(value) => Instruction::with2(Opcode::Mov_r32_imm32, Register::EAX + register as u32, value),
            Err(_) => Instruction::with2(Opcode::Mov_r64_imm64, general(register), value),
        };
        self.emit(load.expect("mov r, imm"));
    }

    /// Puts the stack pointer where the stack is, if it may be elsewhere.
    pub(super) fn settle_stack(&mut self) {
        if self.stack_lost {
            self.load(RSP, layout::STACK_TOP);
            self.stack_lost = false;
        }
    }

    /// `lea r64, [address of an op]`
    pub(super) fn load_target(&mut self, register: usize, target: usize) {
        let place = Address::with_base_displ(Register::RIP, CODE.start as i64);
        let load = Instruction::with2(Opcode::Lea_r64_m, general(register), place).expect("lea r64, m");
        self.emit_to(load, target);
    }

    /// Loads a value that nothing else in this op may change.
    pub(super) fn hold(&mut self, register: usize, value: u64) {
        self.load(register, value);
        self.held.push(register);
    }

    fn finish(self) -> Code {
        // Lengths do not depend on where a jump goes to, so the first pass finds them with each jump to its own end.
        let mut addresses = vec![CODE.start];
        for item in &self.items {
            let at = *addresses.last().unwrap_or(&CODE.start);
            addresses.push(at + encode(&item.instruction, at, item.target.map(|_| at + 8)).len() as u64);
        }
        let mut bytes = Vec::new();
        for (item, (at, next)) in self.items.iter().zip(addresses.iter().zip(&addresses[1..])) {
            // A short jump that does not reach its target goes on with the next instruction.
            let reaches = |target: &u64| !item.is_short() || target - next < 0x80;
            let target = item.target.map(|target| addresses[self.labels[target]]);
            let target = target.map(|target| if reaches(&target) { target } else { *next });
            bytes.extend(encode(&item.instruction, *at, target));
        }
        assert!(bytes.len() as u64 <= layout::PROGRAM_LEN, "a program of {} bytes", bytes.len());
        Code { bytes, undefined: self.undefined, ever_undefined: self.ever_undefined }
    }
}

fn encode(instruction: &Instruction, at: u64, target: Option<u64>) -> Vec<u8> {
    let mut instruction = *instruction;
    match target {
        Some(target) if instruction.mnemonic() == Mnemonic::Lea => instruction.set_memory_displacement64(target),
        Some(target) if instruction.op0_kind() == OpKind::NearBranch64 => instruction.set_near_branch64(target),
        Some(_) => panic!("{instruction:?} mentions no address"),
        None => {}
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, at).unwrap_or_else(|error| panic!("{instruction:?}: {error}"));
    encoder.take_buffer()
}
