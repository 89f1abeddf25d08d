//! What must come before an instruction so that it does something of interest, and after it where it stores what differs
//! from processor to processor.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpCodeOperandKind as Form, OpKind, Register};

use super::assemble::{Assembler, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, general};
use super::layout::{DATA, HIGH, STACK, STACK_TOP};
use super::memory_operand::{MemoryOperand, Reach};
use super::operands::{self, Decided, value};
use super::values;
use super::x87;
use crate::differential::Op;

/// Adds `op` and what it needs.
pub(super) fn add(a: &mut Assembler, op: &Op) {
    let picks = op.picks;
    let forms = op.code.op_code().op_kinds();
    let mut probe = Instruction::default();
    probe.set_code(op.code);
    // A stack pointer that was lost stays so for a while, now and then.
    if probe.is_stack_instruction() && picks.extra >> 25 & 7 != 7 {
        a.settle_stack();
    }
    let mut decided = Decided::default();
    match op.code.mnemonic() {
        Mnemonic::In | Mnemonic::Out => {
            if forms.contains(&Form::dx) {
                a.hold(RDX, port(op));
            }
            decided.immediate = Some(u64::from(0xc0 + picks.value % 0x2c));
        }
        Mnemonic::Div | Mnemonic::Idiv => dividend(a, op),
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sal
        | Mnemonic::Sar
            if forms.contains(&Form::cl) && picks.extra % 2 == 1 =>
        {
            a.hold(RCX, u64::from(picks.extra >> 1) % 80);
        }
        Mnemonic::Shld | Mnemonic::Shrd => decided.immediate = Some(double_shift(a, op)),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => bit_offset(a, op),
        Mnemonic::Enter => {
            // What a nested frame copies is there: where it is not, the processor has pushed a part already.
            a.hold(RBP, STACK_TOP - 0x40 + u64::from(picks.value >> 8 & 0x78));
            decided.immediate = Some(u64::from(picks.value & 0x3_003f));
        }
        Mnemonic::Leave => a.hold(RBP, STACK_TOP - 0x40 + u64::from(picks.value % 0x80)),
        Mnemonic::Popf | Mnemonic::Popfq => push(a, is_short(op), flags(picks)),
        Mnemonic::Xlatb => a.hold(RBX, DATA.start + u64::from(picks.place) % 0x1000),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => a.hold(RDI, walker(picks.place, false)),
        Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if picks.extra % 2 == 1 => {
            return compare_and_exchange(a, op);
        }
        _ => {}
    }
    if x87::is_x87(op.code) {
        x87::settle(a, op);
    }
    if x87::has_image(op.code) {
        return x87::image(a, op);
    }
    if forms.iter().any(|form| matches!(form, Form::seg_rSI | Form::es_rDI)) {
        return string(a, op);
    }
    if is_branch(op.code) {
        return branch(a, op);
    }
    let mut instruction = operands::instruction(a, op, decided, reach(op.code));
    if op.code.op_code().can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory && picks.extra >> 4 & 7 == 7
    {
        instruction.set_has_lock_prefix(true);
    }
    a.emit(instruction);
}

/// Where an operand of `code` may be: KVM's emulator, which makes the accesses that exit, knows integer instructions.
fn reach(code: Code) -> Reach {
    use iced_x86::CpuidFeature as Feature;
    let known = [Feature::INTEL8086, Feature::INTEL186, Feature::INTEL386, Feature::INTEL486, Feature::X64];
    let integer = code.cpuid_features().iter().all(|feature| known.contains(feature));
    if integer && code.mnemonic() != Mnemonic::Lea { Reach::Anywhere } else { Reach::Faults }
}

pub(super) fn is_short(op: &Op) -> bool {
    op.code.op_code().operand_size() == 16
}

/// `push value`, of 16 or 64 bits.
fn push(a: &mut Assembler, short: bool, value: u32) {
    let push = if short {
        Instruction::with1(Code::Push_imm16, value & 0xffff)
    } else {
        Instruction::with1(Code::Pushq_imm32, value as i32)
    };
    a.emit(push.expect("push imm"));
}

/// Ports that no chip in the kernel has.
fn port(op: &Op) -> u64 {
    u64::from(match op.picks.value % 64 {
        // Beyond those that user mode has.
        0 => op.picks.value >> 16 | 0x400,
        _ => 0x200 + (op.picks.value >> 6) % 0xf8,
    })
}

/// CF, PF, AF, ZF, SF, DF, OF, ID; TF and AC now and then.
fn flags(picks: crate::differential::Picks) -> u32 {
    let rare = if picks.extra >> 20 & 15 == 0 { picks.place & 0x4_0100 } else { 0 };
    picks.value & 0x20_0cd5 | 2 | rare
}

