//! What a vCPU's guest does, and the machine code of it.
//!
//! EBX counts what the guest does: each step that an owner could see adds one first. ESI adds up what was read. EBP is how often
//! the steps are still to be done. It is 16-bit code of real mode.

use plugin_sdk::AddressSpace;

use super::layout;
use super::random::Random;

/// Bytes of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Word,
    Long,
}

impl Width {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Long => 4,
        }
    }

    /// The opcode, of which that of a byte is given: the next one is that of wider accesses, with a prefix for 4 bytes.
    fn opcode(self, byte: u8) -> Vec<u8> {
        match self {
            Self::Byte => vec![byte],
            Self::Word => vec![byte + 1],
            Self::Long => vec![0x66, byte + 1],
        }
    }
}

/// One thing that a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes the count where it waits for the plugin.
    Write(AddressSpace, Width),
    /// Writes the count where it does not wait.
    Post(AddressSpace, Width),
    /// Writes the count where writes are coalesced.
    Coalesce(AddressSpace),
    /// Writes the count across the end of a page: half of it waits, half of it does not.
    Straddle,
    /// Reads.
    Read(AddressSpace, Width),
    /// Writes so many bytes by one instruction.
    WriteString(u8),
    /// Reads so many bytes by one instruction, at least 4.
    ReadString(u8),
    /// Writes the sum of what was read.
    Sum,
    /// Writes the count to memory that is there at times.
    Window,
    /// Writes the count to a port that is reserved at times.
    Fickle,
    /// Signals an eventfd.
    Doorbell(AddressSpace, Width),
    /// Waits for an interrupt.
    Halt,
    /// Does nothing for so many instructions.
    Spin(u8),
}

/// How a guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// It says so, and halts.
    Done,
    /// It jumps to where nothing is.
    Fault,
}

/// What one vCPU does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    /// How often.
    pub(super) rounds: u32,
    pub(super) last: Last,
}

impl Program {
    /// Some steps, of which the last is a sum: so there is something to wait for in every round.
    pub(super) fn random(random: &mut Random, vcpu: usize, rounds: u32) -> Self {
        let mut steps: Vec<_> = (0..8 + random.below(32)).map(|_| Step::random(random, vcpu)).collect();
        steps.push(Step::Sum);
        Self { steps, rounds, last: Last::Done }
    }

    /// The machine code, to lie at [`layout::code`].
    pub(super) fn code(&self, vcpu: usize) -> Vec<u8> {
        let mut code = if vcpu == 0 { prologue() } else { Vec::new() };
        let begin = code.len();
        for step in &self.steps {
            code.extend(step.code(vcpu));
        }
        code.extend([0x66, 0x4d]); // dec ebp
        // jnz begin; the code is less than a page.
        let distance = (code.len() + 4 - begin) as i16;
        code.extend([0x0f, 0x85]);
        code.extend(distance.wrapping_neg().to_le_bytes());
        match self.last {
            Last::Done => {
                code.extend(count());
                code.extend(out(layout::own(layout::DONE_PORTS, vcpu), Width::Long));
                // again: hlt; jmp again. vCPU 0 still takes interrupts.
                code.extend([0xf4, 0xeb, 0xfd]);
            }
            Last::Fault => {
                // mov bx, NOWHERE; jmp bx
                code.push(0xbb);
                code.extend(layout::NOWHERE.to_le_bytes());
                code.extend([0xff, 0xe3]);
            }
        }
        code
    }
}

impl Step {
    fn random(random: &mut Random, vcpu: usize) -> Self {
        let space = random.pick([AddressSpace::Pio, AddressSpace::Mmio]);
        let width = random.pick([Width::Byte, Width::Word, Width::Long]);
        match random.below(22) {
            0..4 => Self::Write(space, width),
            4..8 => Self::Post(space, width),
            8..11 => Self::Read(space, width),
            11 => Self::Straddle,
            12 => Self::WriteString(1 + random.below(12) as u8),
            13 => Self::ReadString(4 + random.below(60) as u8),
            14 => Self::Sum,
            15 | 16 => Self::Window,
            17 => Self::Fickle,
            18 => Self::Doorbell(space, width),
            19 | 20 => Self::Coalesce(space),
            _ if vcpu == 0 && random.once_in(2) => Self::Halt,
            _ => Self::Spin(1 + random.below(20) as u8),
        }
    }

