//! What is said when something goes wrong: the reason, where it was, and what to do.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::os::fd::AsFd;

use common::{BOOTED, Backend, Driven, Ended, Outboard, RAM_ID, example, hex, on_each_backend, talker};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::process::{Signal, geteuid};
use test_utils::guest::{Program, RAM_LEN, RAM_START};
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, IOPORT, MMIO, Memory};
use test_utils::raw::{Message, VcpuChannel, vcpu_request};

on_each_backend! {
    every_refusal_of_a_main_request_has_its_reason_in_the_log
    every_refusal_of_a_vcpu_request_has_its_reason_in_the_log
    a_flood_of_refusals_does_not_fill_the_log
    what_can_hardly_be_meant_is_done_and_warned_of
    what_is_usual_is_not_warned_of
    unclaimed_accesses_are_logged_once_an_address
    an_unclaimed_access_ends_the_vm_where_that_is_asked_for
    a_guest_that_cannot_go_on_is_shown_with_its_registers
    a_failed_plugins_last_lines_are_errors_also_when_quiet
    standard_output_that_is_discarded_is_logged_at_debug
    a_missing_shared_library_is_named
    a_plugin_that_makes_no_request_is_warned_of
    a_plugin_that_waits_before_the_start_is_warned_of
    a_plugin_that_drops_an_event_again_and_again_says_so_once
}

/// A VM that logs at `debug`, with the test as its plugin.
fn verbose(backend: Backend, program: &Program) -> Driven {
    Driven::start(program, Outboard::plugin(backend, &[], "relay", [""; 0]).env("OUTBOARD_LOG", "debug"))
}

fn every_refusal_of_a_main_request_has_its_reason_in_the_log(backend: Backend) {
    let driven = verbose(backend, &Program::new());
    let (main, mut said) = (&driven.main, Vec::new());
    let mut refused = |request: &Message, errno, why: &'static str| {
        main.refused(request, errno);
        said.push(why);
    };
    main.done(&request::reserve(IOPORT, 0x10, 4));
    let overlap = "reserve_range refused: ports 0x10-0x13 overlap 0x10-0x13";
    refused(&request::reserve(IOPORT, 0x10, 4), Errno::PERM, overlap);
    let overflow =
        "reserve_range refused: addresses 0xffffffffffffffff-0xffffffffffffffff cannot be reserved: the end exceeds";
    refused(&request::reserve(MMIO, u64::MAX, 2), Errno::INVAL, overflow);
    refused(&request::reserve(9, 0, 1), Errno::INVAL, "reserve_range refused: there is no address space 9");
    let none =
        "release_range refused: ports from 0x11 on cannot be released: no reservation of this owner begins there";
    refused(&request::reserve(IOPORT, 0x11, 0), Errno::NOENT, none);
    refused(&request::destroy(77), Errno::NOENT, "destroy refused: there is no object of id 77");
    refused(&request::dirty_log(77), Errno::NOENT, "dirty_log refused: id 77 is no memory with a dirty log");
    let length = "create_io_event refused: writes of 3 bytes";
    refused(&request::create_io_event(5, IOPORT, 0x20, 3, 0), Errno::INVAL, length);
    refused(&request::get_net_config(), Errno::NODATA, "get_net_config refused: the VM has no tap");
    refused(&request::get_state(9), Errno::INVAL, "get_state refused: there is no state set 9 of a VM");
    let size = "set_state refused: the state has 3 bytes, the kernel's structure 16";
    refused(&request::set_state(0, &[1, 2, 3]), Errno::INVAL, size);
    let route = request::set_irq_routing(&[request::msi_route(5000, 0xfee0_0000, 0x30)]);
    refused(&route, Errno::INVAL, ": GSI 5000 is out of range, there are 4096");
    let no_descriptor = "create_memory refused: no descriptor came with the request";
    refused(&request::create_memory(6, Memory::new(RAM_START, RAM_LEN)), Errno::BADF, no_descriptor);

    let unsealed = memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&unsealed, RAM_LEN).unwrap();
    let memory = request::create_memory(6, Memory::new(RAM_START, RAM_LEN));
    main.refused_with(&memory, &[unsealed.as_fd()], Errno::PERM);
    said.push("the memfd is not sealed against shrinking");
    let sealed = sealed_memfd(RAM_LEN);
    main.done_with(&memory, &[sealed.as_fd()]);
    main.refused_with(&memory, &[sealed.as_fd()], Errno::EXIST);
    said.push("create_memory refused: there is an object of id 6");
    main.refused_with(
        &request::create_memory(7, Memory::new(RAM_START, RAM_LEN + 0x1000)),
        &[sealed.as_fd()],
        Errno::INVAL,
    );
    said.push("create_memory refused: guest memory at 0x1000, 0x5000 bytes: the file ends at 0x4000");
    main.done(&request::start());
    main.refused(&request::start(), Errno::INVAL);
    said.push("start refused: the VM was started before");
    let ended = driven.finish();
    for why in said {
        ended.assert_logged(&["DEBUG", why]);
    }
}

