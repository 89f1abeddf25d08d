//! What a plugin can do to the rings that it shares with the VMM: each side writes into memory that the other reads.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate};
use rustix::io::Errno;
use rustix::process::Signal;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_ring::{
    MORE, PROCESSOR, Record, RingMemory, SIZE, SLOTS, TO_PLUGIN, TO_VMM, WITH_DEBUGREGS, WITH_REGS, WITH_SREGS, kind,
};
use test_utils::raw::{self, VcpuRing, vcpu_request};

use crate::common::{Backend, Counters, Driven, Span, in_parallel, on_each_backend};
use crate::samples::{in_other_clothes, vcpu_requests};
use crate::{mutated, splitmix};

on_each_backend! {
    scribbling_over_all_of_it_while_the_guest_runs
    stamps_of_other_records_are_no_records
    bad_records_end_the_vm_and_are_named
    a_record_without_end_ends_the_vm
    a_record_of_nothing_that_goes_on_ends_the_vm
    requests_in_other_clothes_and_changed_at_random
    a_reader_that_lies_about_where_it_is
    sleep_words_that_lie
    a_plugin_that_lies_about_its_processor
    the_memory_can_neither_shrink_nor_grow_and_holes_do_no_harm
    a_plugin_that_dies_is_noticed_asleep_and_looking
    a_plugin_that_stops_is_noticed_asleep_and_looking
    resumes_without_end_leave_nothing
    refused_requests_do_not_put_off_the_end_of_an_exits_time
}

