//! Guest programs in two forms that mean the same: real-mode machine code, and a [`Script`] for the mock where it is the
//! scripts that are tested.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use hypervisor::mock::{Script, Step};
use hypervisor::{Exit, Gsi, Hypervisor, Vcpu, VcpuId, Vm, kvm_mp_state};

use crate::memory;

pub mod apics;
mod assembly;
pub mod interrupts;

/// Where programs lie and begin, in guest-physical memory.
pub const ENTRY: u64 = 0x1000;
/// Where a guest's memory begins and how much it has; all other memory is nobody's.
pub const RAM_START: u64 = 0x1000;
/// Bytes of RAM.
pub const RAM_LEN: u64 = 0x4000;
/// The first address above RAM.
pub const RAM_END: u64 = RAM_START + RAM_LEN;

/// An address that is in nobody's RAM.
const RAM_UNMAPPED: u16 = 0x8000;

/// Where `ins` stores what it reads, inside RAM.
const STRING_BUFFER: u16 = 0x3000;

/// A program under construction. All values pass through RAX.
#[derive(Clone, Debug, Default)]
pub struct Program {
    code: Vec<u8>,
    steps: Vec<Step>,
    forever: bool,
    /// It does what no script can.
    code_only: bool,
    /// Where the handlers of interrupt vectors lie.
    pub(crate) vectors: Vec<(u8, u16)>,
}

impl Program {
    /// A program that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn add(mut self, code: &[u8], step: Step) -> Self {
        self.code.extend(code);
        self.steps.push(step);
        self
    }

    /// Machine code that no script stands for.
    pub fn code_only(mut self, code: &[u8]) -> Self {
        self.code.extend(code);
        self.code_only = true;
        self
    }

    /// `mov eax, value`
    pub fn mov(self, value: u32) -> Self {
        let [a, b, c, d] = value.to_le_bytes();
        self.add(&[0x66, 0xb8, a, b, c, d], Step::Mov(value.into()))
    }

    /// `in` of 1, 2 or 4 bytes.
    pub fn input(self, port: u16, width: u8) -> Self {
        let code = [mov_dx(port), sized(width, 0xec)].concat();
        self.add(&code, Step::In { port, width })
    }

    /// `out` of 1, 2 or 4 bytes.
    pub fn output(self, port: u16, width: u8) -> Self {
        let code = [mov_dx(port), sized(width, 0xee)].concat();
        self.add(&code, Step::Out { port, width })
    }

    /// `rep insb` or `rep insw`.
    pub fn input_string(self, port: u16, width: u8, count: u16) -> Self {
        let ([count_low, count_high], [to_low, to_high]) = (count.to_le_bytes(), STRING_BUFFER.to_le_bytes());
        let mut code = mov_dx(port);
        // cld; mov cx, count; mov di, buffer; rep ins
        code.extend([0xfc, 0xb9, count_low, count_high, 0xbf, to_low, to_high, 0xf3]);
        code.extend(sized(width, 0x6c));
        self.add(&code, Step::Ins { port, width, count })
    }

    /// `rep outsb` of up to 127 bytes.
    ///
    /// # Panics
    ///
    /// If there are more.
    pub fn output_string(self, port: u16, data: &[u8]) -> Self {
        let len = i8::try_from(data.len()).expect("up to 127 bytes").unsigned_abs();
        // The bytes lie behind a jump over them.
        let address = ENTRY as u16 + self.code.len() as u16 + 2;
        let [low, high] = address.to_le_bytes();
        let mut code = vec![0xeb, len];
        code.extend(data);
        code.extend(mov_dx(port));
        // cld; mov si, address; mov cx, len; rep outsb
        code.extend([0xfc, 0xbe, low, high, 0xb9, len, 0, 0xf3, 0x6e]);
        self.add(&code, Step::Outs { port, data: data.to_vec() })
    }

    /// A division by zero, for a guest that cannot handle it: a shutdown in the script.
    pub fn divide_by_zero(self) -> Self {
        // xor cx, cx; div cx
        self.add(&[0x31, 0xc9, 0xf7, 0xf1], Step::Exit(Exit::Shutdown))
    }

    /// Loads 1, 2 or 4 bytes from memory below 64 KiB.
    pub fn load(self, address: u16, width: u8) -> Self {
        let code = [sized(width, 0xa0), address.to_le_bytes().to_vec()].concat();
        self.add(&code, Step::Load { address: address.into(), width })
    }

    /// Stores 1, 2 or 4 bytes to memory below 64 KiB.
    pub fn store(self, address: u16, width: u8) -> Self {
        let code = [sized(width, 0xa2), address.to_le_bytes().to_vec()].concat();
        self.add(&code, Step::Store { address: address.into(), width })
    }

    /// Tells the first PIC that interrupt `line`, 0 to 7, is dealt with. Leaves the command in RAX.
    pub fn acknowledge(self, line: u8) -> Self {
        // OCW2, a specific end of interrupt; out 0x20, al
        self.mov(0x60 | u32::from(line)).add(&[0xe6, 0x20], Step::Acknowledge { gsi: Gsi(line.into()) })
    }

    /// The end of the guest: a jump to an address without memory, which is an internal error; in the script a shutdown.
    pub fn shutdown(self) -> Self {
        let [low, high] = RAM_UNMAPPED.to_le_bytes();
        // mov bx, address; jmp bx
        self.add(&[0xbb, low, high, 0xff, 0xe3], Step::Exit(Exit::Shutdown))
    }

    /// The end of a program that is not for ever: `out port, al`.
    pub(crate) fn done(self, port: u8) -> Self {
        if self.forever { self } else { self.add(&[0xe6, port], Step::Out { port: port.into(), width: 1 }) }
    }

    /// Ends in `hlt` with interrupts off. The end of every script is one.
    pub fn halt(mut self) -> Self {
        self.code.push(0xf4);
        self
    }

    /// Starts over at the end, without end.
    pub fn forever(mut self) -> Self {
        self.forever = true;
        self
    }

    /// The machine code. A program that is not for ever ends in a jump to itself.
    ///
    /// # Panics
    ///
    /// If it is longer than a jump reaches.
    pub fn code(&self) -> Vec<u8> {
        let mut code = self.code.clone();
        let back = if self.forever { self.code.len() + 3 } else { 3 };
        let distance = i16::try_from(back).expect("program of less than 32 KiB").wrapping_neg();
        code.push(0xe9);
        code.extend(distance.to_le_bytes());
        code
    }

    /// The script, if there is one. One that is not for ever ends in a wait, as the code ends in a jump to itself.
    pub fn script(&self) -> Option<Script> {
        let steps = self.steps.iter().cloned();
        match (self.code_only, self.forever) {
            (true, _) => None,
            (false, true) => Some(Script::forever(steps)),
            (false, false) => Some(Script::once(steps)),
        }
    }
}

