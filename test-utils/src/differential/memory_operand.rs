//! Where an operand in memory lies, and by which registers it is addressed.

use iced_x86::{Instruction, OpKind, Register};

use super::assemble::{Assembler, EBP, EBX, EDI, ESI, ESP, GENERAL};
use super::layout::{CODE, DATA, FIXED, STACK, Window};
use super::program::{Mode, Picks};

/// An operand in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryOperand {
    segment: Register,
    base: Register,
    index: Register,
    scale: u32,
    displacement: u32,
    displacement_size: u32,
}

/// Which places an operand may be put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anywhere, also where nothing is.
    Anywhere,
    /// Where what is written is what is read.
    Ram,
}

impl MemoryOperand {
    /// Makes it operand number `operand` of `instruction`.
    pub(super) fn put(&self, instruction: &mut Instruction, operand: u32) {
        instruction.set_op_kind(operand, OpKind::Memory);
        instruction.set_memory_base(self.base);
        instruction.set_memory_index(self.index);
        instruction.set_memory_index_scale(self.scale);
        instruction.set_memory_displacement64(self.displacement.into());
        instruction.set_memory_displ_size(self.displacement_size);
        instruction.set_segment_prefix(self.segment);
    }

    /// The same place, `bytes` on.
    pub(super) fn plus(mut self, bytes: u32, address_bits: u32) -> Self {
        let mask = mask(address_bits);
        self.displacement = self.displacement.wrapping_add(bytes) & mask;
        self.displacement_size = address_bits / 8;
        self
    }

    /// Bits of its address.
    pub(super) fn address_bits(&self) -> u32 {
        let register = if self.base == Register::None { self.index } else { self.base };
        match (register, self.displacement_size) {
            (Register::None, size) => size * 8,
            (register, _) if register.is_gpr16() => 16,
            _ => 32,
        }
    }
}

fn mask(bits: u32) -> u32 {
    if bits == 16 { 0xffff } else { u32::MAX }
}

/// The part of memory that an operand lies in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Data,
    Fixed,
    Stack,
}

impl Assembler {
    /// Decides on an operand in memory, and loads the registers it needs.
    pub(super) fn memory(&mut self, picks: &Picks, reach: Reach) -> MemoryOperand {
        let short = (picks.form >> 4) % 4 == 3;
        let address_bits = if short { 48 - self.bits } else { self.bits };
        let mut registers = if address_bits == 16 { short_registers(picks) } else { long_registers(picks) };
        // The stack pointer is rarely taken elsewhere.
        if registers.base == Some(ESP) && self.known[ESP].is_none() && picks.form >> 30 != 0 {
            registers.base = Some(EBX);
        }
        // A register that this op needs for something else is no part of an address.
        if registers.contains_any(&self.held) {
            registers = Registers::default();
        }
        let by_stack = matches!(registers.base, Some(ESP | EBP));
        let default = if by_stack { Register::SS } else { Register::DS };
        let over = match (picks.form >> 8) % 16 {
            0 => Register::CS,
            1 => Register::SS,
            2 => Register::DS,
            3 => Register::ES,
            4 => Register::FS,
            5 => Register::GS,
            _ => Register::None,
        };
        // In protected mode code and constants cannot be written, so they are rarely touched there.
        let constant = matches!(over, Register::CS | Register::FS);
        let over = if constant && self.mode != Mode::Real && picks.form >> 27 != 0 { Register::None } else { over };
        let over =
            if reach == Reach::Ram && matches!(over, Register::CS | Register::FS) { Register::None } else { over };
        let segment = if over == Register::None { default } else { over };
        let address = self.place(segment, address_bits, picks.place, reach);
        let operand = self.reach(registers, address, address_bits, picks);
        MemoryOperand { segment: over, ..operand }
    }

    /// An offset in `segment`.
    fn place(&self, segment: Register, address_bits: u32, pick: u32, reach: Reach) -> u32 {
        let (part, window) = self.part(segment, address_bits, pick, reach);
        let (start, low, len) = match part {
            Part::Code => (CODE.start, super::layout::PROGRAM_LEN as u32, CODE.len as u32),
            Part::Data => (DATA.start, 0, DATA.len as u32),
            Part::Fixed => (FIXED.start, 0, FIXED.len as u32),
            Part::Stack => (STACK.start, 0, STACK.len as u32),
        };
        let within = |n: u32| low + (pick >> 16) % (n - low);
        let near = (pick >> 16) % 9;
        let offset = match (reach, (pick >> 8) % 32) {
            (Reach::Ram, _) | (_, 0..19) => within(len - 16),
            // The end of what is there, the end of a page, and what nobody owns.
            (_, 19..22) => len - near,
            (_, 22..24) if part == Part::Data => len / 2 - near,
            (_, 24..28) => len + (pick >> 16) % 0x400,
            (_, 28..30) if part == Part::Data => (FIXED.start - DATA.start) as u32 + within(0x1008) - 4,
            // The end of the segment.
            (_, 30) => 0x1_0000 - near,
            _ => within(0x1_0000),
        };
        offset.wrapping_add((start as u32).wrapping_sub(window.base))
    }

