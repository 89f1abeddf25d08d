//! A vector table for guests, and the PICs made ready.

use super::{ENTRY, Guest, Program, RAM_START};
use crate::memory;

/// Where each handler writes its vector, one byte.
pub const HANDLER_PORT: u16 = 0x70;

/// Where table, handlers and stack lie in RAM, behind the program.
const TABLE: u16 = 0x2000;
const HANDLERS: u16 = 0x2800;
const STACK: u16 = 0x4800;

/// The beginning of a program that takes interrupts: both PICs get their command words, pin 0 to 15 vectors 0x20 to 0x2f,
/// and all are open. The guest's interrupts stay off.
pub fn pics() -> Program {
    let writes = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 0x04),
        (0xa1, 0x02),
        (0x21, 0x01),
        (0xa1, 0x01),
        (0x21, 0),
        (0xa1, 0),
    ];
    // mov al, value; out port, al
    let code: Vec<u8> = writes.into_iter().flat_map(|(port, value)| [0xb0, value, 0xe6, port]).collect();
    Program::new().code_only(&code)
}

/// Gives a guest a stack, and a vector table each of whose handlers writes its vector to [`HANDLER_PORT`] and returns.
///
/// # Panics
///
/// If the backend refuses.
pub fn prepare(guest: &mut Guest) {
    let mut table = Vec::new();
    let mut handlers = Vec::new();
    for vector in 0..=u8::MAX {
        let address = HANDLERS + 8 * u16::from(vector);
        table.extend(address.to_le_bytes());
        table.extend([0, 0]);
        // push ax; mov al, vector; out HANDLER_PORT, al; pop ax; iret; nop
        handlers.extend([0x50, 0xb0, vector, 0xe6, HANDLER_PORT as u8, 0x58, 0xcf, 0x90]);
    }
    memory::write_at(&guest.ram, u64::from(TABLE) - RAM_START, &table);
    memory::write_at(&guest.ram, u64::from(HANDLERS) - RAM_START, &handlers);
    let mut sregs = guest.vcpu.sregs().expect("sregs");
    sregs.idt.base = TABLE.into();
    guest.vcpu.set_sregs(&sregs).expect("set_sregs");
    let mut regs = guest.vcpu.regs().expect("regs");
    (regs.rip, regs.rsp) = (ENTRY, STACK.into());
    guest.vcpu.set_regs(&regs).expect("set_regs");
}