/// A guest that posts, writes, and reads.
fn talking(backend: Backend, options: &[&str]) -> (Driven, Vec<VcpuRing>, OwnedFd) {
    let program = Program::new().output(0x30, 1).output(0x10, 1).input(0x11, 1).forever();
    let driven = Driven::with(backend, &program, options);
    let rings = driven.rings(&[request::reserve(IOPORT, 0x10, 2), request::reserve_posted(IOPORT, 0x30, 1)]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    (driven, rings, event)
}

fn at_exit(backend: Backend) -> (Driven, VcpuRing, OwnedFd) {
    let (driven, mut rings, event) = talking(backend, &[]);
    let mut ring = rings.pop().unwrap();
    ring.expect(kind::POSTED);
    ring.expect(kind::WRITE);
    (driven, ring, event)
}

/// Lets the plugin exit with 0: the VMM must end soon, and well or with an error that tells.
fn end_well_or_with_an_error(driven: Driven, event: &OwnedFd, what: &dyn std::fmt::Debug) {
    if !raw::readable_within(event, Duration::ZERO) {
        driven.assert_alive();
    }
    driven.relay.command("exit 0");
    let ended = driven.end_soon();
    match ended.code {
        Some(0) => {}
        _ => drop(ended.assert_failure(&["vCPU", "relay"])),
    }
    assert!(matches!(ended.code, Some(0 | 1)), "{what:?}: {ended:#?}");
}

/// Writes something somewhere, which may be nonsense or look like a position or a record.
fn scribble(memory: &RingMemory, written: u32, random: &mut u64) {
    let number = splitmix(random);
    let at = splitmix(random) as usize;
    let words = [TO_PLUGIN, TO_VMM].map(|ring| [ring.head, ring.reader_sleeps, ring.writer_sleeps, ring.closed]);
    let word = words[at % 2][at / 2 % 4];
    match number % 8 {
        0 => memory.word(at % (SIZE / 4) * 4).store((number >> 8) as u32, Ordering::SeqCst),
        1 => memory.long(at % (SIZE / 8) * 8).store(splitmix(random), Ordering::SeqCst),
        2 => memory.word(word).store((number >> 8) as u32, Ordering::SeqCst),
        3 => memory.word(word).store((number >> 8) as u32 % 3, Ordering::SeqCst),
        4 => drop(memory.word(word).fetch_add((number >> 8) as u32 % SLOTS, Ordering::SeqCst)),
        5 => drop(memory.word(word).fetch_xor(1 << (number >> 8 & 31), Ordering::SeqCst)),
        _ => {
            // A record to the VMM, here or near where it expects one.
            let record = written.wrapping_add(at as u32 % 4);
            let slot = TO_VMM.slot(record);
            let (kind, flags) = ((number >> 8) % 4, (number >> 16) & 0xff);
            let length = if number >> 24 & 3 == 0 { number >> 32 } else { (number >> 32) % 1024 };
            memory.word(slot + 8).store(length as u32, Ordering::SeqCst);
            memory.word(slot + 12).store((number >> 48) as u32 % 5000, Ordering::SeqCst);
            let stamp = u64::from(record.wrapping_add(1));
            memory.long(slot).store(stamp | kind << 32 | flags << 48, Ordering::SeqCst);
        }
    }
    for ring in [TO_PLUGIN, TO_VMM] {
        memory.wake(ring.reader_sleeps);
        memory.wake(ring.writer_sleeps);
    }
}

fn scribbling_over_all_of_it_while_the_guest_runs(backend: Backend) {
    let mut counters = Counters::new(format!("{} scribbles over rings", backend.name()));
    const MACHINES: u64 = 24;
    const SCRIBBLES: usize = 400;
    (0..MACHINES as usize * SCRIBBLES).for_each(|_| counters.count());
    in_parallel(0..MACHINES, |seed| {
        let mut random = seed;
        let poll = if seed % 2 == 0 { "0" } else { "1000" };
        let (driven, rings, event) = talking(backend, &["-c", "2", "--poll-us", poll]);
        let mut written = [rings[0].written(), rings[1].written()];
        for round in 0..SCRIBBLES {
            let (ring, written) = (&rings[round % 2], &mut written[round % 2]);
            scribble(ring.memory(), *written, &mut random);
            // Among it, what lets the guest go on.
            if round % 3 == 0 {
                let slot = TO_VMM.slot(*written);
                (1..8).for_each(|index| ring.memory().long(slot + index * 8).store(0, Ordering::SeqCst));
                *written = written.wrapping_add(1);
                let first = u64::from(*written) | u64::from(kind::RESUME) << 32;
                ring.memory().long(slot).store(first, Ordering::SeqCst);
                ring.memory().wake(TO_VMM.reader_sleeps);
            }
        }
        end_well_or_with_an_error(driven, &event, &seed);
    });
}

fn stamps_of_other_records_are_no_records(backend: Backend) {
    let mut counters = Counters::new(format!("{} wrong stamps", backend.name()));
    let (driven, mut ring, _event) = at_exit(backend);
    let slot = TO_VMM.slot(ring.written());
    let due = ring.written().wrapping_add(1);
    for stamp in [0, due - 1, due + 1, due + SLOTS, due.wrapping_sub(SLOTS), due | 1 << 31, u32::MAX] {
        ring.memory().long(slot).store(u64::from(stamp) | u64::from(u16::MAX) << 32, Ordering::SeqCst);
        ring.memory().word(TO_VMM.reader_sleeps).store(0, Ordering::SeqCst);
        ring.memory().wake(TO_VMM.reader_sleeps);
        driven.assert_alive();
        assert!(!ring.has_record_within(Duration::from_millis(2)));
        counters.count();
    }
    ring.resume();
    ring.expect(kind::READ);
    driven.finish();
}

fn bad_records_end_the_vm_and_are_named(backend: Backend) {
    let mut counters = Counters::new(format!("{} bad records", backend.name()));
    // What the slot holds, and how many bytes of payload there are.
    let mut cases: Vec<([u64; 8], usize, &str)> = Vec::new();
    for kind in [0, 3, 4, 8, 0xff, 1 << 15, u16::MAX] {
        cases.push((Record { kind, ..Record::default() }.longs(0), 0, "unknown kind"));
    }
    for length in [0x4001, 0x8000, 0x4_0001, 1 << 31, u32::MAX - 63, u32::MAX] {
        let request = Record { kind: kind::REQUEST, ..Record::default() };
        cases.push((request.longs(length), 0, "a ring's record of kind 2"));
    }
    for (flags, data, payload) in [
        // More data than an access has; data that is not there; what nobody asked for.
        (0, 4097, 4104),
        (0, u32::MAX, 0),
        (0, 41, 0),
        (0, 41, 40),
        (0, 41, 56),
        (0, 0, 8),
        (0, 1, 144),
        // Registers that are not there, not whole, or too many.
        (WITH_REGS, 0, 0),
        (WITH_REGS, 0, 136),
        (WITH_REGS, 0, 152),
        (WITH_SREGS, 0, 144),
        (WITH_REGS | WITH_SREGS, 0, 144),
        (WITH_REGS | WITH_SREGS | WITH_DEBUGREGS, 0, 144 + 312),
        (WITH_DEBUGREGS, 41, 128),
    ] {
        let record = Record { kind: kind::RESUME, flags, data, ..Record::default() };
        cases.push((record.longs(payload as u32), payload, "a ring's record of kind 1"));
    }
    // A request that does not decode.
    cases.push((Record { kind: kind::REQUEST, ..Record::default() }.longs(3), 3, "VcpuRequest"));
    cases.iter().for_each(|_| counters.count());
    in_parallel(cases, |(longs, payload, named)| {
        let (driven, mut ring, event) = at_exit(backend);
        ring.write(longs, &vec![0x0b; payload]);
        assert!(raw::readable_within(&event, raw::LIMIT), "not told to exit: {longs:02x?}");
        driven.relay.command("exit 0");
        driven.end_soon().assert_failure(&["vCPU 0", "relay", named]);
    });
}

/// A record that goes on and on is too long at some time.
fn a_record_without_end_ends_the_vm(backend: Backend) {
    let (driven, mut ring, event) = at_exit(backend);
    let part = Record { kind: kind::REQUEST, flags: MORE, ..Record::default() };
    for _ in 0..=16 {
        ring.write(part.longs(0x4000), &[0; 0x4000]);
    }
    assert!(raw::readable_within(&event, raw::LIMIT), "not told to exit");
    driven.relay.command("exit 0");
    driven.end_soon().assert_failure(&["vCPU 0", "relay", "a ring's record of kind 2"]);
}

/// Only what fills a slot's share of the payload goes on, so that a record ends at some time.
fn a_record_of_nothing_that_goes_on_ends_the_vm(backend: Backend) {
    for length in [0, 8, 0x3ff8] {
        let (driven, mut ring, event) = at_exit(backend);
        let part = Record { kind: kind::REQUEST, flags: MORE, ..Record::default() };
        ring.write(part.longs(length), &vec![0; length as usize]);
        assert!(raw::readable_within(&event, raw::LIMIT), "not told to exit");
        driven.relay.command("exit 0");
        driven.end_soon().assert_failure(&["vCPU 0", "relay", "a ring's record of kind 2"]);
    }
}

/// Each is answered, or ends the vCPU and with it the VM.
fn requests_in_other_clothes_and_changed_at_random(backend: Backend) {
    // Pipes carry all of these; the rings' part in it is small.
    let mut cases: Vec<_> = vcpu_requests().iter().flat_map(in_other_clothes).step_by(4).collect();
    let mut random = 0x7269_6e67_u64;
    let requests = vcpu_requests();
    let change = |_| mutated(requests[splitmix(&mut random) as usize % requests.len()].as_bytes(), &mut random);
    cases.extend((0..80).map(change));
    let mut counters = Counters::new(format!("{} requests over rings in other clothes", backend.name()));
    cases.iter().for_each(|_| counters.count());
    // One VM takes all, a new one each time one has ended.
    let cases = std::sync::Mutex::new(cases.into_iter());
    let take = || cases.lock().unwrap().next();
    in_parallel(0..4, |_| {
        while let Some(case) = take() {
            let (driven, mut ring, event) = at_exit(backend);
            let mut next = Some(case);
            let mut sent = Vec::new();
            while let Some(case) = next {
                ring.send(&Record { kind: kind::REQUEST, payload: case.clone(), ..Record::default() });
                sent = case;
                test_utils::wait::until("there is an answer or an end", || {
                    ring.has_record_within(Duration::from_millis(20)) || raw::readable_within(&event, Duration::ZERO)
                });
                if raw::readable_within(&event, Duration::ZERO) {
                    break;
                }
                // An answer, or, where it was a resume in other clothes, the next exit.
                ring.receive().unwrap_or_else(|| panic!("the ring ended: {sent:02x?}"));
                next = take();
            }
            end_well_or_with_an_error(driven, &event, &sent);
        }
    });
}

/// The VMM looks where its reader is only when it has no room; then an impossible place is a fault.
fn a_reader_that_lies_about_where_it_is(backend: Backend) {
    let mut counters = Counters::new(format!("{} readers that lie", backend.name()));
    // Ahead of the writer, far ahead, before the beginning.
    let lies = [SLOTS * 2, 1 << 20, 1 << 31, u32::MAX];
    lies.iter().for_each(|_| counters.count());
    in_parallel(lies, |lie| {
        let driven = Driven::new(backend, &Program::new().output(0x30, 1).forever());
        let ring = driven.ring(&[request::reserve_posted(IOPORT, 0x30, 1)]);
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        ring.memory().word(TO_PLUGIN.head).store(lie, Ordering::SeqCst);
        ring.memory().word(TO_PLUGIN.writer_sleeps).store(0, Ordering::SeqCst);
        ring.memory().wake(TO_PLUGIN.writer_sleeps);
        assert!(raw::readable_within(&event, raw::LIMIT), "not told to exit: {lie:#x}");
        driven.relay.command("exit 0");
        driven.end_soon().assert_failure(&["vCPU 0", "relay", "a ring's index jumped"]);
    });
}

/// They cost the VMM a call without success, or the plugin a wake-up; a VMM that sleeps ends when it is told to.
fn sleep_words_that_lie(backend: Backend) {
    let mut counters = Counters::new(format!("{} sleep words that lie", backend.name()));
    for value in [0, 1, 2, u32::MAX] {
        let (driven, mut rings, event) = talking(backend, &["--poll-us", "0"]);
        let mut ring = rings.pop().unwrap();
        for round in 0..50 {
            for words in [TO_PLUGIN, TO_VMM] {
                ring.memory().word(words.reader_sleeps).store(value, Ordering::SeqCst);
                ring.memory().word(words.writer_sleeps).store(value, Ordering::SeqCst);
            }
            ring.expect(kind::POSTED);
            ring.await_access();
            ring.resume();
            // The VMM may have gone to sleep, and its word may say that it has not.
            ring.memory().wake(TO_VMM.reader_sleeps);
            ring.await_access();
            ring.answer(&[round]);
            ring.memory().wake(TO_VMM.reader_sleeps);
            counters.count();
        }
        driven.signal(Signal::TERM);
        driven.obey(&event).assert_success().assert_took(Duration::ZERO..Duration::from_secs(10));
    }
}

/// A vCPU's thread may go where the plugin says it is, but stays as free as it was.
fn a_plugin_that_lies_about_its_processor(backend: Backend) {
    let mut counters = Counters::new(format!("{} wrong processors", backend.name()));
    // As many as there may be: more than have processors.
    let (driven, mut rings, event) = talking(backend, &["-c", "64"]);
    let ring = &mut rings[0];
    ring.expect(kind::POSTED);
    ring.await_access();
    let lies = [0, 1, 2, 3, 64, 1023, 1024, 1025, 1 << 31, u32::MAX];
    for lie in lies.iter().cycle().take(1000) {
        ring.memory().word(PROCESSOR).store(*lie, Ordering::SeqCst);
        ring.resume();
        ring.await_access();
        ring.answer(&[1]);
        ring.expect(kind::POSTED);
        ring.await_access();
        counters.count();
    }
    let pid = driven.running.pid().as_raw_nonzero();
    let allowed = |thread: &Path| {
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        status.lines().find(|line| line.starts_with("Cpus_allowed:")).unwrap().to_owned()
    };
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|thread| thread.unwrap().path());
    let masks: BTreeSet<_> = threads.map(|thread| allowed(&thread)).collect();
    assert_eq!(masks, BTreeSet::from([allowed(Path::new("/proc/self"))]));
    driven.signal(Signal::TERM);
    driven.obey(&event).assert_success();
}

