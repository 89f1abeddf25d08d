//! Guest memory that is not what it should be, or changes while it is mapped.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use test_utils::guest::{Program, RAM_LEN, RAM_START};
use test_utils::memory::{read_at, sealed_memfd, write_at};
use test_utils::raw::VcpuChannel;
use test_utils::raw::request::{self, IOPORT, Memory};

use crate::common::{Backend, Counters, Driven, on_each_backend};
use crate::samples::EXTREMES;

on_each_backend! {
    each_number_at_its_extremes
    memory_that_comes_and_goes_leaves_nothing
    seals_of_all_kinds_before_and_after
    a_file_that_grows_and_is_truncated_stays_mapped
    holes_punched_while_the_guest_runs_read_as_zeros
    the_guests_code_punched_away_ends_the_vm_at_most
    hugetlb_memory_without_pages_ends_the_vm_at_most
    memory_taken_from_under_the_guest_ends_the_vm_at_most
}

const PAGE: u64 = 0x1000;
const AT: u64 = 0x8000;

fn each_number_at_its_extremes(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} create.memory at extremes", backend.name()));
    let memory = sealed_memfd(4 * PAGE);
    let round = |counters: &mut Counters| {
        for id in [0, 1, u32::MAX] {
            for at in 0..3 {
                for extreme in EXTREMES {
                    for flags in 0..4 {
                        let mut numbers = [0, AT, PAGE];
                        numbers[at] = extreme;
                        let [offset, start, length] = numbers;
                        let (read_only, dirty_log) = (flags & 1 != 0, flags & 2 != 0);
                        let create = request::create_memory(id, Memory { offset, start, length, read_only, dirty_log });
                        let answer = driven.main.ask_with(&create, &[memory.as_fd()]);
                        let is_fine = offset % PAGE == 0
                            && start % PAGE == 0
                            && length % PAGE == 0
                            && length > 0
                            && offset.checked_add(length).is_some_and(|end| end <= 4 * PAGE)
                            // Where guest-physical addresses end is the kernel's affair.
                            && start.checked_add(length).is_some_and(|end| end <= 1 << 36);
                        if is_fine {
                            assert_eq!(answer.errno, 0, "{create:?}");
                        } else if start < 1 << 36 {
                            assert_ne!(answer.errno, 0, "{create:?}");
                        }
                        driven.main.ask(&request::destroy(id));
                        counters.count();
                    }
                }
            }
        }
    };
    round(&mut counters);
    let before = driven.resources();
    round(&mut counters);
    driven.assert_holds_no_more_than(before, "create.memory at extremes");
    driven.assert_alive();
    driven.finish();
}

fn memory_that_comes_and_goes_leaves_nothing(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} memory that comes and goes", backend.name()));
    let memory = sealed_memfd(PAGE);
    let before = driven.resources();
    for _ in 0..5 {
        for id in 0..200 {
            let create = request::create_memory(id, Memory::new(AT + u64::from(id) * PAGE, PAGE));
            driven.main.done_with(&create, &[memory.as_fd()]);
            driven.main.refused_with(&create, &[memory.as_fd()], Errno::EXIST);
            counters.count();
        }
        for id in (0..200).rev() {
            driven.main.done(&request::destroy(id));
            driven.main.refused(&request::destroy(id), Errno::NOENT);
        }
    }
    driven.assert_holds_no_more_than(before, "memory that comes and goes");
    driven.finish();
}

fn memfd(length: u64, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, length).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

/// A seal that does not fit the mapping is refused to one side or the other; which depends on who comes first.
fn seals_of_all_kinds_before_and_after(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} seals", backend.name()));
    let all = [SealFlags::SEAL, SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE, SealFlags::FUTURE_WRITE];
    let combine = |bits: u32| {
        let chosen = (0..).zip(all).filter(|(bit, _)| bits >> bit & 1 != 0);
        chosen.fold(SealFlags::empty(), |seals, (_, seal)| seals | seal)
    };
    let before = driven.resources();
    for bits in 0..32 {
        for read_only in [false, true] {
            let create = request::create_memory(5, Memory { read_only, ..Memory::new(AT, PAGE) });
            let answer = driven.main.ask_with(&create, &[memfd(PAGE, combine(bits)).as_fd()]);
            if !combine(bits).contains(SealFlags::SHRINK) {
                assert_eq!(answer.errno, i64::from(Errno::PERM.raw_os_error()), "{:?}", combine(bits));
            }
            driven.main.ask(&request::destroy(5));
            let later = memfd(PAGE, SealFlags::SHRINK);
            driven.main.done_with(&create, &[later.as_fd()]);
            let _ = fcntl_add_seals(&later, combine(bits));
            driven.main.done(&request::destroy(5));
            counters.count();
        }
    }
    driven.assert_holds_no_more_than(before, "seals");
    driven.assert_alive();
    driven.finish();
}

