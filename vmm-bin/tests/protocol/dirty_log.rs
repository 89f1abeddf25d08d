//! `dirty_log`.

use std::os::fd::AsFd;

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, IOPORT, Memory};

use crate::common::{Backend, Driven, RAM_ID, on_each_backend};

on_each_backend! {
    each_written_page_is_told_once
    the_bitmap_has_whole_bytes
    what_the_plugin_writes_is_not_the_guests
    what_is_no_such_memory_is_enoent
}

const PAGE: u64 = 0x1000;
const AT: u64 = 0x8000;

fn map(driven: &Driven, id: u32, start: u64, pages: u64) -> std::os::fd::OwnedFd {
    let memory = sealed_memfd(pages * PAGE);
    let logged = Memory { dirty_log: true, ..Memory::new(start, pages * PAGE) };
    driven.main.done_with(&request::create_memory(id, logged), &[memory.as_fd()]);
    memory
}

fn log(driven: &Driven, id: u32) -> Vec<u8> {
    driven.main.done(&request::dirty_log(id)).body.bytes(1).to_vec()
}

fn each_written_page_is_told_once(backend: Backend) {
    let program = Program::new().mov(5).store(0x8000, 1).store(0xa123, 4).load(0xb000, 1).output(0x10, 1);
    // The second time round, a write across two pages.
    let program = program.mov(6).store(0x8fff, 2).output(0x10, 1).output(0x10, 1);
    let driven = Driven::new(backend, &program);
    map(&driven, 2, AT, 4);
    assert_eq!(log(&driven, 2), [0]);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpu.await_io();
    assert_eq!(log(&driven, 2), [0b0101]);
    assert_eq!(log(&driven, 2), [0]);
    vcpu.resume();
    vcpu.await_io();
    assert_eq!(log(&driven, 2), [0b0011]);
    vcpu.resume();
    vcpu.await_io();
    assert_eq!(log(&driven, 2), [0]);
    driven.finish();
}

fn the_bitmap_has_whole_bytes(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    for (id, (pages, bytes)) in (2..).zip([(1, 1), (7, 1), (8, 1), (9, 2), (63, 8), (64, 8), (65, 9), (100, 13)]) {
        map(&driven, id, 0x10_0000 * u64::from(id), pages);
        assert_eq!(log(&driven, id), vec![0; bytes], "{pages} pages");
    }
    driven.finish();
}

fn what_the_plugin_writes_is_not_the_guests(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let memory = map(&driven, 2, AT, 4);
    test_utils::memory::write_at(&memory, 0, &[1; 0x4000]);
    assert_eq!(log(&driven, 2), [0]);
    driven.finish();
}

fn what_is_no_such_memory_is_enoent(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    driven.load();
    driven.main.descriptor(&request::create_io_event(3, IOPORT, 0x70, 1, 0));
    driven.main.done(&request::create_irq_event(4, 5, true));
    map(&driven, 5, AT, 1);
    driven.main.done(&request::destroy(5));
    for id in [RAM_ID, 3, 4, 5, 6, u32::MAX] {
        driven.main.refused(&request::dirty_log(id), Errno::NOENT);
    }
    driven.finish();
}