/// A dividend that mostly fits.
fn dividend(a: &mut Assembler, op: &Op) {
    let value = value(op);
    let bits = match op.code {
        _ if op.picks.extra & 15 == 15 => return,
        Code::Div_rm8 | Code::Idiv_rm8 => return a.hold(RAX, value & 0x7f),
        Code::Div_rm16 | Code::Idiv_rm16 => 16,
        Code::Div_rm32 | Code::Idiv_rm32 => 32,
        _ => 64,
    };
    a.hold(RDX, if op.picks.extra & 16 == 0 { 0 } else { value >> (bits / 2) & 0xff });
    a.hold(RAX, value >> 1 & !0 >> (65 - bits));
}

/// A count above the operand's size leaves all undefined.
fn double_shift(a: &mut Assembler, op: &Op) -> u64 {
    let (most, beyond) = match op.code.op_code().operand_size() {
        16 => (17, 0x20),
        32 => (32, 0x20),
        _ => (64, 0x40),
    };
    let count = u64::from((op.picks.value % most) | (op.picks.extra & beyond));
    if op.code.op_code().op_kinds().contains(&Form::cl) {
        a.hold(RCX, count);
    }
    count
}

/// An offset in a register reaches as far as the register: kept near by.
fn bit_offset(a: &mut Assembler, op: &Op) {
    let forms = op.code.op_code().op_kinds();
    if operands::in_memory(op) && matches!(forms, [_, Form::r16_reg | Form::r32_reg | Form::r64_reg]) {
        let register = operands::register(op, 1);
        if register != RSP {
            a.hold(register, u64::from(op.picks.value % 0x200).wrapping_sub(0x80));
        }
    }
}

/// The accumulator has what memory has, so that the exchange takes place.
fn compare_and_exchange(a: &mut Assembler, op: &Op) {
    let register = Decided { register: Some(RBX), ..Default::default() };
    if !operands::has_memory(op) {
        let instruction = operands::instruction(a, op, register, Reach::Ram);
        return a.emit(instruction);
    }
    a.held.extend([RAX, RDX]);
    let size = operands::memory_size(op);
    let place = a.memory(op, size, size == 16, Reach::Ram);
    let wide = matches!(op.code.mnemonic(), Mnemonic::Cmpxchg16b);
    let pair = wide || matches!(op.code.mnemonic(), Mnemonic::Cmpxchg8b);
    let code = if wide || size == 8 && !pair { Code::Mov_r64_rm64 } else { Code::Mov_r32_rm32 };
    let (low, high) = if wide { (Register::RAX, Register::RDX) } else { (Register::EAX, Register::EDX) };
    let low = if size == 8 && !pair { Register::RAX } else { low };
    // A byte or a word is read with what is behind it.
    a.emit(loaded(code, low, &place));
    if pair {
        a.emit(loaded(code, high, &place.plus(size / 2)));
    }
    let mut instruction =
        operands::instruction(a, op, Decided { memory: Some(place), ..Default::default() }, Reach::Ram);
    instruction.set_has_lock_prefix(op.picks.extra >> 4 & 3 == 3);
    a.emit(instruction);
}

/// `mov register, [place]`
fn loaded(code: Code, register: Register, place: &MemoryOperand) -> Instruction {
    let mut load = Instruction::default();
    load.set_code(code);
    load.set_op0_register(register);
    place.put(&mut load, 1);
    load
}

/// `mov [place], value`
pub(super) fn stored(place: &MemoryOperand, code: Code, value: u32) -> Instruction {
    let mut store = Instruction::default();
    store.set_code(code);
    place.put(&mut store, 0);
    if code == Code::Mov_rm16_imm16 {
        store.set_op1_kind(OpKind::Immediate16);
        store.set_immediate16(value as u16);
    } else {
        store.set_op1_kind(OpKind::Immediate32);
        store.set_immediate32(value);
    }
    store
}

/// Where a string begins: mostly with room on both sides.
fn walker(pick: u32, anywhere: bool) -> u64 {
    let within = u64::from(pick >> 4) % 0x1f00 + 0x80;
    match pick % 16 {
        0 if anywhere && pick >> 28 == 0 => super::layout::HOLE + within % 0x1000,
        1 if anywhere && pick >> 28 < 4 => super::layout::FIXED.start + within % 0xff0,
        // At the end, beyond which nothing is present.
        2 if pick >> 28 == 0 => DATA.start + DATA.len - within % 16,
        3 | 4 => HIGH + within % 0x1e00,
        5 => STACK.start + within % 0xf00,
        _ => DATA.start + within % 0x1e00,
    }
}