fn every_refusal_of_a_vcpu_request_has_its_reason_in_the_log(backend: Backend) {
    let driven = verbose(backend, &talker());
    let mut vcpu = driven.booted(&[]).pop().unwrap();
    vcpu.refused(&vcpu_request::get_state(77), Errno::INVAL);
    vcpu.refused(&vcpu_request::set_state(0, &[0; 5]), Errno::INVAL);
    vcpu.refused(&vcpu_request::enable_capability(7), Errno::INVAL);
    vcpu.refused(&vcpu_request::wait(), Errno::PROTO);
    let ended = driven.finish();
    for why in [
        "get_state refused: there is no state set 77 of a vCPU",
        "set_state refused: the state has 5 bytes, the kernel's structure 144",
        "enable_capability refused: capability 7 cannot be enabled by a plugin",
        "wait refused: a vCPU is waited for once",
    ] {
        ended.assert_logged(&["DEBUG", why, "vcpu=0"]);
    }
}

fn a_flood_of_refusals_does_not_fill_the_log(backend: Backend) {
    let driven = verbose(backend, &Program::new());
    for _ in 0..5000 {
        driven.main.refused(&request::destroy(77), Errno::NOENT);
    }
    let logged = driven.finish().logged(&["destroy refused"]);
    assert!((50..4000).contains(&logged), "{logged} lines");
}

fn what_can_hardly_be_meant_is_done_and_warned_of(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let main = &driven.main;
    let mut said = Vec::new();
    let mut done = |request: &Message, warning: &'static str| {
        main.done(request);
        said.push(warning);
    };
    done(&request::reserve(IOPORT, 0xfff0, 0x20), "reserved ports 0xfff0-0x1000f pass the last port, 0xffff");
    done(&request::create_io_event(10, IOPORT, 0x1_0000, 1, 0), "the I/O event's port 0x10000 passes the last port");
    done(
        &request::create_io_event(11, MMIO, 0xd000, 0, 7),
        "the I/O event at 0xd000 has length 0: any write signals it",
    );
    done(&request::create_irq_event(12, 5, true), "");
    done(&request::create_irq_event(13, 5, true), "GSI 5 has an interrupt event already");
    done(&request::set_irq(77, true), "GSI 77 was raised, and has no route");
    done(&request::reserve_posted(MMIO, 0x9000, 0x10), "");
    done(&request::reserve_posted(MMIO, 0x9000, 0), "length 0 releases the range at 0x9000");
    // RAM, then what lies over it; and the other way around.
    done(&request::reserve(MMIO, 0x10_0000, 0x1000), "");
    driven.load();
    done(&request::reserve(MMIO, 0x2000, 0x10), "reserved addresses 0x2000-0x200f are RAM in part, 0x1000-0x4fff");
    let memory = request::create_memory(RAM_ID + 1, Memory::new(0x10_0000, RAM_LEN));
    main.done_with(&memory, &[sealed_memfd(RAM_LEN).as_fd()]);
    said.push("reserved addresses 0x100000-0x100fff are RAM in part, 0x100000-0x103fff");
    let ended = driven.finish();
    for warning in said {
        if !warning.is_empty() {
            assert_eq!(ended.logged(&["WARN", "relay", warning]), 1, "{warning}: {ended:#?}");
        }
    }
    assert_eq!(ended.logged(&["dropped="]), 0, "no line was dropped: {ended:#?}");
}

