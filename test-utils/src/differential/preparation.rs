//! What must come before an instruction so that it does something of interest: a count that ends, a port that is nobody
//! else's, a selector that exists, an address to return to.

use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind as Form, OpKind, Register};

use super::assemble::{Assembler, EAX, EBP, EBX, ECX, EDX, ESP};
use super::layout::{STACK_TOP, selector};
use super::memory_operand::Reach;
use super::operands::{self, Decided, WALKERS};
use super::program::{Mode, Op};
use super::strategy::interesting;

/// Adds `op` and what it needs.
pub(super) fn add(a: &mut Assembler, op: &Op) {
    let mut probe = Instruction::default();
    probe.set_code(op.code);
    // KVM's emulator gets an instruction wrong that pushes or pops more than once outside of RAM: of several writes only
    // the last exits, and with each read that exits the stack pointer moves on once more. Flags are not popped from there
    // because TF might be among them.
    let many = is_many(op.code.mnemonic()) || stack_segment(op.code);
    if many || probe.is_stack_instruction() && (op.picks.extra >> 24) % 8 != 7 {
        a.settle_stack();
        if many {
            a.held.push(ESP);
        }
        if !many && (op.picks.extra >> 27) == 31 {
            // At an end of the stack's page, where the next page is nobody's.
            a.load(ESP, a.stack_offset(0x1000).wrapping_sub(op.picks.extra >> 20 & 7).wrapping_add(2));
            a.stack_lost = true;
        }
    }
    let picks = op.picks;
    let mut decided = Decided::default();
    match op.code.mnemonic() {
        Mnemonic::In | Mnemonic::Out => {
            if op.code.op_code().op_kinds().contains(&Form::dx) {
                a.hold(EDX, port(op));
            }
            decided.immediate = Some(0xc0 + picks.value % 0x2c);
        }
        Mnemonic::Div | Mnemonic::Idiv => dividend(a, op),
        Mnemonic::Aam => decided.immediate = Some(picks.value % 0x41),
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sal
        | Mnemonic::Sar => shift(a, op),
        Mnemonic::Shld | Mnemonic::Shrd => decided.immediate = double_shift(a, op),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => bit_offset(a, op),
        // Without nesting: KVM's emulator knows no other.
        Mnemonic::Enter => decided.immediate = Some(picks.value & 0x3f),
        Mnemonic::Leave => a.hold(EBP, a.stack_offset(STACK_TOP - 0x40 + picks.value % 0x80)),
        Mnemonic::Int => decided.immediate = Some(interrupt(picks.value)),
        Mnemonic::Popf | Mnemonic::Popfd => {
            push(a, is_short(op.code), flags(picks.value));
        }
        Mnemonic::Pop if pops_segment(op.code) => {
            push(a, is_short(op.code), selector_for(a, op, stack_segment(op.code)).into())
        }
        Mnemonic::Mov if op.code.op_code().op_kinds().contains(&Form::seg_reg) => move_segment(a, op, &mut decided),
        Mnemonic::Mov if is_special_move(op.code) => special_move(a, op, &mut decided),
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
            let selector = selector_for(a, op, op.code.mnemonic() == Mnemonic::Lss);
            far_pointer(a, op, &mut decided, picks.value, selector);
        }
        // KVM's emulator reaches descriptor tables in RAM only, and reads what `sldt` and `str` are to write.
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str => decided.memory = in_ram(a, op),
        Mnemonic::Lgdt | Mnemonic::Lidt => return table(a, op),
        Mnemonic::Lldt => {
            word(a, op, &mut decided, if picks.value.is_multiple_of(4) { 0 } else { selector::LOCAL.into() })
        }
        Mnemonic::Ltr => word(a, op, &mut decided, selector::TASK.into()),
        Mnemonic::Lmsw => status_word(a, op, &mut decided),
        Mnemonic::Xlatb => a.hold(EBX, a.data_offset(picks.place >> 16 & 0xfff)),
        Mnemonic::Cpuid => {
            a.hold(EAX, (picks.value % 8) | ((picks.extra & 1) << 31));
            a.hold(ECX, 0);
        }
        Mnemonic::Rdmsr | Mnemonic::Wrmsr => {
            a.hold(ECX, MSRS[picks.value as usize % MSRS.len()]);
            a.hold(EDX, 0);
        }
        Mnemonic::Rdtsc => {
            let instruction = operands::instruction(a, op, decided);
            a.emit(instruction);
            a.load(EAX, 0);
            return a.load(EDX, 0);
        }
        _ => {}
    }
    if is_string(op.code) {
        return string(a, op);
    }
    if super::branches::is_branch(op.code) {
        return super::branches::add(a, op);
    }
    let mut instruction = operands::instruction(a, op, decided);
    if op.code.op_code().can_use_lock_prefix() && instruction.op0_kind() == OpKind::Memory && picks.extra % 8 == 7 {
        instruction.set_has_lock_prefix(true);
    }
    a.emit(instruction);
}

