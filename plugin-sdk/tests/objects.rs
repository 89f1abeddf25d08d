//! Objects that the VMM keeps for a plugin, against a VMM that the test plays.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use std::os::fd::AsFd;

use plugin_proto::messages::AddressSpace as Space;
use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_request::create::{Constructor, Memory};
use plugin_proto::messages::main_response::{MemoryDirtyLog, Message as Response};
use plugin_sdk::{AddressSpace, Error, GuestMemory, MemoryFlags, WriteMatch};
use rustix::event::{EventfdFlags, eventfd};
use support::FakeVmm;

/// The next request, which must be a create: the id and what is made.
fn created(vmm: &FakeVmm) -> (u32, Constructor) {
    match vmm.request().0 {
        Request::Create(create) => (create.id, create.constructor.unwrap()),
        other => panic!("{other:?} in place of a create"),
    }
}

/// The next request, which must be a destroy: the id.
fn destroyed(vmm: &FakeVmm) -> u32 {
    match vmm.request().0 {
        Request::Destroy(destroy) => destroy.id,
        other => panic!("{other:?} in place of a destroy"),
    }
}

#[test]
fn memory_goes_with_its_memfd_and_is_destroyed_under_its_id() {
    let (vmm, mut connection) = FakeVmm::new();
    let memory = GuestMemory::new(0x4000).unwrap();
    memory.write(0x1000, b"seen").unwrap();
    vmm.answer(Response::Create(Default::default()), &[]);
    vmm.answer(Response::Destroy(Default::default()), &[]);
    let flags = MemoryFlags { read_only: true, dirty_log: false };
    let mapped = connection.map_memory(&memory, 0x1000..0x3000, 0x10_0000, flags).unwrap();
    connection.unmap(mapped).unwrap();

    let (request, fds) = vmm.request();
    let Request::Create(create) = request else {
        panic!("another request");
    };
    let Some(Constructor::Memory(sent)) = create.constructor else {
        panic!("another object");
    };
    assert_eq!((sent.offset, sent.length), (0x1000, 0x2000));
    assert_eq!(sent.start, 0x10_0000);
    assert!(sent.read_only && !sent.dirty_log);
    let mut bytes = [0; 4];
    rustix::io::pread(&fds[0], &mut bytes, 0x1000).unwrap();
    assert_eq!((&bytes, fds.len()), (b"seen", 1));

    let Request::Destroy(destroy) = vmm.request().0 else {
        panic!("another request");
    };
    assert_eq!(destroy.id, create.id);
}

