//! Each group of functions.

use rustix::process::Signal;
use test_utils::guest::Program as Guest;
use test_utils::kvm::skipped;

use crate::common::{Backend, Outboard, hex, on_each_backend};
use crate::compiler::{Program, capi, library_folder};

on_each_backend! {
    connections
    system
    ranges
    posted_writes
    hints
    io_events
    memory
    irqs
    machine_state
    vcpu_events
    io_items
    pausing
    registers
    vcpu_state
    null
    io_events_come_and_go
    memory_comes_and_goes
    irq_events_come_and_go
    connections_and_reservations_come_and_go
    end
    a_vcpu_that_is_waited_for_outlives_the_last_connection
    many_vcpus
    net
    only_the_system_calls_of_the_protocol
    statistics
}

/// Runs the program `name` as the plugin of `guest`, whose code is its first argument; it must find everything as it
/// should be.
fn passes(name: &str, backend: Backend, guest: &Guest) {
    passes_with(name, backend, guest, &[]);
}

fn passes_with(name: &str, backend: Backend, guest: &Guest, options: &[&str]) {
    if let Some(plugin) = compile(name, backend, &[]) {
        call(&plugin, backend, guest, options).run().assert_success().assert_no_panic();
    }
}

fn compile(name: &str, backend: Backend, arguments: &[&str]) -> Option<Program> {
    let test = format!("c_api::{name} on {}", backend.name());
    Program::compile_with(&capi().join(format!("tests/c/{name}.c")), &test, arguments)
}

/// These stop the VMM while they look at what they have, or count what it holds, so they have no jail.
const VMM_IS_SEEN: [&str; 3] = ["churn", "hints", "registers"];

/// A run of a program, which finds the library by the loader's variable: what its own `RUNPATH` says counts for nothing in a
/// jail.
fn executable(backend: Backend, options: &[&str], plugin: &Program, args: &[&str]) -> Outboard {
    let mut options = options.to_vec();
    if VMM_IS_SEEN.contains(&&*plugin.name) {
        options.push("--disable-sandbox");
    }
    let outboard = Outboard::executable(backend, &options, &plugin.path(), args);
    outboard.env("LD_LIBRARY_PATH", library_folder().to_str().unwrap())
}

fn call(plugin: &Program, backend: Backend, guest: &Guest, options: &[&str]) -> Outboard {
    executable(backend, options, plugin, &[&hex(&guest.code())])
}

fn connections(backend: Backend) {
    for transport in ["pipe", "ring"] {
        passes_with("connections", backend, &Guest::new(), &["-c", "3", "--transport", transport]);
    }
}

fn system(backend: Backend) {
    passes("system", backend, &Guest::new());
}

fn ranges(backend: Backend) {
    passes("ranges", backend, &Guest::new().output(0x10, 1).output(0x11, 1).store(0x9000, 1).output(0x12, 1).forever());
}

fn posted_writes(backend: Backend) {
    passes(
        "posted_writes",
        backend,
        &Guest::new().mov(1).output(0x10, 1).mov(2).store(0x9000, 2).input(0x11, 1).forever(),
    );
}

fn hints(backend: Backend) {
    let guest = (1..=3).fold(Guest::new(), |guest, value| guest.mov(value).output(0x10, 1));
    passes("hints", backend, &guest.input(0x10, 1).forever());
}

fn io_events(backend: Backend) {
    let guest = (1..=2).fold(Guest::new(), |guest, value| guest.mov(value).output(0x70, 1).output(0x70, 2));
    passes("io_events", backend, &guest.store(0x9000, 4).output(0x10, 1).forever());
}

fn memory(backend: Backend) {
    passes(
        "memory",
        backend,
        &Guest::new().mov(0x41).store(0x8000, 1).store(0xa123, 4).store(0xc000, 1).output(0x10, 1).forever(),
    );
}

fn irqs(backend: Backend) {
    passes("irqs", backend, &Guest::new().output(0x10, 1).acknowledge(5).forever());
}

fn machine_state(backend: Backend) {
    passes("machine_state", backend, &Guest::new());
}

fn vcpu_events(backend: Backend) {
    let guest = Guest::new().mov(0x1234).output(0x10, 2).input(0x11, 4).output(0x10, 4).input_string(0x12, 2, 500);
    passes("vcpu_events", backend, &guest.load(0x9000, 4).store(0x9008, 4).forever());
}

fn io_items(backend: Backend) {
    let guest = Guest::new().input_string(0x10, 1, 2).input(0x11, 2).output(0x12, 4).forever();
    for transport in ["pipe", "ring"] {
        passes_with("io_items", backend, &guest, &["--transport", transport]);
    }
}

fn pausing(backend: Backend) {
    passes_with("pausing", backend, &Guest::new().mov(0x41).output(0x10, 1).forever(), &["-c", "2"]);
}