fn what_is_usual_is_not_warned_of(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let main = &driven.main;
    main.done(&request::reserve(IOPORT, 0xfff0, 0x10));
    main.done(&request::reserve(IOPORT, 0xfff0, 0));
    main.done(&request::create_io_event(10, MMIO, 0xd000, 0, 0));
    for (id, gsi) in [(11, 5), (12, 23), (13, 100)] {
        main.done(&request::create_irq_event(id, gsi, true));
    }
    main.done(&request::destroy(11));
    main.done(&request::create_irq_event(11, 5, true));
    main.done(&request::set_irq(23, true));
    main.done(&request::set_irq_routing(&[request::msi_route(100, 0xfee0_0000, 0x30)]));
    main.done(&request::set_irq(100, true));
    main.done(&request::set_irq(77, false));
    driven.load();
    main.done(&request::reserve(MMIO, RAM_START + RAM_LEN, 0x1000));
    // Writes to read-only memory exit.
    let rom = Memory { read_only: true, ..Memory::new(0x10_0000, RAM_LEN) };
    main.done_with(&request::create_memory(20, rom), &[sealed_memfd(RAM_LEN).as_fd()]);
    main.done(&request::reserve(MMIO, 0x10_0000, RAM_LEN));
    let ended = driven.finish();
    assert_eq!(ended.logged(&["WARN"]), 0, "{ended:#?}");
}

/// A guest that accesses what nobody has reserved, some of it twice, and then writes to port 0x10.
fn careless() -> Program {
    let program = Program::new().input(0x71, 1).input(0x71, 1).output(0x80, 1).load(0x9000, 4).input(0x71, 1);
    program.output(0x10, 1).halt()
}

/// Runs the careless guest with options of `outboard run`, until it has written.
fn run_careless(backend: Backend, options: &[&str], log: &str) -> Ended {
    let steps = format!("{BOOTED} resume wait=write exit=0");
    Outboard::probe_with(backend, &careless(), options, &steps).env("OUTBOARD_LOG", log).run()
}

fn unclaimed_accesses_are_logged_once_an_address(backend: Backend) {
    let said = [
        "nobody has reserved a port read of 1 bytes at 0x71: it reads zeros",
        "nobody has reserved a port write of 1 bytes at 0x80: it vanishes",
        "nobody has reserved a mmio read of 4 bytes at 0x9000: it reads zeros",
    ];
    let quiet = run_careless(backend, &[], "info");
    assert_eq!(quiet.assert_success().logged(&["nobody has reserved"]), 0, "{quiet:#?}");
    for (options, log, level) in [
        (&["--unclaimed", "ignore"][..], "debug", "DEBUG"),
        (&[], "debug", "DEBUG"),
        (&["--unclaimed", "log"], "info", "WARN"),
    ] {
        let ended = run_careless(backend, options, log);
        ended.assert_success();
        for line in said {
            assert_eq!(ended.logged(&[level, line, "vcpu=0"]), 1, "{line}: {ended:#?}");
        }
        assert_eq!(ended.logged(&["nobody has reserved"]), said.len(), "{ended:#?}");
    }
}

fn an_unclaimed_access_ends_the_vm_where_that_is_asked_for(backend: Backend) {
    let steps = format!("{BOOTED} resume wait=disconnected exit=1");
    let ended = Outboard::probe_with(backend, &careless(), &["--unclaimed", "stop"], &steps).run();
    ended.assert_failure(&["vCPU 0: nobody has reserved a port read of 1 bytes at 0x71 at RIP 0x1003"]).assert_code(3);
    // One whose accesses are all reserved does not notice.
    let steps = format!("{BOOTED} resume serve=10 exit=0");
    Outboard::probe_with(backend, &talker(), &["--unclaimed", "stop"], &steps).run().assert_success();
}