/// Instructions that push or pop more than once, or flags.
fn is_many(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Pusha
            | Mnemonic::Pushad
            | Mnemonic::Popa
            | Mnemonic::Popad
            | Mnemonic::Popf
            | Mnemonic::Popfd
            | Mnemonic::Int
            | Mnemonic::Int3
            | Mnemonic::Into
            | Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Call
            | Mnemonic::Ret
            | Mnemonic::Retf
            | Mnemonic::Enter
    )
}

/// A place in RAM for an operand in memory.
fn in_ram(a: &mut Assembler, op: &Op) -> Option<super::memory_operand::MemoryOperand> {
    let only_memory = op.code.op_code().op_kind(0) == Form::mem;
    (only_memory || operands::in_memory(op)).then(|| a.memory(&op.picks, Reach::Ram))
}

/// MSRs that hold what was written: `IA32_SYSENTER_CS`, `_ESP`, `_EIP`; and one that does not exist.
const MSRS: [u32; 4] = [0x174, 0x175, 0x176, 0x175];

impl Assembler {
    /// The offset in DS of a byte of data.
    pub(super) fn data_offset(&self, byte: u32) -> u32 {
        (super::layout::DATA.start as u32).wrapping_sub(self.windows.data.base) + byte
    }
}

/// Whether the operands of a stack instruction have 16 bits.
pub(super) fn is_short(code: Code) -> bool {
    code.op_code().operand_size() == 16
}

/// `push value`, of 16 or 32 bits.
pub(super) fn push(a: &mut Assembler, short: bool, value: u32) {
    let push = if short {
        Instruction::with1(Code::Push_imm16, value & 0xffff)
    } else {
        Instruction::with1(Code::Pushd_imm32, value)
    };
    a.emit(push.expect("push imm"));
}

/// A vector that only `int` has, mostly one that KVM's emulator gets right.
fn interrupt(pick: u32) -> u32 {
    if pick % 64 == 63 { 0x80 + (pick >> 6) % 0x80 } else { 0x20 + (pick >> 6) % 0x60 }
}

/// Ports that no chip in the kernel has.
fn port(op: &Op) -> u32 {
    match op.picks.value % 4 {
        0..3 => 0x200 + (op.picks.value >> 2) % 0x100,
        _ => 0x8000 + (op.picks.value >> 2) % 0x7f00,
    }
}

/// Any of the flags but IF's neighbours that change the mode: TF, NT, VM.
fn flags(bits: u32) -> u32 {
    bits & 0x24_3fd7 & !0x100 | 2
}

/// A dividend that mostly fits.
fn dividend(a: &mut Assembler, op: &Op) {
    let value = interesting(op.picks.value, op.picks.place >> 20);
    match op.code {
        _ if op.picks.extra % 8 == 7 => {}
        Code::Div_rm8 | Code::Idiv_rm8 => a.hold(EAX, value & 0x7f),
        Code::Div_rm16 | Code::Idiv_rm16 => {
            a.hold(EDX, 0);
            a.hold(EAX, value & 0x7fff);
        }
        _ => {
            a.hold(EDX, 0);
            a.hold(EAX, value & 0x7fff_ffff);
        }
    }
}

fn shift(a: &mut Assembler, op: &Op) {
    if op.code.op_code().op_kinds().contains(&Form::cl) && op.picks.extra % 2 == 1 {
        a.hold(ECX, (op.picks.extra >> 1) % 40);
    }
}

/// A count above the operand's size leaves all undefined.
fn double_shift(a: &mut Assembler, op: &Op) -> Option<u32> {
    let count = (op.picks.value % if is_short(op.code) { 17 } else { 32 }) | op.picks.extra & 0x20;
    if op.code.op_code().op_kinds().contains(&Form::cl) {
        a.hold(ECX, count);
    }
    Some(count)
}