fn a_file_that_grows_and_is_truncated_stays_mapped(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().load(0x8000, 4).output(0x10, 4).forever());
    let memory = sealed_memfd(2 * PAGE);
    driven.main.done_with(&request::create_memory(5, Memory::new(AT, 2 * PAGE)), &[memory.as_fd()]);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    for round in 1..20 {
        write_at(&memory, 0, &[round; 4]);
        ftruncate(&memory, u64::from(round) * 16 * PAGE).unwrap();
        assert_eq!(ftruncate(&memory, PAGE), Err(Errno::PERM));
        vcpu.await_io();
        vcpu.resume();
    }
    driven.finish();
}

fn holes_punched_while_the_guest_runs_read_as_zeros(backend: Backend) {
    let program =
        Program::new().mov(0x1111_1111).store(0x8000, 4).output(0x10, 4).load(0x8000, 4).output(0x11, 4).forever();
    let driven = Driven::new(backend, &program);
    let mut counters = Counters::new(format!("{} holes punched", backend.name()));
    let memory = sealed_memfd(2 * PAGE);
    driven.main.done_with(&request::create_memory(5, Memory::new(AT, 2 * PAGE)), &[memory.as_fd()]);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 4)]);
    let mut before = None;
    for _ in 0..200 {
        vcpu.await_io();
        // KVM makes a thread for a VM's own use when it first runs.
        before.get_or_insert_with(|| driven.resources());
        assert_eq!(read_at(&memory, 0, 4), [0x11; 4]);
        fallocate(&memory, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 2 * PAGE).unwrap();
        vcpu.resume();
        assert_eq!(vcpu.await_io().data, [0; 4]);
        vcpu.resume();
        counters.count();
    }
    driven.assert_holds_no_more_than(before.unwrap(), "holes punched");
    driven.finish();
}

/// The guest then executes zeros, which is its own affair.
fn the_guests_code_punched_away_ends_the_vm_at_most(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    let mut vcpu = driven.main.vcpus().pop().unwrap();
    driven.main.done(&request::reserve(IOPORT, 0x10, 1));
    let ram = driven.load();
    driven.main.done(&request::start());
    vcpu.await_init();
    vcpu.boot(RAM_START);
    vcpu.resume();
    vcpu.await_io();
    fallocate(&ram, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, RAM_LEN).unwrap();
    vcpu.resume();
    driven.assert_alive();
    driven.relay.command("exit 0");
    let ended = driven.end_soon();
    assert!(matches!(ended.code, Some(0 | 1)), "{ended:#?}");
}

/// Nobody has pages for it, and none were reserved: who touches it gets SIGBUS.
fn hugetlb_memory_without_pages_ends_the_vm_at_most(backend: Backend) {
    const HUGE: u64 = 2 << 20;
    // Far more than any machine that runs this has free.
    const LENGTH: u64 = HUGE << 18;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let memory = memfd_create("huge", flags).and_then(|memory| {
        ftruncate(&memory, LENGTH)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK)?;
        Ok(memory)
    });
    let memory = match memory {
        Ok(memory) => memory,
        Err(errno) => {
            let test = format!("hugetlb_memory_without_pages_ends_the_vm_at_most on {}", backend.name());
            return test_utils::kvm::skipped(&test, &format!("no hugetlb memfd: {errno}"));
        }
    };
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).load(0x8000, 1).store(0x8000, 1).output(0x10, 1));
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpu.await_io();
    // The last pages: if there are any at all, these are not.
    let memory_at_end = Memory { offset: LENGTH - HUGE, ..Memory::new(AT, HUGE) };
    let answer = driven.main.ask_with(&request::create_memory(5, memory_at_end), &[memory.as_fd()]);
    if backend == Backend::Mock {
        assert_eq!(answer.errno, i64::from(Errno::INVAL.raw_os_error()), "the mock touches guest memory itself");
    }
    vcpu.resume();
    if answer.errno != 0 {
        vcpu.await_io();
        driven.finish();
    } else {
        // KVM's emulator takes what it cannot read for nobody's; a guest that runs natively cannot go on.
        driven.assert_alive();
        driven.relay.command("exit 0");
        let ended = driven.end_soon();
        assert!(matches!(ended.code, Some(0 | 1)), "{ended:#?}");
    }
}

fn memory_taken_from_under_the_guest_ends_the_vm_at_most(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpu.await_io();
    driven.main.done(&request::destroy(crate::common::RAM_ID));
    vcpu.resume();
    // Where there is no memory there is nothing to execute.
    driven.obey(&event).assert_logged(&["ERROR", "internal error"]);
}
