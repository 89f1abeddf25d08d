//! Operands in memory: where they are, and how they are addressed.

use iced_x86::{Instruction, OpKind, Register};

use super::assemble::{Assembler, RSP, general};
use super::layout::{self, CONSTANT, DATA, FIXED, HOLE, RESERVED, STACK, SUPERVISOR};
use crate::differential::{Op, random};

/// Where an operand may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// In RAM that can be read and written.
    Ram,
    /// There, or where an access faults.
    Faults,
    /// There, or where an access exits.
    Anywhere,
}

/// An operand in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryOperand {
    segment: Register,
    base: Register,
    index: Register,
    scale: u32,
    displacement: u64,
    /// 4 where addresses have 32 bits, else 8; 0 and 1 for shorter displacements.
    displacement_size: u32,
}

impl MemoryOperand {
    /// Makes it an operand of `instruction`.
    pub(super) fn put(&self, instruction: &mut Instruction, operand: u32) {
        instruction.set_op_kind(operand, OpKind::Memory);
        instruction.set_memory_base(self.base);
        instruction.set_memory_index(self.index);
        instruction.set_memory_index_scale(self.scale);
        instruction.set_memory_displacement64(self.displacement);
        instruction.set_memory_displ_size(self.displacement_size);
        instruction.set_segment_prefix(self.segment);
    }

    /// What is `bytes` further up.
    pub(super) fn plus(&self, bytes: u64) -> Self {
        let displacement = self.displacement.wrapping_add(bytes);
        let wide = self.displacement_size == 8 || self.base.size() == 8 || self.index.size() == 8;
        if wide {
            Self { displacement, displacement_size: 8, ..*self }
        } else {
            Self { displacement: displacement & 0xffff_ffff, displacement_size: 4, ..*self }
        }
    }
}

impl Assembler {
    /// An operand of `size` bytes, as the picks of `op` say; the registers that it needs are loaded.
    pub(super) fn memory(&mut self, op: &Op, size: u64, aligned: bool, reach: Reach) -> MemoryOperand {
        let address = address(op, size, aligned, reach);
        self.addressed(op, address)
    }

    /// An operand at `address`.
    fn addressed(&mut self, op: &Op, address: u64) -> MemoryOperand {
        let form = op.picks.form >> 3;
        let low = address < 0x7fff_ffff;
        let (segment, offset) = match form >> 8 & 15 {
            0 => (Register::FS, address.wrapping_sub(layout::FS)),
            1 => (Register::GS, address.wrapping_sub(layout::GS)),
            2 => (Register::DS, address),
            _ => (Register::None, address),
        };
        let plain = MemoryOperand {
            segment,
            base: Register::None,
            index: Register::None,
            scale: 1,
            displacement: offset,
            displacement_size: 8,
        };
        match form & 15 {
            0 if low && offset == address => MemoryOperand { base: Register::RIP, ..plain },
            1 if low && offset == address => plain,
            2 | 3 if low && offset == address => self.narrow(op, plain),
            4 | 5 => MemoryOperand { base: self.pointer(op, offset), displacement: 0, displacement_size: 0, ..plain },
            6..=8 => {
                let displacement = (op.picks.form as i32 >> 8) as i64 as u64;
                let base = self.pointer(op, offset.wrapping_sub(displacement));
                MemoryOperand { base, displacement, ..plain }
            }
            9..=11 => {
                let displacement = (op.picks.form >> 24) as i8 as i64 as u64;
                let base = self.pointer(op, offset.wrapping_sub(displacement));
                MemoryOperand { base, displacement, displacement_size: 1, ..plain }
            }
            12 => {
                let scale = index(op).0;
                let near = (op.picks.extra as i32 >> 8) as i64 as u64;
                let index_value = offset.wrapping_sub(near) / scale;
                let index = self.pointer(op, index_value);
                let displacement = offset.wrapping_sub(index_value.wrapping_mul(scale));
                MemoryOperand { index, scale: scale as u32, displacement, ..plain }
            }
            _ => {
                let (scale, index_value) = index(op);
                let index = self.pointer(op, index_value);
                let base = self.pointer(op, offset.wrapping_sub(index_value.wrapping_mul(scale)));
                MemoryOperand { base, index, scale: scale as u32, displacement: 0, displacement_size: 0, ..plain }
            }
        }
    }

    /// With addresses of 32 bits.
    fn narrow(&mut self, op: &Op, plain: MemoryOperand) -> MemoryOperand {
        let displacement = u64::from(op.picks.form >> 12);
        let base = self.pointer(op, plain.displacement.wrapping_sub(displacement) | 0xabcd << 48);
        let base = base.full_register32();
        MemoryOperand { base, displacement, displacement_size: 4, ..plain }
    }

    /// A register that is loaded with `value`.
    fn pointer(&mut self, op: &Op, value: u64) -> Register {
        let free = |number: &usize| *number != RSP && !self.held.contains(number);
        let first = (op.picks.registers >> 16) as usize;
        let number = (0..16).map(|step| (first + step) % 16).find(free).unwrap_or_default();
        self.hold(number, value);
        general(number)
    }
}

fn index(op: &Op) -> (u64, u64) {
    let mut seed = u64::from(op.picks.extra ^ op.picks.value);
    let value = random(&mut seed);
    (1 << ((op.picks.extra >> 4) % 4), if op.picks.extra.is_multiple_of(4) { value } else { value & 0xff })
}

/// Where `size` bytes are to be accessed.
pub(super) fn address(op: &Op, size: u64, aligned: bool, reach: Reach) -> u64 {
    let pick = op.picks.place;
    let within = u64::from(pick >> 8) % (DATA.len - 0x40 - size.min(0x800));
    let within = match pick >> 6 & 3 {
        // At the end of its page, perhaps beyond.
        0 if !aligned => 0x1000 - (size + 1) + within % (size + 2),
        1 if !aligned => within,
        _ => within & !(size.next_power_of_two().min(16) - 1),
    };
    let page = (within & 0xfff).min(0x1000 - size);
    let rare = op.picks.extra >> 26 & 7 == 0;
    match pick & 63 {
        0..=5 => layout::HIGH + within,
        6..=9 => layout::UPPER + within,
        10..=13 => layout::LARGE + DATA.start + within,
        14..=17 => STACK.start + page,
        18 if rare && reach != Reach::Ram => CONSTANT + page,
        19 if rare && reach != Reach::Ram => SUPERVISOR + page,
        20 if rare && reach != Reach::Ram => RESERVED + page,
        21 if rare && reach != Reach::Ram => 0x8000_0000_0000 + within,
        22 if rare && reach != Reach::Ram => DATA.start + DATA.len + page,
        // Half in the page that is not present.
        23 if rare && reach != Reach::Ram && !aligned => DATA.start + DATA.len - 1 - within % size,
        24 | 25 if reach == Reach::Anywhere => FIXED.start + page,
        26 | 27 if reach == Reach::Anywhere => HOLE + page,
        _ => DATA.start + within,
    }
}
