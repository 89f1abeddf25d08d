//! A plugin that asks for more than there is: of the VMM's time, descriptors, threads and addresses.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use test_utils::guest::Program;
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, Memory};
use test_utils::raw::{MainSocket, Message, Wait};

use crate::common::{Backend, Driven, Span, Tally, on_each_backend};

on_each_backend! {
    costly_requests_left_behind_do_not_keep_the_vmm
    costly_requests_do_not_keep_the_vmm_from_killing_its_plugin
    costly_requests_get_a_fifth_of_a_processor_and_pauses_come
    without_descriptors_requests_fail_and_leave_nothing
    without_descriptors_for_the_vcpus_the_vm_ends
    without_threads_for_the_vcpus_the_vm_ends
    memory_beyond_all_measure_is_refused
    memory_beyond_the_quota_is_refused
    memory_beyond_the_hosts_is_refused_by_default
    a_dirty_log_longer_than_a_response_is_refused
}

const PAGE: u64 = 0x1000;
const GIGABYTE: u64 = 1 << 30;
/// Whatever the host has.
const MUCH_MEMORY: [&str; 2] = ["--max-memory", "1T"];

/// For those whose descriptors under way are too many for two at once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives 60 connections requests that cost much, while the VMM is stopped; where it is continued it finds them all. Their
/// memfds are under way until then, which count against every process of the test's user, so there are some 7,000 at most.
fn with_costly_requests(driven: &Driven, tally: &mut Tally, then: impl FnOnce()) -> Vec<MainSocket> {
    let connections: Vec<_> = (0..60).map(|_| driven.connect()).collect();
    let memory = sealed_memfd(7 * GIGABYTE);
    driven.signal(Signal::STOP);
    for (connection, id) in connections.iter().zip(1..) {
        let create = Memory { dirty_log: true, ..Memory::new(u64::from(id) * 8 * GIGABYTE, 7 * GIGABYTE) };
        let create = request::create_memory(id, create);
        let destroy = request::destroy(id);
        for _ in 0..120 {
            for (request, fds) in [(&create, &[memory.as_fd()][..]), (&destroy, &[])] {
                connection.send_at_once(request.as_bytes(), fds).unwrap();
                tally.count();
            }
        }
    }
    then();
    driven.signal(Signal::CONT);
    connections
}

fn costly_requests_left_behind_do_not_keep_the_vmm(backend: Backend) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let driven = Driven::with(backend, &Program::new(), &MUCH_MEMORY);
    let mut tally = Tally::new(format!("{} costly requests left behind", backend.name()));
    let _connections = with_costly_requests(&driven, &mut tally, || driven.relay.command("exit 0"));
    let begun = Span::begin();
    driven.end().assert_success();
    // All of them take 7 s or more.
    assert!(begun.is_within(Duration::from_secs(5)), "{:?}", begun.elapsed());
}

fn costly_requests_do_not_keep_the_vmm_from_killing_its_plugin(backend: Backend) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let driven = Driven::with(backend, &Program::new(), &MUCH_MEMORY);
    let mut tally = Tally::new(format!("{} costly requests before the end", backend.name()));
    let _connections = with_costly_requests(&driven, &mut tally, || driven.signal(Signal::TERM));
    let begun = Span::begin();
    driven.end().assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["did not exit in time"]);
    assert!(begun.is_within(Duration::from_secs(10)), "{:?}", begun.elapsed());
}

/// Processor time of the VMM's first thread, which serves main requests.
fn supervisors_time(driven: &Driven) -> Duration {
    let pid = driven.running.pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn costly_requests_get_a_fifth_of_a_processor_and_pauses_come(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--max-memory", "8G"]);
    let mut tally = Tally::new(format!("{} costly requests, and pauses", backend.name()));
    let mut vcpu = driven.running_one(&[]);
    let connection = driven.connect();
    let memory = sealed_memfd(7 * GIGABYTE);
    let create = request::create_memory(7, Memory::new(GIGABYTE, 7 * GIGABYTE));
    let destroy = request::destroy(7);
    let (begun, before) = (Instant::now(), supervisors_time(&driven));
    let requests = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut requests = 0;
            while begun.elapsed() < Duration::from_secs(4) {
                connection.done_with(&create, &[memory.as_fd()]);
                connection.done(&destroy);
                requests += 2;
            }
            requests
        });
        while !flood.is_finished() {
            driven.main.done(&request::pause(1, 3));
            assert_eq!(vcpu.await_exit(), Wait::User(3));
            vcpu.resume();
            tally.count();
            std::thread::sleep(Duration::from_millis(20));
        }
        flood.join().unwrap()
    });
    let (took, used) = (begun.elapsed(), supervisors_time(&driven) - before);
    // What a bucket begins with for 8 GiB, what it fills with, 20 microseconds a request for nothing, and as much for the rest
    // of it in a build without optimisation; pauses; and the last request, which is not cut.
    let most =
        Duration::from_millis(580) + took / 5 + Duration::from_micros(200) * requests + Duration::from_millis(500);
    assert!(used < most, "{used:?} of {took:?} for {requests} requests");
    driven.signal(Signal::TERM);
    driven.end().assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["did not exit in time"]);
}