    fn code(self, vcpu: usize) -> Vec<u8> {
        let own = |first| layout::own(first, vcpu);
        match self {
            Self::Write(AddressSpace::Pio, width) => written(out(own(layout::SYNC_PORTS), width)),
            Self::Write(AddressSpace::Mmio, width) => written(store(own(layout::SYNC_PAGE), width)),
            Self::Post(AddressSpace::Pio, width) => written(out(own(layout::POSTED_PORTS), width)),
            Self::Post(AddressSpace::Mmio, width) => written(store(own(layout::POSTED_PAGE), width)),
            Self::Coalesce(AddressSpace::Pio) => written(out(own(layout::COALESCED_PORTS), Width::Long)),
            Self::Coalesce(AddressSpace::Mmio) => written(store(own(layout::COALESCED_PAGE), Width::Long)),
            Self::Straddle => written(store(layout::STRADDLE, Width::Long)),
            Self::Read(AddressSpace::Pio, width) => read(input(own(layout::SYNC_PORTS), width)),
            Self::Read(AddressSpace::Mmio, width) => read(load(own(layout::SYNC_PAGE), width)),
            Self::WriteString(length) => {
                let code = string(0xbe, layout::source(vcpu), length, own(layout::STRING_PORTS), 0x6e);
                // mov eax, esi before it and mov esi, eax behind it
                [vec![0x66, 0x89, 0xf0], code, vec![0x66, 0x89, 0xc6]].concat()
            }
            Self::ReadString(length) => {
                let begin = layout::destination(vcpu);
                let mut code = string(0xbf, begin, length, own(layout::STRING_PORTS), 0x6c);
                // add esi, [the last four bytes]
                code.extend([0x66, 0x03, 0x36]);
                code.extend(low(begin + u64::from(length) - 4));
                code
            }
            Self::Sum => {
                // inc ebx; mov eax, esi
                let code = vec![0x66, 0x43, 0x66, 0x89, 0xf0];
                [code, out(own(layout::SUM_PORTS), Width::Long)].concat()
            }
            Self::Window => written(store(layout::WINDOW + layout::slot(vcpu), Width::Long)),
            Self::Fickle => written(out(own(layout::FICKLE_PORTS), Width::Long)),
            Self::Doorbell(AddressSpace::Pio, width) => written(out(layout::bell_port(vcpu), width)),
            Self::Doorbell(AddressSpace::Mmio, width) => written(store(layout::bell_address(vcpu), width)),
            Self::Halt => vec![0xf4],
            // mov cx, n; again: loop again
            Self::Spin(instructions) => vec![0xb9, instructions, 0, 0xe2, 0xfe],
        }
    }
}

/// What lies in the low 64 KiB has addresses of 16 bits.
fn low(address: u64) -> [u8; 2] {
    (address as u16).to_le_bytes()
}

/// `inc ebx; mov eax, ebx`
fn count() -> Vec<u8> {
    vec![0x66, 0x43, 0x66, 0x89, 0xd8]
}

fn written(code: Vec<u8>) -> Vec<u8> {
    [count(), code].concat()
}

/// `inc ebx; xor eax, eax`, the code, `add esi, eax`
fn read(code: Vec<u8>) -> Vec<u8> {
    [vec![0x66, 0x43, 0x66, 0x31, 0xc0], code, vec![0x66, 0x01, 0xc6]].concat()
}

fn mov_dx(port: u64) -> Vec<u8> {
    [&[0xba][..], &low(port)].concat()
}

fn out(port: u64, width: Width) -> Vec<u8> {
    [mov_dx(port), width.opcode(0xee)].concat()
}

fn input(port: u64, width: Width) -> Vec<u8> {
    [mov_dx(port), width.opcode(0xec)].concat()
}

fn store(address: u64, width: Width) -> Vec<u8> {
    [width.opcode(0xa2), low(address).to_vec()].concat()
}

fn load(address: u64, width: Width) -> Vec<u8> {
    [width.opcode(0xa0), low(address).to_vec()].concat()
}

/// `inc ebx; cld; mov pointer, address; mov cx, length; mov dx, port; rep instruction`
fn string(mov_pointer: u8, address: u64, length: u8, port: u64, instruction: u8) -> Vec<u8> {
    let mut code = vec![0x66, 0x43, 0xfc, mov_pointer];
    code.extend(low(address));
    code.extend([0xb9, length, 0]);
    code.extend(mov_dx(port));
    code.extend([0xf3, instruction]);
    code
}

/// Makes the interrupt controllers ready, says so, and takes interrupts.
fn prologue() -> Vec<u8> {
    // Port and value of each command word (8259A data sheet): edges, vectors, cascade, 8086 mode, nothing masked.
    let second = layout::FIRST_VECTOR + 8;
    let words = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, layout::FIRST_VECTOR),
        (0xa1, second),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0),
        (0xa1, 0),
    ];
    // mov al, value; out port, al
    let mut code: Vec<u8> = words.into_iter().flat_map(|(port, value)| [0xb0, value, 0xe6, port]).collect();
    code.extend(out(layout::READY_PORT, Width::Byte));
    code.push(0xfb); // sti
    code
}

/// What vCPU 0 does at an interrupt of `line`, one of the first controller's: counts it, tells the count, ends it.
pub(super) fn handler(line: u32) -> Vec<u8> {
    let counter = layout::HANDLED + 4 * line as u16;
    let [counter_low, counter_high] = counter.to_le_bytes();
    let mut code = vec![0x66, 0x50, 0x52]; // push eax; push dx
    // mov eax, [counter]; inc eax; mov [counter], eax
    code.extend([0x66, 0xa1, counter_low, counter_high, 0x66, 0x40, 0x66, 0xa3, counter_low, counter_high]);
    code.extend(out(layout::of_line(layout::LINE_PORTS, line), Width::Long));
    // A specific end of interrupt: mov al, command; out 0x20, al
    code.extend([0xb0, 0x60 | line as u8, 0xe6, 0x20]);
    code.extend([0x5a, 0x66, 0x58, 0xcf]); // pop dx; pop eax; iret
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_program_fits_a_page_and_a_handler_its_place() {
        let longest = [Step::ReadString(64); 41].to_vec();
        let program = Program { steps: longest, rounds: 1, last: Last::Done };
        assert!(program.code(0).len() < 4096);
        assert!(handler(7).len() <= layout::HANDLER_SIZE.into());
    }

    #[test]
    fn the_loop_goes_back_to_its_first_step() {
        let program = Program { steps: vec![Step::Spin(1)], rounds: 1, last: Last::Fault };
        let code = program.code(1);
        // Five bytes of the step, two of `dec ebp`, four of the jump.
        assert_eq!(code[5..11], [0x66, 0x4d, 0x0f, 0x85, 0xf5, 0xff]);
    }
}