fn mov_dx(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0xba, low, high]
}

/// The opcode of the byte form, or that of the wider forms behind it, with the operand-size prefix for 4 bytes.
fn sized(width: u8, byte_form: u8) -> Vec<u8> {
    match width {
        1 => vec![byte_form],
        2 => vec![byte_form + 1],
        4 => vec![0x66, byte_form + 1],
        _ => panic!("the accumulator has 1, 2 or 4 bytes here, not {width}"),
    }
}

/// A VM with RAM, a program in it, and one vCPU about to run it.
pub struct Guest {
    /// The VM.
    pub vm: Arc<dyn Vm>,
    /// vCPU 0, at [`ENTRY`] in real mode.
    pub vcpu: Box<dyn Vcpu>,
    /// The memory at [`RAM_START`].
    pub ram: OwnedFd,
}

impl Guest {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// If the backend refuses.
    pub fn new(hypervisor: &dyn Hypervisor, program: &Program) -> Self {
        let vm = hypervisor.create_vm().expect("create_vm");
        let (region, ram) = memory::region(RAM_START, RAM_LEN);
        memory::write_at(&ram, ENTRY - RAM_START, &program.code());
        vm.map_memory(region).expect("map_memory");
        let mut vcpu = vm.create_vcpu(VcpuId(0)).expect("create_vcpu");
        boot(&mut *vcpu);
        Self { vm, vcpu, ram }
    }
}

/// Puts a vCPU at [`ENTRY`] in real mode, ready to run.
///
/// # Panics
///
/// If the backend refuses.
pub fn boot(vcpu: &mut dyn Vcpu) {
    let mut sregs = vcpu.sregs().expect("sregs");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).expect("set_sregs");
    let mut regs = vcpu.regs().expect("regs");
    regs.rip = ENTRY;
    regs.rflags = 2;
    vcpu.set_regs(&regs).expect("set_regs");
    vcpu.set_mp_state(&kvm_mp_state { mp_state: 0 }).expect("set_mp_state");
}