fn a_guest_that_cannot_go_on_is_shown_with_its_registers(backend: Backend) {
    let brief = Program::new().mov(0x4142_4344).output(0x10, 1).shutdown();
    let steps = format!("{BOOTED} resume serve=1 wait=disconnected exit=1");
    let ended = Outboard::probe(backend, &brief, &steps).run();
    ended.assert_failure(&["vCPU 0: internal error: suberror 1: instruction emulation failed", "at RIP 0x8000"]);
    ended.assert_code(3).assert_logged(&["ERROR", "registers: RAX 0x41424344", "RIP 0x8000", "CR0 0x"]);
}

#[test]
fn what_the_mock_cannot_do_has_bytes_assembly_and_document() {
    // enter 0, 2, with a stack where accesses exit: it writes, and reads what it has written.
    let code = format!("memory={}", hex(&[0xc8, 0, 0, 2]));
    let steps = format!("{BOOTED} resume wait=disconnected exit=1").replace("memory", &code);
    let ended = Outboard::plugin(Backend::Mock, &[], "probe", steps.split_whitespace()).run();
    let parts = ["vCPU 0: internal error", "enter at 0x1000, bytes c8 00 00 02", "docs/mock-cpu.md", "RIP 0x1000"];
    ended.assert_failure(&parts).assert_code(3);
}

fn a_failed_plugins_last_lines_are_errors_also_when_quiet(backend: Backend) {
    let call = |options: &[&str], steps: &str| {
        let probe = example("probe").display().to_string();
        let args = options.iter().copied().chain(["run", "--hypervisor", backend.name(), "--plugin", &probe, "--"]);
        Outboard::new(args.chain(steps.split_whitespace())).run()
    };
    for steps in ["say=it-hurts exit=3", "say=it-hurts die=9", "say=it-hurts connect vcpus start wait=read"] {
        for options in [&["-q"][..], &[]] {
            let ended = call(options, steps);
            ended.assert_failure(&["probe"]).assert_code(1);
            assert_eq!(ended.logged(&["ERROR", "it-hurts", "plugin=\"probe\""]), 1, "{ended:#?}");
        }
    }
    let well = call(&[], "say=all-well exit=0");
    assert_eq!(well.assert_success().logged(&["ERROR"]), 0, "{well:#?}");
}

fn standard_output_that_is_discarded_is_logged_at_debug(backend: Backend) {
    let probe = example("probe").display().to_string();
    let run = |options: &[&str]| {
        let args = ["-v", "run", "--hypervisor", backend.name(), "--plugin", &probe]
            .into_iter()
            .chain(options.iter().copied());
        Outboard::new(args.chain(["--", "print=unheard"])).run()
    };
    let ended = run(&[]);
    assert_eq!(ended.assert_success().stdout, [""; 0]);
    ended.assert_logged(&["DEBUG", "standard output is discarded", "--plugin-stdio", "probe"]);
    for options in [&["--plugin-stdio"], &["--disable-sandbox"]] {
        let ended = run(options);
        assert_eq!(ended.assert_success().stdout, ["unheard"]);
        assert_eq!(ended.logged(&["standard output"]), 0, "{ended:#?}");
    }
}

fn a_missing_shared_library_is_named(backend: Backend) {
    // As the dynamic loader says it and exits.
    let said =
        "./p: error while loading shared libraries: libabsent.so.1: cannot open shared object file: No such file";
    let script = format!("echo '{said}' >&2; exit 127");
    let shell = std::path::Path::new("/bin/sh");
    let ended = Outboard::executable(backend, &["--disable-sandbox"], shell, ["-c", &script]).run();
    ended.assert_failure(&["code 127", "libabsent.so.1 was not found", "LD_LIBRARY_PATH"]).assert_code(1);
    let ended = Outboard::executable(backend, &["--disable-sandbox"], shell, ["-c", "exit 127"]).run();
    ended.assert_failure(&["exited with code 127"]);
}

