//! `create.memory` and `destroy`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::memory::{read_at, sealed_memfd, write_at};
use test_utils::raw::request::{self, IOPORT, MMIO, Memory};

use crate::common::{Backend, Driven, RAM_ID, on_each_backend};

on_each_backend! {
    the_guest_and_the_plugin_share_it
    part_of_a_memfd_is_mapped_from_its_offset
    writes_to_read_only_memory_are_the_plugins
    it_can_go_while_the_guest_runs
    an_id_in_use_is_eexist_before_all_else
    an_id_is_free_after_destroy
    an_unknown_id_is_enoent
    without_a_descriptor_it_is_ebadf
    a_memfd_that_can_shrink_is_eperm
    past_the_end_is_einval
    a_sum_that_overflows_is_eoverflow
    an_overlap_is_eexist_and_changes_nothing
}

const PAGE: u64 = 0x1000;
/// Where the memory of a test lies, apart from the guest's RAM.
const AT: u64 = 0x8000;
const DOORBELL: u16 = 0x10;

fn doorbell() -> test_utils::raw::Message {
    request::reserve(IOPORT, DOORBELL.into(), 1)
}

/// A VM that has only just begun.
fn fresh(backend: Backend) -> Driven {
    Driven::new(backend, &Program::new())
}

fn the_guest_and_the_plugin_share_it(backend: Backend) {
    let program = Program::new().load(0x8ffe, 2).output(DOORBELL, 1).store(0x9000, 2).output(DOORBELL, 1);
    let driven = Driven::new(backend, &program);
    let memory = sealed_memfd(2 * PAGE);
    driven.main.done_with(&request::create_memory(2, Memory::new(AT, 2 * PAGE)), &[memory.as_fd()]);
    write_at(&memory, 0xffe, &[0x34, 0x12]);
    let mut vcpu = driven.running_one(&[doorbell()]);
    assert_eq!(vcpu.await_io().data, [0x34]);
    vcpu.resume();
    vcpu.await_io();
    assert_eq!(read_at(&memory, 0x1000, 2), [0x34, 0x12]);
    driven.finish();
}

fn part_of_a_memfd_is_mapped_from_its_offset(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().load(0x8000, 1).output(DOORBELL, 1));
    let memory = sealed_memfd(3 * PAGE);
    write_at(&memory, 2 * PAGE, &[0x77]);
    let part = Memory { offset: 2 * PAGE, ..Memory::new(AT, PAGE) };
    driven.main.done_with(&request::create_memory(2, part), &[memory.as_fd()]);
    let mut vcpu = driven.running_one(&[doorbell()]);
    assert_eq!(vcpu.await_io().data, [0x77]);
    driven.finish();
}

fn writes_to_read_only_memory_are_the_plugins(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().load(0x8004, 1).store(0x8008, 1));
    let memory = sealed_memfd(PAGE);
    write_at(&memory, 4, &[0x42]);
    let read_only = Memory { read_only: true, ..Memory::new(AT, PAGE) };
    driven.main.done_with(&request::create_memory(2, read_only), &[memory.as_fd()]);
    let mut vcpu = driven.running_one(&[request::reserve(MMIO, AT, PAGE)]);
    let io = vcpu.await_io();
    assert_eq!((io.space, io.address, io.is_write, io.data), (MMIO, 0x8008, true, vec![0x42]));
    assert_eq!(read_at(&memory, 8, 1), [0]);
    driven.finish();
}

fn it_can_go_while_the_guest_runs(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(DOORBELL, 1).load(0x8000, 1));
    let memory = sealed_memfd(PAGE);
    driven.main.done_with(&request::create_memory(2, Memory::new(AT, PAGE)), &[memory.as_fd()]);
    let mut vcpu = driven.running_one(&[doorbell(), request::reserve(MMIO, AT, PAGE)]);
    vcpu.await_io();
    driven.main.done(&request::destroy(2));
    vcpu.resume();
    let io = vcpu.await_io();
    assert_eq!((io.space, io.address, io.is_write), (MMIO, AT, false));
    driven.finish();
}

fn an_id_in_use_is_eexist_before_all_else(backend: Backend) {
    let driven = fresh(backend);
    driven.load();
    driven.main.refused(&request::create_memory(RAM_ID, Memory::new(AT, PAGE)), Errno::EXIST);
    driven.main.refused(&request::create(RAM_ID, 9, Default::default()), Errno::EXIST);
    driven.main.refused(&request::create_io_event(RAM_ID, IOPORT, 0x10, 3, 0), Errno::EXIST);
    driven.finish();
}