#[test]
fn ids_of_objects_differ_between_all_connections() {
    let memory = GuestMemory::new(0x1000).unwrap();
    let mut ids = Vec::new();
    for (vmm, mut connection) in [FakeVmm::new(), FakeVmm::new()] {
        for _ in 0..2 {
            vmm.answer(Response::Create(Default::default()), &[]);
            let _mapped = connection.map_memory(&memory, 0..0x1000, 0, MemoryFlags::default()).unwrap();
            let Request::Create(create) = vmm.request().0 else {
                panic!("another request");
            };
            ids.push(create.id);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn a_part_outside_the_memory_is_refused_without_asking() {
    let (_vmm, mut connection) = FakeVmm::new();
    let memory = GuestMemory::new(0x2000).unwrap();
    let refused = connection.map_memory(&memory, 0x1000..0x3000, 0, MemoryFlags::default());
    assert!(matches!(refused, Err(Error::OutOfBounds { .. })));
    let refused = connection.map_memory(&memory, 0..0x800, 0, MemoryFlags::default());
    assert!(matches!(refused, Err(Error::NotPages { value: 0x800 })));
}

#[test]
fn memory_from_elsewhere_goes_with_its_descriptor_and_offset() {
    let (vmm, mut connection) = FakeVmm::new();
    let memory = GuestMemory::new(0x4000).unwrap();
    vmm.answer(Response::Create(Default::default()), &[]);
    // Only the VMM can tell whether the descriptor has these bytes.
    let flags = MemoryFlags { read_only: false, dirty_log: true };
    let _mapped = connection.map_fd(memory.as_fd(), 0x1000..0x10_0000, 0x8000, flags).unwrap();
    let (_, Constructor::Memory(Memory { offset, start, length, read_only, dirty_log, .. })) = created(&vmm) else {
        panic!("another object");
    };
    assert_eq!((offset, start, length, read_only, dirty_log), (0x1000, 0x8000, 0xf_f000, false, true));

    let refused = connection.map_fd(memory.as_fd(), 0x10..0x1010, 0, flags);
    assert!(matches!(refused, Err(Error::NotPages { value: 0x10 })));
}

#[test]
fn a_dirty_log_is_asked_for_by_the_memorys_id() {
    let (vmm, mut connection) = FakeVmm::new();
    let memory = GuestMemory::new(0x1000).unwrap();
    vmm.answer(Response::Create(Default::default()), &[]);
    let flags = MemoryFlags { dirty_log: true, ..Default::default() };
    let mapped = connection.map_memory(&memory, 0..0x1000, 0, flags).unwrap();
    vmm.answer(Response::DirtyLog(MemoryDirtyLog { bitmap: vec![1], ..Default::default() }), &[]);
    assert_eq!(connection.dirty_log(&mapped).unwrap(), [1]);
    let (id, _) = created(&vmm);
    let Request::DirtyLog(log) = vmm.request().0 else {
        panic!("another request");
    };
    assert_eq!(log.id, id);
}

#[test]
fn an_io_event_says_which_writes_count_and_is_the_eventfd_that_came() {
    for (writes, expected) in [
        (WriteMatch::Any, (0, 0)),
        (WriteMatch::U8(0xfe), (1, 0xfe)),
        (WriteMatch::U16(0xfedc), (2, 0xfedc)),
        (WriteMatch::U32(0xfedc_ba98), (4, 0xfedc_ba98)),
        (WriteMatch::U64(u64::MAX), (8, u64::MAX)),
    ] {
        let (vmm, mut connection) = FakeVmm::new();
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        vmm.answer(Response::Create(Default::default()), &[theirs.as_fd()]);
        vmm.answer(Response::Destroy(Default::default()), &[]);
        let event = connection.create_io_event(AddressSpace::Mmio, 0xd000_0010, writes).unwrap();
        rustix::io::write(&theirs, &3u64.to_ne_bytes()).unwrap();
        assert_eq!(event.wait().unwrap(), 3);
        connection.destroy_io_event(event).unwrap();

        let (id, Constructor::IoEvent(sent)) = created(&vmm) else {
            panic!("another object");
        };
        assert_eq!((sent.space.unwrap(), sent.address), (Space::MMIO, 0xd000_0010));
        assert_eq!((sent.length, sent.datamatch), expected);
        assert_eq!(destroyed(&vmm), id);
    }
}

#[test]
fn an_irq_event_is_triggered_by_the_first_eventfd_and_acknowledged_by_the_second() {
    let (vmm, mut connection) = FakeVmm::new();
    let make = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let (trigger, resample) = (make(), make());
    vmm.answer(Response::Create(Default::default()), &[trigger.as_fd(), resample.as_fd()]);
    vmm.answer(Response::Destroy(Default::default()), &[]);
    let event = connection.create_irq_event(9).unwrap();
    event.raise().unwrap();
    let mut count = [0; 8];
    rustix::io::read(&trigger, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    rustix::io::write(&resample, &1u64.to_ne_bytes()).unwrap();
    event.wait_resample().unwrap();
    connection.destroy_irq_event(event).unwrap();

    let (id, Constructor::IrqEvent(sent)) = created(&vmm) else {
        panic!("another object");
    };
    assert_eq!(sent.irq_id, 9);
    assert_eq!(destroyed(&vmm), id);
}

#[test]
fn objects_with_other_descriptors_than_theirs_are_errors() {
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let memory = GuestMemory::new(0x1000).unwrap();
    let (vmm, mut connection) = FakeVmm::new();
    for wrong in [0, 2] {
        vmm.answer(Response::Create(Default::default()), &vec![reader.as_fd(); wrong]);
        let made = connection.create_io_event(AddressSpace::Pio, 1, WriteMatch::Any);
        assert!(matches!(made, Err(Error::Unexpected { .. })));
    }
    vmm.answer(Response::Create(Default::default()), &[reader.as_fd()]);
    assert!(matches!(connection.create_irq_event(1), Err(Error::Unexpected { .. })));
    vmm.answer(Response::Create(Default::default()), &[reader.as_fd()]);
    let made = connection.map_memory(&memory, 0..0x1000, 0, MemoryFlags::default());
    assert!(matches!(made, Err(Error::Unexpected { .. })));
}

#[test]
fn a_descriptor_that_is_no_eventfd_is_an_error_and_no_wait_without_end() {
    let (vmm, mut connection) = FakeVmm::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    vmm.answer(Response::Create(Default::default()), &[reader.as_fd()]);
    let event = connection.create_io_event(AddressSpace::Pio, 1, WriteMatch::Any).unwrap();
    drop(writer);
    assert!(matches!(event.wait(), Err(Error::System { .. })));
}
