//! Guest code that reads and writes the pages of the local APIC and of the IOAPIC, in real mode: ES and FS lie there.

use hypervisor::kvm_lapic_state;

use super::{Guest, Program, interrupts};

/// The local APIC's page: `IA32_APIC_BASE` after reset.
const LOCAL: u64 = 0xfee0_0000;
/// The IOAPIC's registers.
const IOAPIC: u64 = 0xfec0_0000;
/// Instruction prefixes for the segments.
const ES: u8 = 0x26;
const FS: u8 = 0x64;
/// The IOAPIC's registers for the number of a register, and for its value.
const SELECT: u16 = 0;
const WINDOW: u16 = 0x10;

/// Offsets in the local APIC's page.
pub mod register {
    /// The id, in the uppermost byte.
    pub const ID: u16 = 0x20;
    /// The version.
    pub const VERSION: u16 = 0x30;
    /// The task's priority.
    pub const TASK_PRIORITY: u16 = 0x80;
    /// The processor's priority.
    pub const PROCESSOR_PRIORITY: u16 = 0xa0;
    /// A write ends an interrupt.
    pub const END: u16 = 0xb0;
    /// The logical id, in the uppermost byte.
    pub const LOGICAL_ID: u16 = 0xd0;
    /// How logical ids are understood.
    pub const LOGICAL_FORMAT: u16 = 0xe0;
    /// The spurious vector; bit 8 turns the local APIC on.
    pub const SPURIOUS: u16 = 0xf0;
    /// The first of eight registers with a bit for each vector in service.
    pub const IN_SERVICE: u16 = 0x100;
    /// The first of eight with those requested.
    pub const REQUESTED: u16 = 0x200;
    /// A write sends an interrupt.
    pub const COMMAND: u16 = 0x300;
    /// Where to.
    pub const COMMAND_HIGH: u16 = 0x310;
    /// The timer's entry in the local vector table.
    pub const TIMER: u16 = 0x320;
    /// The timer's count at its beginning; a write starts it.
    pub const INITIAL_COUNT: u16 = 0x380;
    /// The timer's count as it is.
    pub const CURRENT_COUNT: u16 = 0x390;
    /// By how much the timer's clock is divided.
    pub const DIVISOR: u16 = 0x3e0;
    /// The pin of the PICs.
    pub const LINT0: u16 = 0x350;
    /// Another pin.
    pub const LINT1: u16 = 0x360;
}

/// Bits of an entry of the IOAPIC's.
pub mod entry {
    /// For a logical destination.
    pub const LOGICAL: u64 = 1 << 11;
    /// Triggered by level, the end of whose interrupt has not come yet.
    pub const REMOTE_REQUEST: u64 = 1 << 14;
    /// Triggered by level.
    pub const BY_LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// The mode of a non-maskable interrupt.
    pub const NMI: u64 = 4 << 8;
}

impl Program {
    fn at(self, prefix: u8, offset: u16, value: u32) -> Self {
        let ([a, b, c, d], [low, high]) = (value.to_le_bytes(), offset.to_le_bytes());
        // mov eax, value; mov segment:[offset], eax
        self.code_only(&[0x66, 0xb8, a, b, c, d, 0x66, prefix, 0xa3, low, high])
    }

    fn from(self, prefix: u8, offset: u16) -> Self {
        let [low, high] = offset.to_le_bytes();
        // mov eax, segment:[offset]
        self.code_only(&[0x66, prefix, 0xa1, low, high])
    }

    /// Writes a register of the local APIC.
    pub fn local(self, offset: u16, value: u32) -> Self {
        self.at(ES, offset, value)
    }

    /// Reads one into EAX.
    pub fn local_read(self, offset: u16) -> Self {
        self.from(ES, offset)
    }

    /// Writes a register of the IOAPIC.
    pub fn ioapic(self, register: u8, value: u32) -> Self {
        self.at(FS, SELECT, register.into()).at(FS, WINDOW, value)
    }

    /// Reads one into EAX.
    pub fn ioapic_read(self, register: u8) -> Self {
        self.at(FS, SELECT, register.into()).from(FS, WINDOW)
    }

    /// Writes the entry of a pin.
    pub fn redirect(self, pin: u8, entry: u64) -> Self {
        self.ioapic(0x11 + 2 * pin, (entry >> 32) as u32).ioapic(0x10 + 2 * pin, entry as u32)
    }
}

/// A register of a local APIC's state.
pub fn word(lapic: &kvm_lapic_state, offset: u16) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| lapic.regs[usize::from(offset) + byte].cast_unsigned()))
}

/// The beginning of a program that takes interrupts from its local APIC alone: it is on, and the PICs' pins are masked.
pub fn ready() -> Program {
    // mov al, 0xff; out 0x21, al; out 0xa1, al
    Program::new().code_only(&[0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1]).local(register::SPURIOUS, 0x1ff)
}

/// As [`interrupts::prepare`], with segments on the APICs' pages.
///
/// # Panics
///
/// If the backend refuses.
pub fn prepare(guest: &mut Guest) {
    interrupts::prepare(guest);
    let mut sregs = guest.vcpu.sregs().expect("sregs");
    (sregs.es.base, sregs.fs.base) = (LOCAL, IOAPIC);
    guest.vcpu.set_sregs(&sregs).expect("set_sregs");
}