fn the_memory_can_neither_shrink_nor_grow_and_holes_do_no_harm(backend: Backend) {
    let mut counters = Counters::new(format!("{} holes in rings", backend.name()));
    for (offset, length) in [(0, SIZE), (0, 0x1000), (TO_PLUGIN.slots, 0xc000), (TO_VMM.slots, 0xc000)] {
        let (driven, mut ring, event) = at_exit(backend);
        let memfd = ring.memory().memfd();
        for size in [0, 0x1000, SIZE as u64 - 1, SIZE as u64 + 1, 1 << 20] {
            assert_eq!(ftruncate(memfd, size), Err(Errno::PERM));
        }
        assert_eq!(fcntl_add_seals(memfd, SealFlags::WRITE), Err(Errno::PERM));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(memfd, flags, offset as u64, length as u64).unwrap();
        // Only what nobody needs any more is gone, but for the words, which are zeros now.
        ring.memory().wake(TO_VMM.reader_sleeps);
        ring.resume();
        ring.expect(kind::READ);
        end_well_or_with_an_error(driven, &event, &(offset, length));
        counters.count();
    }
}

fn a_plugin_that_dies_is_noticed_asleep_and_looking(backend: Backend) {
    let mut counters = Counters::new(format!("{} plugins that die on rings", backend.name()));
    let cases: Vec<_> = ["0", "10000"]
        .into_iter()
        .flat_map(|poll| (0..4).map(move |moment| (poll, moment)))
        .flat_map(|(poll, moment)| ["kill 9", "exit 3"].map(|how| (poll, moment, how)))
        .collect();
    cases.iter().for_each(|_| counters.count());
    in_parallel(cases, |(poll, moment, how)| {
        let (driven, mut rings, _event) = talking(backend, &["-c", "2", "--poll-us", poll]);
        for ring in &mut rings {
            match moment {
                // Before anything was read, in a write, in a read, within a record.
                0 => {}
                1 => drop(ring.receive()),
                2 => {
                    ring.expect(kind::POSTED);
                    ring.await_access();
                    ring.resume();
                    ring.await_access();
                }
                _ => ring.write(
                    Record { kind: kind::REQUEST, flags: MORE, ..Record::default() }.longs(0x4000),
                    &[0; 0x4000],
                ),
            }
        }
        driven.relay.command(how);
        let named = if how == "exit 3" { "code 3" } else { "SIGKILL" };
        driven.end_soon().assert_failure(&["relay", named]);
    });
}

