//! What a plugin's requests cost the VMM, against what they cost the plugin: processor time of the thread that serves them over
//! that of the thread that makes them.
//!
//! It goes through all requests of both channels, each as a compliant client makes it and as one would that means harm: as long
//! as possible, of as many parts as possible, of parts that mean nothing. They are sent ahead of their replies wherever the
//! protocol lets them be. On the mock what is measured is decoding, checking, formatting and encoding; on KVM the kernel's part
//! is there too, which for requests that may take long is bounded in another way (docs/security.md).
//!
//! ```console
//! $ cargo build --release -p vmm-bin --examples
//! $ cargo bench -p vmm-bin --bench request_cost [-- kvm|mock]
//! ```

#![allow(clippy::unwrap_used, reason = "what fails here ends it")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use common::{Backend, Driven};
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};
use test_utils::guest::Program;
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, Memory};
use test_utils::raw::{MainSocket, Message, VcpuPipes, vcpu_request};

/// How long each kind of request is measured, of the plugin's processor time.
const LONG_ENOUGH: Duration = Duration::from_millis(30);
/// Requests that are sent before their replies are read.
const AHEAD: usize = 32;
const GIGABYTE: u64 = 1 << 30;
const LONGEST: usize = 0x40000;

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for backend in [Backend::Mock, Backend::Kvm] {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|name| name == backend.name());
        if is_wanted && (backend == Backend::Mock || hypervisor::kvm::Kvm::open().is_ok()) {
            println!("\n| request, {} | plugin, µs | VMM, µs | ratio |\n|---|---|---|---|", backend.name());
            main_requests(backend);
            broken_requests(backend);
            vcpu_requests(backend);
            standard_error(backend);
        }
    }
}

/// Processor time of this thread.
fn own_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// Processor time of a thread of the VMM's.
struct Thread(File);

impl Thread {
    fn supervisor(driven: &Driven) -> Self {
        let pid = driven.running.pid();
        Self::of(pid, pid.as_raw_nonzero().get())
    }

    fn of(pid: Pid, tid: i32) -> Self {
        Self(File::open(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap())
    }

    /// The one called `name`.
    fn named(pid: Pid, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
        let id = ids.find(|id| fs::read_to_string(format!("/proc/{pid}/task/{id}/comm")).unwrap().trim() == name);
        Self::of(pid, id.unwrap().parse().unwrap())
    }

    fn time(&self) -> Duration {
        use std::os::unix::fs::FileExt;
        let mut text = [0; 64];
        let len = self.0.read_at(&mut text, 0).unwrap();
        let text = std::str::from_utf8(&text[..len]).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }
}

/// Measures `step`, which makes `count` requests, until there is enough of it.
fn measure(name: &str, thread: &Thread, count: usize, settle: impl Fn(), mut step: impl FnMut()) {
    step();
    settle();
    let (mut plugin, mut requests) = (Duration::ZERO, 0_u32);
    let begun = thread.time();
    while plugin < LONG_ENOUGH && requests < 20_000 && (thread.time() - begun) < Duration::from_secs(2) {
        let before = own_time();
        step();
        plugin += own_time() - before;
        settle();
        requests += count as u32;
    }
    print_row(name, plugin, thread.time() - begun, requests);
}

/// Prints a row of the table: the mean of each side's time, and the VMM's over the plugin's.
fn print_row(name: &str, plugin: Duration, vmm: Duration, requests: u32) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(requests);
    let ratio = vmm.as_secs_f64() / plugin.as_secs_f64();
    println!("| {name} | {:.2} | {:.2} | {ratio:.1} |", micros(plugin), micros(vmm));
}

fn send(socket: &MainSocket, bytes: &[u8], fd: Option<BorrowedFd<'_>>) {
    socket.send(bytes, fd.as_slice()).unwrap();
}

/// Takes a reply in, and closes what came with it.
fn take(socket: &MainSocket, buffer: &mut [u8], has_fds: bool) {
    if has_fds {
        drop(socket.receive().unwrap());
        return;
    }
    rustix::net::recv(socket, buffer, rustix::net::RecvFlags::empty()).unwrap();
}

