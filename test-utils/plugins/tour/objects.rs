//! Objects, made and destroyed many times, from two connections at once.

use std::fs;
use std::os::fd::AsFd;
use std::thread;

use plugin_sdk::{AddressSpace, Connection, GuestMemory, MemoryFlags, WriteMatch};
use rustix::io::Errno;

use crate::machine::assert_refused;

/// How often each kind of object comes and goes on each connection.
const ROUNDS: u32 = 50;

/// Descriptors of this process.
fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

pub(crate) fn come_and_go(connection: &mut Connection) {
    let before = descriptors();
    let mut second = connection.new_connection().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| on(&mut second, 0));
        on(connection, 1);
    });
    drop(second);
    assert_eq!(descriptors(), before);
}

/// On one connection; `which` keeps the addresses of the two apart.
fn on(connection: &mut Connection, which: u32) {
    let memory = GuestMemory::new(0x1000).unwrap();
    let (page, port, line) = (0x10_0000 + u64::from(which) * 0x1000, 0x400 + u64::from(which), 10 + which);
    for _ in 0..ROUNDS {
        let flags = MemoryFlags { read_only: true, ..MemoryFlags::default() };
        let mapped = connection.map_fd(memory.as_fd(), 0..0x1000, page, flags).unwrap();
        assert_refused(connection.map_memory(&memory, 0..0x1000, page, flags), Errno::EXIST);
        assert_refused(connection.dirty_log(&mapped), Errno::NOENT);
        connection.unmap(mapped).unwrap();

        let event = connection.create_io_event(AddressSpace::Pio, port, WriteMatch::Any).unwrap();
        assert_refused(connection.create_io_event(AddressSpace::Pio, port, WriteMatch::Any), Errno::EXIST);
        connection.destroy_io_event(event).unwrap();

        let irq = connection.create_irq_event(line).unwrap();
        irq.raise().unwrap();
        connection.destroy_irq_event(irq).unwrap();
    }
}