/// An offset in a register reaches as far as the register: kept near by.
fn bit_offset(a: &mut Assembler, op: &Op) {
    let forms = op.code.op_code().op_kinds();
    if operands::in_memory(op) && matches!(forms, [_, Form::r16_reg | Form::r32_reg]) {
        let register = operands::register(op, 1);
        if register != ESP {
            a.hold(register, (op.picks.value % 0x200).wrapping_sub(0x80));
        }
    }
}

fn pops_segment(code: Code) -> bool {
    matches!(code.op_code().op_kinds(), [Form::es | Form::ss | Form::ds | Form::fs | Form::gs])
}

fn stack_segment(code: Code) -> bool {
    code.op_code().op_kinds() == [Form::ss]
}

/// A selector that can be loaded, mostly.
fn selector_for(a: &Assembler, op: &Op, stack: bool) -> u16 {
    let windows = &a.windows;
    if stack {
        return windows.stack.selector;
    }
    let pick = op.picks.value >> 8;
    // Most selectors that cannot be loaded are tried only now and then.
    let pick = if pick % 32 >= 20 && !op.picks.value.is_multiple_of(4) { 0 } else { pick };
    match (a.mode, pick % 32) {
        (_, 0..16) => windows.data.selector,
        (Mode::Real, 16) => pick as u16,
        (Mode::Real, 17..24) => windows.data.selector + (pick >> 5) as u16 % 4,
        (Mode::Segmented, 16..20) => selector::DOWN,
        (Mode::Segmented, 20..23) => selector::CONSTANT,
        (Mode::Segmented, 23) => selector::ABSENT,
        (Mode::Segmented, 24) => selector::CODE,
        (Mode::Segmented, 25) => 0,
        (Mode::Segmented, 26) => selector::DATA | 3,
        (Mode::Segmented, 27) => 0x50 + (pick as u16 >> 5) % 0x100,
        _ => windows.data.selector,
    }
}

fn move_segment(a: &mut Assembler, op: &Op, decided: &mut Decided) {
    const ALL: [Register; 6] = [Register::DS, Register::ES, Register::FS, Register::GS, Register::SS, Register::CS];
    let pick = op.picks.extra as usize;
    if op.code.op_code().op_kind(0) != Form::seg_reg {
        decided.segment = ALL.get(pick % 6).copied();
        return;
    }
    let segment = ALL.get(pick % 5).copied().unwrap_or_default();
    decided.segment = Some(segment);
    let selector = selector_for(a, op, segment == Register::SS);
    if operands::in_memory(op) {
        let place = a.memory(&op.picks, Reach::Ram);
        store(a, &place, Code::Mov_rm16_imm16, selector.into());
        decided.memory = Some(place);
    } else {
        let register = not_stack(operands::register(op, 1));
        a.hold(register, selector.into());
        decided.register = Some(register);
    }
}

fn not_stack(register: usize) -> usize {
    if register == ESP { EAX } else { register }
}

/// `mov [place], value`
pub(super) fn store(a: &mut Assembler, place: &super::memory_operand::MemoryOperand, code: Code, value: u32) {
    a.emit(stored(place, code, value));
}