fn registers(backend: Backend) {
    passes("registers", backend, &Guest::new().mov(0x1234).output(0x10, 2).forever());
}

fn vcpu_state(backend: Backend) {
    passes("vcpu_state", backend, &Guest::new().output(0x10, 1).forever());
}

fn null(backend: Backend) {
    passes("null", backend, &Guest::new().mov(0x1234).output(0x10, 2).forever());
}

fn churn(backend: Backend, kind: &str) {
    if let Some(plugin) = compile("churn", backend, &[]) {
        let outboard = executable(backend, &[], &plugin, &["", kind]);
        outboard.run().assert_success().assert_no_panic();
    }
}

fn io_events_come_and_go(backend: Backend) {
    churn(backend, "io_event");
}

fn memory_comes_and_goes(backend: Backend) {
    churn(backend, "memory");
}

fn irq_events_come_and_go(backend: Backend) {
    churn(backend, "irq_event");
}

fn connections_and_reservations_come_and_go(backend: Backend) {
    churn(backend, "connection");
}

/// A program that asks for the end, which is a signal to the VMM, and stays until that hangs up.
fn stays(name: &str, backend: Backend, flags: &[&str], options: &[&str]) {
    let guest = Guest::new().output(0x10, 1).halt();
    let Some(plugin) = compile(name, backend, flags) else { return };
    let mut running = call(&plugin, backend, &guest, options).start();
    running.await_line("end");
    running.signal(Signal::TERM);
    let ended = running.end();
    ended.assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_code(143).assert_no_panic();
    assert_eq!(ended.stdout, ["end", "all as it should be"], "{ended:#?}");
}

fn end(backend: Backend) {
    stays("end", backend, &["-DPIPES"], &["-c", "2", "--transport", "pipe"]);
    stays("end", backend, &[], &["-c", "2", "--transport", "ring"]);
}

fn a_vcpu_that_is_waited_for_outlives_the_last_connection(backend: Backend) {
    stays("last_connection", backend, &[], &[]);
}

fn many_vcpus(backend: Backend) {
    passes_with("many_vcpus", backend, &Guest::new(), &["-c", "17", "--transport", "pipe"]);
}

fn net(backend: Backend) {
    if let Err(error) = plugin_runtime::Tap::open("outboardprobe1") {
        skipped(&format!("(no tap) c_api::net on {}", backend.name()), &error);
        return;
    }
    // Each backend's test may run at the same time: networks of their own.
    let ip = match backend {
        Backend::Kvm => "100.115.92.13",
        Backend::Mock => "100.115.92.17",
    };
    let Some(plugin) = compile("net", backend, &[]) else { return };
    let options = ["--host-ip", ip, "--netmask", "255.255.255.252", "--mac", "70:5d:cc:fe:00:04"];
    let outboard = executable(backend, &options, &plugin, &["", ip]);
    outboard.run().assert_success().assert_no_panic();
}

fn only_the_system_calls_of_the_protocol(backend: Backend) {
    let guest = Guest::new().output(0x10, 1).forever();
    for (transport, flag) in [("pipe", "-DPIPES"), ("ring", "-DRINGS")] {
        let mut flags = vec![flag];
        if cfg!(debug_assertions) {
            flags.push("-DDEBUG_LIBRARY");
        }
        if let Some(plugin) = compile("seccomp", backend, &flags) {
            // The plugin sleeps and wakes at each exit.
            call(&plugin, backend, &guest, &["--transport", transport, "--poll-us", "0"]).run().assert_success();
        }
    }
}

fn statistics(backend: Backend) {
    let guest = Guest::new().mov(0x1234).output(0x10, 2).forever();
    let Some(plugin) = compile("registers", backend, &[]) else { return };
    let call = || call(&plugin, backend, &guest, &[]);
    // What a plugin writes to its standard error is in the VMM's log.
    let ended = call().env("CROSVM_STATS", "1").run();
    ended.assert_success();
    for line in ["crosvm_connect: 1 calls, ", "crosvm_vcpu_wait: 9 calls, "] {
        assert_eq!(ended.logged(&[line, " on average, ", " at most"]), 1, "{line}: {ended:#?}");
    }
    assert_eq!(call().run().logged(&["on average"]), 0);
}

#[test]
fn hyperv() {
    let script = "hypercall 0x1005c 0x1122334455667788 2\nout 0x10 4\nsynic 0x40000080 1 0x5001 0x6001\nagain\n";
    if let Some(plugin) = compile("hyperv", Backend::Mock, &[]) {
        let outboard = Outboard::scripted(script, &plugin.path(), [hex(&Guest::new().code())]);
        outboard.env("LD_LIBRARY_PATH", library_folder().to_str().unwrap()).run().assert_success();
        skipped("c_api::hyperv on kvm", &"only a guest that speaks Hyper-V makes these exits");
    }
}