fn a_plugin_that_stops_is_noticed_asleep_and_looking(backend: Backend) {
    let mut counters = Counters::new(format!("{} plugins that stop on rings", backend.name()));
    let cases = ["0", "10000"].into_iter().flat_map(|poll| [(poll, true), (poll, false)]);
    in_parallel(cases.clone().collect::<Vec<_>>(), |(poll, has_limit)| {
        let limit: &[&str] = if has_limit { &["--exit-timeout", "0.5"] } else { &[] };
        let (driven, mut rings, event) = talking(backend, &[&["--poll-us", poll], limit].concat());
        rings[0].expect(kind::POSTED);
        rings[0].await_access();
        driven.relay.signal(Signal::STOP);
        let begun = Span::begin();
        if has_limit {
            // Told of by itself, within the limit and what a plugin has to obey.
            assert!(raw::readable_within(&event, raw::LIMIT) && begun.is_within(Duration::from_secs(2)), "not noticed");
            let ended = driven.end();
            ended.assert_failure(&["relay", "did not answer", "in time"]);
        } else {
            driven.signal(Signal::TERM);
            let ended = driven.end();
            ended.assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["relay", "did not exit in time"]);
            ended.assert_took(Duration::from_secs(2)..Duration::from_secs(5));
        }
    });
    cases.for_each(|_| counters.count());
}