fn an_id_is_free_after_destroy(backend: Backend) {
    let driven = fresh(backend);
    let memory = sealed_memfd(PAGE);
    for id in [0, 7, u32::MAX] {
        for _ in 0..3 {
            driven.main.done_with(&request::create_memory(id, Memory::new(AT, PAGE)), &[memory.as_fd()]);
            driven.main.done(&request::destroy(id));
        }
        driven.main.refused(&request::destroy(id), Errno::NOENT);
    }
    driven.finish();
}

fn an_unknown_id_is_enoent(backend: Backend) {
    let driven = fresh(backend);
    for id in [0, 1, u32::MAX] {
        driven.main.refused(&request::destroy(id), Errno::NOENT);
    }
    driven.finish();
}

fn without_a_descriptor_it_is_ebadf(backend: Backend) {
    let driven = fresh(backend);
    driven.main.refused(&request::create_memory(1, Memory::new(AT, PAGE)), Errno::BADF);
    driven.main.refused(&request::destroy(1), Errno::NOENT);
    driven.finish();
}

fn memfd(seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, PAGE).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

fn a_memfd_that_can_shrink_is_eperm(backend: Backend) {
    let driven = fresh(backend);
    let create = request::create_memory(1, Memory::new(AT, PAGE));
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::GROW | SealFlags::SEAL] {
        driven.main.refused_with(&create, &[memfd(seals).as_fd()], Errno::PERM);
    }
    driven.main.done_with(&create, &[memfd(SealFlags::SHRINK | SealFlags::GROW).as_fd()]);
    driven.finish();
}

fn past_the_end_is_einval(backend: Backend) {
    let driven = fresh(backend);
    let memory = sealed_memfd(2 * PAGE);
    for (offset, length) in [(0, 3 * PAGE), (PAGE, 2 * PAGE), (2 * PAGE, PAGE), (1 << 40, PAGE), (0, 1 << 40)] {
        let memory_past_end = Memory { offset, ..Memory::new(AT, length) };
        driven.main.refused_with(&request::create_memory(1, memory_past_end), &[memory.as_fd()], Errno::INVAL);
    }
    // What is no whole number of pages cannot be mapped.
    for (offset, start, length) in [(1, AT, PAGE), (0, AT + 1, PAGE), (0, AT, PAGE + 1), (0, AT, 0)] {
        let unaligned = Memory { offset, start, length, ..Memory::default() };
        driven.main.refused_with(&request::create_memory(1, unaligned), &[memory.as_fd()], Errno::INVAL);
    }
    driven.finish();
}

fn a_sum_that_overflows_is_eoverflow(backend: Backend) {
    let driven = fresh(backend);
    let memory = sealed_memfd(2 * PAGE);
    let last_page = u64::MAX - (PAGE - 1);
    for (offset, start) in [(last_page, AT), (0, last_page), (last_page, last_page)] {
        let overflowing = Memory { offset, ..Memory::new(start, 2 * PAGE) };
        driven.main.refused_with(&request::create_memory(1, overflowing), &[memory.as_fd()], Errno::OVERFLOW);
    }
    driven.finish();
}

fn an_overlap_is_eexist_and_changes_nothing(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().load(0x8000, 1).output(DOORBELL, 1));
    let memory = sealed_memfd(4 * PAGE);
    write_at(&memory, 0, &[0x55]);
    driven.main.done_with(&request::create_memory(2, Memory::new(AT, 2 * PAGE)), &[memory.as_fd()]);
    let other = sealed_memfd(4 * PAGE);
    for (start, length) in [(AT, PAGE), (AT, 2 * PAGE), (AT + PAGE, PAGE), (AT - PAGE, 4 * PAGE), (AT - PAGE, 2 * PAGE)]
    {
        let create = request::create_memory(3, Memory::new(start, length));
        driven.main.refused_with(&create, &[other.as_fd()], Errno::EXIST);
    }
    driven.main.refused(&request::destroy(3), Errno::NOENT);
    for (id, start) in [(3, AT - PAGE), (4, AT + 2 * PAGE)] {
        driven.main.done_with(&request::create_memory(id, Memory::new(start, PAGE)), &[other.as_fd()]);
    }
    let mut vcpu = driven.running_one(&[doorbell()]);
    assert_eq!(vcpu.await_io().data, [0x55]);
    driven.finish();
}