/// Takes a limit down and, when dropped, up again.
struct Limited {
    pid: Pid,
    resource: Resource,
    before: Rlimit,
}

impl Limited {
    fn new(driven: &Driven, resource: Resource, most: u64) -> Self {
        let pid = driven.running.pid();
        let before = rlimit(pid, resource);
        prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: before.maximum }).unwrap();
        Self { pid, resource, before }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The VMM may have ended.
        let _ = prlimit(Some(self.pid), self.resource, self.before);
    }
}

fn rlimit(pid: Pid, resource: Resource) -> Rlimit {
    let named = match resource {
        Resource::Nofile => "Max open files",
        _ => "Max address space",
    };
    // prlimit tells the old one only where it sets a new one.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(named)).unwrap();
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    Rlimit { current: numbers.next().unwrap(), maximum: numbers.next().unwrap() }
}

/// Lets the VMM open nothing more: a limit holds for new descriptors, of which the lowest is taken.
fn without_descriptors(driven: &Driven) -> Limited {
    // What the VMM handed over it closes after its answer, but before the next.
    driven.main.done(&request::set_irq(5, false));
    let open = |fd: &u64| std::fs::symlink_metadata(format!("/proc/{}/fd/{fd}", driven.running.pid())).is_ok();
    let lowest_free = (0..).find(|fd| !open(fd)).unwrap();
    Limited::new(driven, Resource::Nofile, lowest_free)
}

fn without_descriptors_requests_fail_and_leave_nothing(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut tally = Tally::new(format!("{} requests without descriptors", backend.name()));
    let memory = sealed_memfd(PAGE);
    let create = request::create_memory(1000, Memory::new(0, PAGE));
    let other = driven.connect();
    let before = driven.resources();
    let limited = without_descriptors(&driven);
    let refused = |request: &Message, tally: &mut Tally| {
        driven.main.refused(request, Errno::MFILE);
        tally.count();
    };
    for round in 0..3 {
        refused(&request::create_irq_event(1, 5, true), &mut tally);
        refused(&request::create_io_event(2, request::IOPORT, 0x70, 1, 0), &mut tally);
        refused(&request::new_connection(), &mut tally);
        refused(&request::get_vcpus(), &mut tally);
        refused(&request::get_shutdown_eventfd(), &mut tally);
        // What needs none is served.
        driven.main.done(&request::set_irq(5, round & 1 == 0));
    }
    // The descriptor never arrives, so there is nothing to answer.
    other.send(create.as_bytes(), &[memory.as_fd()]).unwrap();
    other.assert_hung_up();
    drop(limited);
    driven.assert_alive();
    for id in [1, 2, 1000] {
        driven.main.refused(&request::destroy(id), Errno::NOENT);
    }
    driven.assert_holds_no_more_than(before, "requests without descriptors");
    driven.main.done_with(&create, &[memory.as_fd()]);
    driven.finish().assert_logged(&["dropped", "Too many open files"]);
}

fn without_descriptors_for_the_vcpus_the_vm_ends(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "4"]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    let _limited = without_descriptors(&driven);
    driven.main.done(&request::start());
    let refused = match backend {
        Backend::Kvm => "KVM_CREATE_VCPU",
        // By which a halted vCPU is woken.
        Backend::Mock => "eventfd2",
    };
    driven.obey(&event).assert_failure(&[refused, "Too many open files"]);
}