fn resumes_without_end_leave_nothing(backend: Backend) {
    let (driven, mut ring, _event) = at_exit(backend);
    let mut counters = Counters::new(format!("{} resumes over a ring", backend.name()));
    let mut before = None;
    for round in 0..1000_u32 {
        let data = vec![round as u8; [0, 1, 2, 40, 41, 100, 4096][round as usize % 7]];
        let mut payload = if data.len() > 40 { data.clone() } else { Vec::new() };
        payload.resize(payload.len().next_multiple_of(8), 0);
        ring.send(&Record { kind: kind::RESUME, data: data.len() as u32, payload, ..Record::default() });
        while ring.receive().unwrap().kind == kind::POSTED {}
        // KVM makes a thread for a VM's own use when it first runs.
        before.get_or_insert_with(|| driven.resources());
        counters.count();
    }
    driven.assert_holds_no_more_than(before.unwrap(), "resumes over a ring");
    driven.finish();
}

fn refused_requests_do_not_put_off_the_end_of_an_exits_time(backend: Backend) {
    let (driven, mut rings, event) = talking(backend, &["--exit-timeout", "0.3"]);
    let ring = &mut rings[0];
    ring.expect(kind::POSTED);
    ring.expect(kind::WRITE);
    let end = Instant::now() + raw::LIMIT;
    while !raw::readable_within(&event, Duration::ZERO) {
        assert!(Instant::now() < end, "the VMM refuses without end");
        ring.send(&Record::request(&vcpu_request::wait()));
        if ring.has_record_within(Duration::from_millis(100)) {
            ring.receive();
        }
    }
    driven.relay.command("exit 0");
    driven.end_soon().assert_failure(&["vCPU 0", "write of 1 bytes at 0x10", "relay"]);
}
