//! A plugin for tests that makes every request of the SDK, and sees what comes of it. It exits with 0 when all is as it
//! should be, and panics else.
//!
//! Its argument is the guest's code in hexadecimal, to be at [`CODE`]: the accesses of [`vcpu::serve`], in that order.

#![allow(clippy::unwrap_used, reason = "a plugin for tests fails like tests")]

mod machine;
mod objects;
mod vcpu;

use std::num::NonZeroU64;

use plugin_sdk::{AddressSpace, CallHint, Connection, Direction, GuestMemory, HintDetail, MemoryFlags, WriteMatch};

/// Where the guest's code is, and the page after it, whose writes are logged.
const CODE: u64 = 0x1000;
const LOGGED: u64 = 0x2000;
/// The ports of the plugin, of posted writes, and of the I/O event.
const PORTS: u64 = 0x10;
const POSTED: u64 = 0x18;
const DOORBELL: u64 = 0x1c;

fn main() {
    let code = std::env::args().nth(1).unwrap();
    let code: Vec<_> = (0..code.len() / 2).map(|n| u8::from_str_radix(&code[2 * n..2 * n + 2], 16).unwrap()).collect();

    let mut connection = Connection::from_env().unwrap();
    machine::check(&mut connection);
    objects::come_and_go(&mut connection);

    let memory = GuestMemory::new(0x2000).unwrap();
    memory.write(0, &code).unwrap();
    let _code = connection.map_memory(&memory, 0..0x1000, CODE, MemoryFlags::default()).unwrap();
    let flags = MemoryFlags { dirty_log: true, ..MemoryFlags::default() };
    let logged = connection.map_memory(&memory, 0x1000..0x2000, LOGGED, flags).unwrap();
    connection.reserve_range(AddressSpace::Pio, PORTS, 4).unwrap();
    connection.reserve_async_write_range(AddressSpace::Pio, POSTED, 1).unwrap();
    connection.reserve_range(AddressSpace::Mmio, 0xd0000, 1).unwrap();
    connection.release_range(AddressSpace::Mmio, 0xd0000).unwrap();
    let doorbell = connection.create_io_event(AddressSpace::Pio, DOORBELL, WriteMatch::U8(0x41)).unwrap();
    connection
        .set_call_hint(&CallHint {
            space: AddressSpace::Pio,
            address: NonZeroU64::new(PORTS).unwrap(),
            direction: Direction::Write,
            details: vec![HintDetail { sregs: true, debugregs: true, ..HintDetail::default() }],
        })
        .unwrap();

    let shutdown = connection.shutdown_eventfd().unwrap();
    let cpuid = connection.supported_cpuid().unwrap();
    let mut vcpus = connection.vcpus().unwrap();
    connection.start().unwrap();
    vcpu::serve(&mut vcpus[0], &mut connection, &cpuid);

    assert_eq!(doorbell.wait().unwrap(), 1);
    assert_eq!(connection.dirty_log(&logged).unwrap(), [1]);
    assert_eq!(connection.dirty_log(&logged).unwrap(), [0]);
    let mut stored = [0];
    memory.read(0x1000, &mut stored).unwrap();
    assert_eq!(stored, [0x41]);
    connection.remove_call_hint().unwrap();
    connection.unmap(logged).unwrap();
    connection.destroy_io_event(doorbell).unwrap();
    drop(shutdown);
}