fn main_requests(backend: Backend) {
    let driven = Driven::with(backend, &Program::new(), &["--max-memory", "1T", "-c", "4"]);
    let supervisor = Thread::supervisor(&driven);
    let mut buffer = vec![0; LONGEST];
    let memory = sealed_memfd(7 * GIGABYTE);
    let small = sealed_memfd(0x1000);
    let page = |id: u32| request::create_memory(id, Memory::new(0x1_0000_0000 + u64::from(id) * 0x1000, 0x1000));
    let logged = Memory { dirty_log: true, ..Memory::new(1 << 40, 7 * GIGABYTE) };
    driven.main.done_with(&request::create_memory(9000, logged), &[memory.as_fd()]);
    let state = driven.main.done(&request::get_state(request::IOAPIC.0)).body.bytes(1).to_vec();
    let routes = |route: Message, count: usize| request::set_irq_routing(&vec![route; count]);
    let hint = Message::new();
    let hints = |count: usize| {
        let hints = (0..count).fold(Message::new().uint(1, 1).uint(2, 0x1000), |all, _| all.message(4, &hint));
        Message::new().message(19, &hints)
    };
    let distinct_routes = (0..4096).map(|n| request::msi_route(n, 0xfee0_0000, n)).collect::<Vec<_>>();
    let requests: Vec<(&str, Message, bool)> = vec![
        ("`check_extension`", request::check_extension(1), false),
        ("`get_supported_cpuid`", request::get_supported_cpuid(), false),
        ("`get_emulated_cpuid`", request::get_emulated_cpuid(), false),
        ("`get_msr_index_list`", request::get_msr_index_list(), false),
        ("`get_net_config` without one", request::get_net_config(), false),
        ("`get_shutdown_eventfd`", request::get_shutdown_eventfd(), true),
        ("`new_connection`, which is closed", request::new_connection(), true),
        ("`set_irq`", request::set_irq(5, false), false),
        ("`get_state`", request::get_state(request::IOAPIC.0), false),
        ("`set_state`", request::set_state(request::IOAPIC.0, &state), false),
        ("`set_state` of 256 KiB", request::set_state(request::IOAPIC.0, &vec![0; LONGEST - 16]), false),
        ("`set_identity_map_addr`", request::set_identity_map_addr(0xfeff_c000), false),
        ("`pause_vcpus`", request::pause(u64::MAX, 1), false),
        ("`destroy` of nothing", request::destroy(1), false),
        ("`create` of nothing", Message::new().message(1, &Message::new()), false),
        ("`reserve_range` of what is taken", request::reserve(request::MMIO, 0, 0x1000), false),
        ("`set_call_hint` with 32 details", hints(32), false),
        ("`set_call_hint` with 1000 details", hints(1000), false),
        ("`set_call_hint` with 130,000 details", hints(130_000), false),
        ("`set_irq_routing` with 24 routes", routes(request::irqchip_route(5, 0, 5), 24), false),
        ("`set_irq_routing` with 4096 routes", request::set_irq_routing(&distinct_routes), false),
        ("`set_irq_routing` with 4096 equal routes", routes(request::msi_route(5, 0, 0), 4096), false),
        ("`set_irq_routing` with 4096 short routes", routes(Message::new().message(2, &Message::new()), 4096), false),
        (
            "`set_irq_routing` with 65,000 short routes",
            routes(Message::new().message(2, &Message::new()), 65_000),
            false,
        ),
        ("`set_irq_routing` with 130,000 empty routes", routes(Message::new(), 130_000), false),
        (
            "`set_irq_routing` with 130,000 unknown fields",
            Message::new().message(12, &(0..130_000).fold(Message::new(), |all, _| all.uint(3, 0))),
            false,
        ),
        ("`negotiate`", request::negotiate(1, 1), true),
        ("`get_vcpus`", request::get_vcpus(), true),
        ("`dirty_log` of 7 GiB", request::dirty_log(9000), false),
        ("a request that is not known", Message::new().message(300, &Message::new()), false),
        ("a request with 8 unknown fields", unknown_fields(8), false),
    ];
    driven.main.done(&request::reserve(request::MMIO, 0, 0x1000));
    for (name, request, has_fds) in requests {
        let bytes = request.as_bytes();
        // Descriptors come only to one that has read its replies, and what is long fills the socket.
        let ahead = if has_fds || bytes.len() > 0x1000 || name.contains("dirty_log") { 1 } else { AHEAD };
        measure(
            name,
            &supervisor,
            ahead,
            || (),
            || {
                (0..ahead).for_each(|_| send(&driven.main, bytes, None));
                (0..ahead).for_each(|_| take(&driven.main, &mut buffer, has_fds));
            },
        );
    }
    let pairs: Vec<(&str, Message, Message, Option<BorrowedFd<'_>>, bool)> = vec![
        (
            "`reserve_range`, and its end",
            request::reserve(request::MMIO, 0x10_0000, 1),
            request::reserve(request::MMIO, 0x10_0000, 0),
            None,
            false,
        ),
        (
            "the same, coalesced",
            request::reserve_coalesced(request::MMIO, 0x10_0000, 1),
            request::reserve(request::MMIO, 0x10_0000, 0),
            None,
            false,
        ),
        ("`create` of a page, and `destroy`", page(1), request::destroy(1), Some(small.as_fd()), false),
        (
            "`create` of 7 GiB, and `destroy`",
            request::create_memory(1, Memory::new(2 << 40, 7 * GIGABYTE)),
            request::destroy(1),
            Some(memory.as_fd()),
            false,
        ),
        (
            "`create` of an I/O event, and `destroy`",
            request::create_io_event(1, request::MMIO, 0x5000, 4, 1),
            request::destroy(1),
            None,
            true,
        ),
        (
            "`create` of an interrupt event, and `destroy`",
            request::create_irq_event(1, 5, true),
            request::destroy(1),
            None,
            true,
        ),
    ];
    for (name, first, second, fd, has_fds) in pairs {
        measure(
            name,
            &supervisor,
            2,
            || (),
            || {
                send(&driven.main, first.as_bytes(), fd);
                take(&driven.main, &mut buffer, has_fds);
                send(&driven.main, second.as_bytes(), None);
                take(&driven.main, &mut buffer, false);
            },
        );
    }
    driven.finish();
    let driven = Driven::with(backend, &Program::new(), &["-c", "32"]);
    let supervisor = Thread::supervisor(&driven);
    let request = request::get_vcpu_rings(0);
    measure(
        "`get_vcpu_rings`",
        &supervisor,
        1,
        || (),
        || {
            send(&driven.main, request.as_bytes(), None);
            take(&driven.main, &mut buffer, true);
        },
    );
    driven.finish();
}