fn without_threads_for_the_vcpus_the_vm_ends(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["-c", "4"]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", driven.running.pid())).unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    // No room for a thread's stack, but for what else it maps.
    let _limited = Limited::new(&driven, Resource::As, pages * PAGE + 0x10_0000);
    driven.main.done(&request::start());
    driven.obey(&event).assert_failure(&["thread", "vCPU 0"]);
}

fn memory_beyond_all_measure_is_refused(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--max-memory", "16777215T"]);
    let mut tally = Tally::new(format!("{} memories beyond all measure", backend.name()));
    let before = driven.resources();
    // KVM counts the pages of a memory with 31 bits.
    let most = ((1 << 31) - 1) * PAGE;
    for length in [most + PAGE, 1 << 45, 1 << 62] {
        let memory = sealed_memfd(length);
        for dirty_log in [false, true] {
            let create = request::create_memory(1, Memory { dirty_log, ..Memory::new(0, length) });
            let errno = driven.main.ask_with(&create, &[memory.as_fd()]).errno;
            let expected = [Errno::INVAL, Errno::NOMEM].map(|errno| i64::from(errno.raw_os_error()));
            assert!(expected.contains(&errno), "{length:#x}: {errno}");
            tally.count();
        }
    }
    driven.assert_holds_no_more_than(before, "memories beyond all measure");
    driven.assert_alive();
    driven.finish();
}

fn memory_beyond_the_quota_is_refused(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--max-memory", "1G"]);
    let memory = sealed_memfd(GIGABYTE);
    let create = |id: u32, start, length| request::create_memory(id, Memory::new(start, length));
    driven.main.done_with(&create(1, 0, GIGABYTE - PAGE), &[memory.as_fd()]);
    let refused = |request: &Message| {
        let errno = driven.main.ask_with(request, &[memory.as_fd()]).errno;
        assert_eq!(errno, i64::from(Errno::NOMEM.raw_os_error()));
    };
    // The same file counts each time it is mapped.
    refused(&create(2, GIGABYTE, 2 * PAGE));
    driven.main.done_with(&create(2, GIGABYTE, PAGE), &[memory.as_fd()]);
    refused(&create(3, 2 * GIGABYTE, PAGE));
    driven.main.done(&request::destroy(1));
    driven.main.done_with(&create(3, 2 * GIGABYTE, GIGABYTE - PAGE), &[memory.as_fd()]);
    // What the kernel refuses counts nothing.
    driven.main.done(&request::destroy(2));
    assert_ne!(driven.main.ask_with(&create(4, 2 * GIGABYTE, PAGE), &[memory.as_fd()]).errno, 0);
    driven.main.done_with(&create(4, 0, PAGE), &[memory.as_fd()]);
    driven.finish().assert_logged(&["WARN", "guest memory of 8192 bytes refused", "--max-memory"]);
}

fn memory_beyond_the_hosts_is_refused_by_default(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let length = 8 << 40;
    let create = request::create_memory(1, Memory::new(0, length));
    let errno = driven.main.ask_with(&create, &[sealed_memfd(length).as_fd()]).errno;
    assert_eq!(errno, i64::from(Errno::NOMEM.raw_os_error()));
    driven.finish().assert_logged(&["WARN", "guest memory of 8796093022208 bytes refused"]);
}

fn a_dirty_log_longer_than_a_response_is_refused(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &MUCH_MEMORY);
    let mut tally = Tally::new(format!("{} long dirty logs", backend.name()));
    // With a bit a page, 8 GiB make a bitmap as long as a response, for which the response has no room.
    for (id, length, fits) in [(1, 8 * GIGABYTE - (1 << 20), true), (2, 8 * GIGABYTE, false), (3, 9 * GIGABYTE, false)]
    {
        let memory = sealed_memfd(length);
        let logged = Memory { dirty_log: true, ..Memory::new(u64::from(id) * 0x10 * GIGABYTE, length) };
        driven.main.done_with(&request::create_memory(id, logged), &[memory.as_fd()]);
        if fits {
            let bitmap = driven.main.done(&request::dirty_log(id)).body.bytes(1).len() as u64;
            assert_eq!(bitmap, length / PAGE / 8);
        } else {
            driven.main.refused(&request::dirty_log(id), Errno::MSGSIZE);
        }
        driven.main.done(&request::destroy(id));
        tally.count();
    }
    driven.finish();
}