    fn part(&self, segment: Register, address_bits: u32, pick: u32, reach: Reach) -> (Part, Window) {
        let windows = &self.windows;
        if self.mode == Mode::Flat {
            // Only code is within reach of a 16-bit offset.
            let part = match (address_bits, pick % 8) {
                (16, _) | (_, 7) => Part::Code,
                (_, 6) if reach == Reach::Anywhere => Part::Fixed,
                (_, 5) => Part::Stack,
                _ => Part::Data,
            };
            return (part, windows.data);
        }
        let by_stack = matches!(segment, Register::SS | Register::GS);
        if by_stack && self.mode == Mode::Segmented && address_bits == 16 {
            return (Part::Code, windows.stack);
        }
        match segment {
            Register::CS => (Part::Code, windows.code),
            Register::SS | Register::GS => (Part::Stack, windows.stack),
            Register::FS if self.mode == Mode::Real => (Part::Fixed, windows.fixed),
            _ => (Part::Data, windows.data),
        }
    }

    /// How `address` is reached by `registers`, which are loaded unless they are known.
    fn reach(&mut self, registers: Registers, address: u32, address_bits: u32, picks: &Picks) -> MemoryOperand {
        let mask = mask(address_bits);
        let mut rest = address;
        if let Some((index, scale)) = registers.index {
            let value = self.known[index].unwrap_or_else(|| {
                let value = (picks.place >> 4) & 0x3f;
                self.load(index, value);
                value
            });
            rest = rest.wrapping_sub(value.wrapping_mul(scale));
        }
        if let Some(base) = registers.base {
            let value = self.known[base].unwrap_or_else(|| {
                let distance = match (picks.form >> 16) % 4 {
                    0 => 0,
                    1 => (picks.form >> 18) % 0x80,
                    2 => ((picks.form >> 18) % 0x80).wrapping_neg(),
                    _ => (picks.form >> 18) % 0x4000,
                };
                let value = rest.wrapping_sub(distance) & mask;
                self.load(base, value);
                value
            });
            rest = rest.wrapping_sub(value);
        }
        let displacement = rest & mask;
        let signed = if address_bits == 16 { i32::from(displacement as u16 as i16) } else { displacement as i32 };
        let no_register = registers.base.is_none() && registers.index.is_none();
        let displacement_size = match signed {
            _ if no_register => address_bits / 8,
            // Without a base an index comes with a full displacement.
            _ if registers.base.is_none() && address_bits == 32 => 4,
            0 if !(picks.form >> 6).is_multiple_of(4) => 0,
            -0x80..0x80 if (picks.form >> 6) % 4 != 1 => 1,
            _ => address_bits / 8,
        };
        let name = |number: usize| {
            let long = GENERAL[number];
            if address_bits == 16 { Register::AX + (long.number() as u32) } else { long }
        };
        let (base, index, scale) = match (registers.base, registers.index) {
            (base, Some((index, scale))) => (base.map_or(Register::None, name), name(index), scale),
            (base, None) => (base.map_or(Register::None, name), Register::None, 1),
        };
        MemoryOperand { segment: Register::None, base, index, scale, displacement, displacement_size }
    }
}

/// The registers of an address.
#[derive(Clone, Copy, Default)]
struct Registers {
    base: Option<usize>,
    index: Option<(usize, u32)>,
}

impl Registers {
    fn contains_any(&self, others: &[usize]) -> bool {
        let index = self.index.map(|(index, _)| index);
        others.iter().any(|other| self.base == Some(*other) || index == Some(*other))
    }
}

/// The eight forms of 16-bit addressing, and none.
fn short_registers(picks: &Picks) -> Registers {
    let (base, index) = match (picks.form >> 12) % 16 % 10 {
        1 => (Some(EBX), None),
        2 => (Some(ESI), None),
        3 => (Some(EDI), None),
        4 => (Some(EBP), None),
        5 => (Some(EBX), Some(ESI)),
        6 => (Some(EBX), Some(EDI)),
        7 => (Some(EBP), Some(ESI)),
        8 => (Some(EBP), Some(EDI)),
        _ => (None, None),
    };
    Registers { base, index: index.map(|index| (index, 1)) }
}

/// Any base, any index but ESP, any scale; and neither.
fn long_registers(picks: &Picks) -> Registers {
    let base = ((picks.registers >> 16) % 8) as usize;
    let index = ((picks.registers >> 20) % 8) as usize;
    let index = if index == ESP { EDI } else { index };
    let scale = 1 << ((picks.registers >> 24) % 4);
    match (picks.form >> 12) % 16 % 8 {
        1..4 => Registers { base: Some(base), index: None },
        4 | 5 if base != index && base != ESP => Registers { base: Some(base), index: Some((index, scale)) },
        6 => Registers { base: None, index: Some((index, scale)) },
        7 => Registers { base: Some(base), index: None },
        _ => Registers::default(),
    }
}