#[test]
fn a_bad_plugin_path_gets_a_remedy() {
    let outboard = |plugin: &str| Outboard::new(["run", "--hypervisor", "mock", "--plugin", plugin]).run();
    let ended = outboard("sh");
    ended.assert_failure(&["starting plugin sh: No such file", "a name without a slash", "bin/sh"]).assert_code(1);
    outboard("no-such-plugin").assert_failure(&["No such file", "./no-such-plugin"]);
    outboard("/tmp").assert_failure(&["starting plugin /tmp: ", "it is a directory"]).assert_code(1);
    let unjailed = Outboard::new(["run", "--hypervisor", "mock", "--disable-sandbox", "--plugin", "/tmp"]).run();
    unjailed.assert_failure(&["it is a directory"]);
}

fn a_plugin_that_makes_no_request_is_warned_of(backend: Backend) {
    let mut running = Outboard::probe(backend, &talker(), "hang").start();
    running.await_logged(&["WARN", "probe", "no request for 10 seconds", "CROSVM_SOCKET"]);
    running.signal(Signal::TERM);
    running.end().assert_failure(&["ended by signal 15 (SIGTERM)"]);
}

fn a_plugin_that_waits_before_the_start_is_warned_of(backend: Backend) {
    let mut running = Outboard::probe(backend, &talker(), "connect vcpus wait=init").start();
    running.await_logged(&["WARN", "probe", "not started the VM for 10 seconds", "`start`"]);
    running.signal(Signal::TERM);
    running.end().assert_failure(&["ended by signal 15 (SIGTERM)"]);
}

fn a_plugin_that_drops_an_event_again_and_again_says_so_once(backend: Backend) {
    for (dropped, times) in [(900, 0), (5000, 1)] {
        let steps = format!("{BOOTED} resume wait=write drop={dropped} resume serve=10 exit=0");
        let ended = Outboard::probe(backend, &talker(), &steps).run();
        let said = ["INFO", "the same event of vCPU 0 was reported 1000 times again", "must be resumed or answered"];
        assert_eq!(ended.assert_success().logged(&said), times, "{dropped}: {ended:#?}");
    }
}

#[test]
fn kvm_that_may_not_be_opened_is_a_warning_with_the_remedy() {
    const NOBODY: u32 = 65534;
    let test = "diagnosis::kvm_that_may_not_be_opened_is_a_warning_with_the_remedy";
    let probe = example("probe").display().to_string();
    let call = |choice: &str| Outboard::new(["run", "--hypervisor", choice, "--plugin", &probe]);
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    let is_denied = opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    let mode = std::fs::metadata("/dev/kvm").map(|about| std::os::unix::fs::MetadataExt::mode(&about));
    let run = |choice| match &mode {
        _ if is_denied => Some(call(choice).run()),
        Ok(mode) if geteuid().is_root() && mode & 0o006 == 0 => Some(call(choice).run_by(NOBODY).run()),
        _ => None,
    };
    let (Some(auto), Some(kvm)) = (run("auto"), run("kvm")) else {
        return test_utils::kvm::skipped(test, &"there is no user here whom /dev/kvm is denied to");
    };
    auto.assert_success().assert_logged(&["WARN", "the mock", "/dev/kvm", "Permission denied", "`kvm`"]);
    kvm.assert_failure(&["/dev/kvm", "Permission denied"]).assert_code(4);
}

#[test]
fn bad_usage_and_a_failure_of_the_vmm_have_codes_of_their_own() {
    Outboard::new(["run", "--hypervisor", "mock"]).run().assert_code(2);
    let missing =
        Outboard::new(["run", "--hypervisor", "mock", "--script", "/nonexistent", "--plugin", "/bin/true"]).run();
    missing.assert_failure(&["/nonexistent"]).assert_code(4);
}

#[test]
fn an_sdk_error_that_main_returns_is_printed_as_a_sentence() {
    for plugin in ["adder", "counter"] {
        let ran = Outboard::of_program(&example(plugin), [""; 0]).without_variable("CROSVM_SOCKET").run();
        let sentence = "Error: CROSVM_SOCKET is not set: this process was not started as a plugin";
        assert_eq!((ran.code, &*ran.stderr), (Some(1), &[sentence.to_owned()][..]), "{plugin}");
    }
}