/// A `set_irq` with so many more fields that nobody knows, of which none is like another.
fn unknown_fields(count: u32) -> Message {
    (0..count).fold(request::set_irq(5, false), |message, n| message.uint(1000 + n, 0))
}

/// Requests that end their connection.
fn broken_requests(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let supervisor = Thread::supervisor(&driven);
    let fill = |message: &Message| {
        let part = message.as_bytes();
        part.iter().copied().cycle().take(LONGEST / part.len() * part.len()).collect::<Vec<_>>()
    };
    let distinct = (0..).map(|n| Message::new().uint(20 + n, 0)).scan(0, |len, field| {
        *len += field.as_bytes().len();
        (*len <= LONGEST).then_some(field)
    });
    let distinct: Vec<u8> = distinct.flat_map(|field| field.as_bytes().to_vec()).collect();
    let route = request::set_irq_routing(&[request::msi_route(1, 0, 0)]);
    let mut cut = request::set_irq_routing(&vec![request::msi_route(5, 0, 0); 4096]).as_bytes().to_vec();
    cut.pop();
    let cases = [
        ("256 KiB of distinct unknown fields", distinct),
        ("256 KiB of one unknown field", fill(&Message::new().uint(15, 0))),
        ("256 KiB of unknown groups", vec![0x7b; LONGEST]),
        ("256 KiB of repeated `set_irq_routing`", fill(&route)),
        ("256 KiB of empty `set_irq_routing`", fill(&Message::new().message(12, &Message::new()))),
        (
            "256 KiB of alternating requests",
            fill(&Message::new().message(18, &Message::new()).message(17, &Message::new())),
        ),
        ("4096 routes, cut by a byte", cut),
        ("one byte", vec![0]),
    ];
    for (name, bytes) in cases {
        let mut connections = Vec::new();
        let mut next = || {
            if connections.is_empty() {
                connections = (0..40).map(|_| driven.connect()).collect();
            }
            connections.pop().unwrap()
        };
        // What is measured is the request alone: the plugin's new connections, and the VMM's, are made between.
        let (mut plugin, mut vmm, mut requests) = (Duration::ZERO, Duration::ZERO, 0_u32);
        while plugin < LONG_ENOUGH / 3 && requests < 2000 {
            let connection = next();
            let begun = supervisor.time();
            let before = own_time();
            send(&connection, &bytes, None);
            let mut end = [0; 64];
            // A reply, or the end.
            let _ = rustix::net::recv(&connection, &mut end, rustix::net::RecvFlags::empty());
            plugin += own_time() - before;
            // The VMM's thread sleeps again once it has dealt with that.
            vmm += settled(&supervisor) - begun;
            requests += 1;
        }
        print_row(name, plugin, vmm, requests);
    }
    driven.finish();
}