pub(super) fn stored(place: &super::memory_operand::MemoryOperand, code: Code, value: u32) -> Instruction {
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

/// A far pointer in memory, to be loaded.
fn far_pointer(a: &mut Assembler, op: &Op, decided: &mut Decided, offset: u32, selector: u16) {
    let place = a.memory(&op.picks, Reach::Ram);
    let long = !is_short(op.code);
    let (code, width) = if long { (Code::Mov_rm32_imm32, 4) } else { (Code::Mov_rm16_imm16, 2) };
    store(a, &place, code, offset);
    store(a, &place.plus(width, place.address_bits()), Code::Mov_rm16_imm16, selector.into());
    decided.memory = Some(place);
}

fn is_special_move(code: Code) -> bool {
    matches!(code, Code::Mov_r32_cr | Code::Mov_cr_r32 | Code::Mov_r32_dr | Code::Mov_dr_r32)
}

/// Control and debug registers, by values that change neither mode nor whether anything is trapped.
fn special_move(a: &mut Assembler, op: &Op, decided: &mut Decided) {
    const CONTROL: [Register; 4] = [Register::CR0, Register::CR2, Register::CR3, Register::CR4];
    const DEBUG: [Register; 6] =
        [Register::DR0, Register::DR1, Register::DR2, Register::DR3, Register::DR6, Register::DR7];
    let pick = op.picks.extra as usize;
    let debug = matches!(op.code, Code::Mov_r32_dr | Code::Mov_dr_r32);
    let register = if debug { DEBUG[pick % DEBUG.len()] } else { CONTROL[pick % CONTROL.len()] };
    decided.segment = Some(register);
    let protected = u32::from(a.mode != Mode::Real);
    let bits = op.picks.value;
    let value = match register {
        // TS, EM, MP, NE, WP, AM may be any.
        Register::CR0 => bits & 0x5_002e | 0x10 | protected,
        Register::CR3 => bits & 0xf_f000,
        // VME, PVI, TSD, DE, PSE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
        Register::CR4 => bits & 0x7df & !4,
        Register::DR7 => 0x400,
        _ => bits,
    };
    if matches!(op.code, Code::Mov_cr_r32 | Code::Mov_dr_r32) {
        let source = operands::register(op, 1);
        if source == ESP {
            a.stack_lost = true;
        }
        a.hold(source, value);
    }
}

/// `lgdt` and `lidt` of the tables that are in use already, under limits that may be larger.
fn table(a: &mut Assembler, op: &Op) {
    let place = a.memory(&op.picks, Reach::Ram);
    let idt = op.code.mnemonic() == Mnemonic::Lidt;
    let (base, limit) = super::layout::table(a.mode, idt);
    store(a, &place, Code::Mov_rm16_imm16, limit + op.picks.value % 0x20);
    let base_at = place.plus(2, place.address_bits());
    store(a, &base_at, Code::Mov_rm32_imm32, base);
    let mut load = Instruction::default();
    load.set_code(op.code);
    place.put(&mut load, 0);
    a.emit(load);
}

fn status_word(a: &mut Assembler, op: &Op, decided: &mut Decided) {
    let protected = u32::from(a.mode != Mode::Real);
    word(a, op, decided, op.picks.value & 0xe | protected);
}

/// The one operand has this value.
fn word(a: &mut Assembler, op: &Op, decided: &mut Decided, value: u32) {
    if operands::in_memory(op) {
        let place = a.memory(&op.picks, Reach::Ram);
        store(a, &place, Code::Mov_rm16_imm16, value);
        decided.memory = Some(place);
    } else {
        let register = not_stack(operands::register(op, 0));
        a.hold(register, value);
        decided.register = Some(register);
    }
}

fn is_string(code: Code) -> bool {
    code.op_code().op_kinds().iter().any(|form| WALKERS.iter().any(|(walker, _)| walker == form))
}

fn string(a: &mut Assembler, op: &Op) {
    let forms = op.code.op_code().op_kinds();
    if forms.contains(&Form::dx) {
        a.hold(EDX, port(op));
    }
    for (shift, (_, register)) in (0..).zip(WALKERS.iter().filter(|(form, _)| forms.contains(form))) {
        if a.known[*register].is_none() || !(op.picks.form >> (20 + shift)).is_multiple_of(4) {
            a.hold(*register, a.string_place(op.picks.place.rotate_right(8 * shift)));
        }
    }
    // Down, and outside of RAM, KVM's emulator forgets what it has read ahead.
    if forms.contains(&Form::dx) && op.picks.extra >> 29 != 0 {
        a.emit(Instruction::with(Code::Cld));
    }
    let mut instruction = operands::instruction(a, op, Decided::default());
    match op.picks.extra % 4 {
        1 | 2 => instruction.set_has_repe_prefix(true),
        3 if op.code.op_code().can_use_repne_prefix() => instruction.set_has_repne_prefix(true),
        _ => {}
    }
    if !op.picks.extra.is_multiple_of(4) {
        let count = op.picks.extra >> 4;
        a.hold(ECX, if count % 16 == 15 { (count >> 4) % 70 } else { (count >> 4) % 9 });
    }
    a.emit(instruction);
}

impl Assembler {
    /// An offset in DS or ES at which a string begins: mostly in memory, and at its ends.
    fn string_place(&self, pick: u32) -> u32 {
        let offset = match pick % 16 {
            0..9 => (pick >> 8) % 0x1f00,
            9..11 => 0x2000_u32.wrapping_sub((pick >> 8) % 12),
            11 => 0x1000 - (pick >> 8) % 12,
            12 => 0x2000 + (pick >> 8) % 0x100,
            13 => 0x8000 + (pick >> 8) % 0x1000,
            _ => (pick >> 8) % 0x80 + 0x40,
        };
        self.data_offset(offset)
    }
}