fn string(a: &mut Assembler, op: &Op) {
    let picks = op.picks;
    let forms = op.code.op_code().op_kinds();
    if forms.contains(&Form::dx) {
        a.hold(RDX, port(op));
    }
    let narrow = picks.form >> 16 & 7 == 7;
    let mut walk = |register, pick| {
        let address = walker(pick, true);
        let junk = if narrow && address >> 32 == 0 { 0x1234 << 32 } else { 0 };
        a.hold(register, address | junk);
        address >> 32 == 0
    };
    let source_low = !forms.contains(&Form::seg_rSI) || walk(RSI, picks.place);
    let target_low = !forms.contains(&Form::es_rDI) || walk(RDI, picks.value);
    let narrow = narrow && source_low && target_low;
    let repeated = !picks.extra.is_multiple_of(4);
    if repeated {
        a.hold(RCX, u64::from(picks.extra >> 2) % 24);
    }
    let mut instruction = operands::instruction(a, op, Decided::default(), Reach::Ram);
    if narrow {
        for operand in 0..instruction.op_count() {
            match instruction.op_kind(operand) {
                OpKind::MemorySegRSI => instruction.set_op_kind(operand, OpKind::MemorySegESI),
                OpKind::MemoryESRDI => instruction.set_op_kind(operand, OpKind::MemoryESEDI),
                _ => {}
            }
        }
    }
    if repeated {
        let compares = matches!(instruction.rflags_modified(), flags if flags != 0);
        let not_equal = compares && picks.extra % 4 == 3;
        instruction.set_has_repe_prefix(!not_equal);
        instruction.set_has_repne_prefix(not_equal);
    }
    a.emit(instruction);
}

/// Whether `code` goes elsewhere, and not to an interrupt's handler.
fn is_branch(code: Code) -> bool {
    !matches!(code.flow_control(), FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception)
}

fn branch(a: &mut Assembler, op: &Op) {
    let target = a.target(op.picks.extra >> 8);
    let mut decided = Decided::default();
    let forms = op.code.op_code().op_kinds();
    match (op.code.mnemonic(), forms) {
        (Mnemonic::Ret, _) => {
            let register = free(op);
            a.load_target(register, target);
            a.emit(Instruction::with1(Code::Push_r64, general(register)).expect("push r64"));
            decided.immediate = Some(u64::from(op.picks.value % 0x40));
            a.stack_lost |= !forms.is_empty() && op.picks.value % 0x40 > 0x20;
        }
        (Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne, _) => a.hold(RCX, u64::from(op.picks.value % 4)),
        (Mnemonic::Jecxz | Mnemonic::Jrcxz, _) if op.picks.value.is_multiple_of(2) => {
            a.hold(RCX, u64::from(op.picks.value >> 1 & 1) << 32);
        }
        (_, [Form::r64_or_mem]) if operands::in_memory(op) => {
            let register = free(op);
            a.load_target(register, target);
            a.held.push(register);
            let place = a.memory(op, 8, false, Reach::Ram);
            let mut store = Instruction::default();
            store.set_code(Code::Mov_rm64_r64);
            place.put(&mut store, 0);
            store.set_op1_register(general(register));
            a.emit(store);
            decided.memory = Some(place);
        }
        (_, [Form::r64_or_mem]) => {
            let register = free(op);
            a.load_target(register, target);
            decided.register = Some(register);
        }
        _ => {}
    }
    let mentions = forms.iter().any(|form| matches!(form, Form::br64_1 | Form::br64_4));
    let instruction = operands::instruction(a, op, decided, Reach::Ram);
    if mentions {
        a.emit_to(instruction, target)
    } else {
        a.emit(instruction)
    }
    a.leave_to(target);
}

/// A register other than the stack pointer.
fn free(op: &Op) -> usize {
    match operands::register(op, 0) {
        RSP => RBX,
        register => register,
    }
}

/// The numbers an x87 or SSE control register is loaded with: mostly all exceptions masked.
pub(super) fn control_word(op: &Op) -> u32 {
    let masked = op.picks.extra >> 20 & 7 != 0;
    let bits = values::integer(u64::from(op.picks.value), 0) as u32;
    match op.code.mnemonic() {
        Mnemonic::Ldmxcsr => bits & 0xe07f | if masked { 0x1f80 } else { bits & 0x1f80 } | rare_reserved(op),
        _ => bits & 0xf00 | 0x40 | if masked { 0x3f } else { bits & 0x3f },
    }
}

/// A bit of MXCSR that must not be set.
fn rare_reserved(op: &Op) -> u32 {
    if op.picks.extra >> 24 == 0 { 1 << 20 } else { 0 }
}