/// Processor time of a thread that has gone back to sleep.
fn settled(thread: &Thread) -> Duration {
    let mut before = thread.time();
    loop {
        std::thread::sleep(Duration::from_micros(500));
        let now = thread.time();
        if now == before {
            return now;
        }
        before = now;
    }
}

fn vcpu_requests(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let vcpu = driven.booted(&[]).pop().unwrap();
    let thread = Thread::named(driven.running.pid(), "vcpu0");
    let pid_entries = |count: usize| vcpu_request::set_cpuid(&vec![vcpu_request::CpuidEntry::default(); count]);
    let empty_entries = |field: u32, count: usize| {
        let entries = (0..count).fold(Message::new(), |all, _| all.message(1, &Message::new()));
        Message::new().message(field, &entries)
    };
    let cases = [
        ("`get_state`, registers", vcpu_request::get_state(vcpu_request::REGS.0)),
        ("`get_state`, local APIC", vcpu_request::get_state(vcpu_request::LAPIC.0)),
        ("`set_state` of a wrong size", vcpu_request::set_state(vcpu_request::REGS.0, &[0; 8])),
        ("`get_msrs`, 1", vcpu_request::get_msrs(&[0x174])),
        ("`get_msrs`, 255", vcpu_request::get_msrs(&[0x174; 255])),
        ("`get_msrs`, 5000", vcpu_request::get_msrs(&[0x174; 5000])),
        ("`get_msrs`, 120,000 empty fields", empty_entries(5, 120_000)),
        ("`set_msrs`, 1", vcpu_request::set_msrs(&[(0x174, 5)])),
        ("`set_msrs`, 255", vcpu_request::set_msrs(&[(0x174, 5); 255])),
        ("`set_msrs`, 255 empty", empty_entries(6, 255)),
        ("`set_msrs`, 2000 empty", empty_entries(6, 2000)),
        ("`set_cpuid`, 256", pid_entries(256)),
        ("`set_cpuid`, 256 empty", empty_entries(7, 256)),
        ("`set_cpuid`, 2000 empty", empty_entries(7, 2000)),
        ("`get_hyperv_cpuid`", vcpu_request::get_hyperv_cpuid()),
        ("`enable_capability` of none", vcpu_request::enable_capability(1)),
        (
            "a vCPU request with 8 unknown fields",
            (0..8).fold(vcpu_request::get_state(0), |message, n| message.uint(1000 + n, 0)),
        ),
    ];
    let mut buffer = vec![0; LONGEST];
    for (name, request) in cases {
        measure(name, &thread, 1, || (), || vcpu_request_once(&vcpu, &request, &mut buffer));
    }
    drop(vcpu);
    driven.exit(0);
}

fn vcpu_request_once(vcpu: &VcpuPipes, request: &Message, buffer: &mut [u8]) {
    rustix::io::write(vcpu.requests(), request.as_bytes()).unwrap();
    // A reply is written at once, and so read.
    rustix::io::read(vcpu.responses(), buffer).unwrap();
}

/// The relay's standard error, written from here.
fn standard_error(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let supervisor = Thread::supervisor(&driven);
    let path = format!("/proc/{}/fd/2", driven.relay.pid());
    let mut stderr = OpenOptions::new().write(true).open(path).unwrap();
    let empty = |pipe: &File| rustix::io::ioctl_fionread(pipe) == Ok(0);
    let reader = |file: &File| test_utils::wait::until("the VMM has read it", || empty(file));
    for (name, text) in [
        ("64 KiB of line feeds on standard error", "\n".repeat(0x10000)),
        ("64 KiB of short lines", "ab\n".repeat(0x10000 / 3)),
        ("64 KiB of control characters", "\u{1}".repeat(0x10000)),
        ("64 KiB of one long line", "x".repeat(0x10000)),
        ("a line feed on standard error", "\n".into()),
    ] {
        let watch = stderr.try_clone().unwrap();
        measure(name, &supervisor, 1, || reader(&watch), || stderr.write_all(text.as_bytes()).unwrap());
    }
    driven.exit(0);
}
