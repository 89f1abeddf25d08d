//! Control groups of version 1: too few processes, too little memory.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use test_utils::guest::Program;
use test_utils::kvm::skipped;
use test_utils::memory::sealed_memfd;
use test_utils::raw::request::{self, Memory};

use crate::common::{Backend, Counters, Driven, Outboard, on_each_backend, only_child};
use crate::{WAYS, run};

on_each_backend! {
    in_a_group_of_few_processes_the_end_is_clear
    a_group_that_is_full_at_the_start_of_the_vcpus_ends_the_vm
    a_plugin_that_its_group_runs_out_of_memory_for_is_named
    a_vmm_that_its_group_has_no_more_memory_for_refuses_or_takes_its_plugin_along
}

/// A group of this test's own, which goes when this does.
struct Group(PathBuf);

impl Group {
    /// One of the `controller`'s; `None` after the test was told to be skipped.
    fn new(controller: &str, test: &str) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/{controller}/outboard-{test}-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) if path.join("tasks").exists() => Some(Self(path)),
            made => {
                // Where there is no such hierarchy, a directory may have been made in another.
                let _ = fs::remove_dir(&path);
                let why = made.map_or_else(|error| error.to_string(), |()| "no control groups of version 1".into());
                skipped(&format!("(no {controller} group) groups::{test}"), &why);
                None
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn set(&self, file: &str, value: u64) {
        fs::write(self.0.join(file), value.to_string()).unwrap();
    }

    fn get(&self, file: &str) -> u64 {
        fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was waited for may still be on its way out of the group.
        if !test_utils::wait::holds(|| fs::remove_dir(&self.0).is_ok()) && !std::thread::panicking() {
            panic!("{} has members left", self.0.display());
        }
    }
}

fn in_a_group_of_few_processes_the_end_is_clear(backend: Backend) {
    let name = backend.name();
    let Some(group) = Group::new("pids", &format!("few-{name}")) else { return };
    for way in WAYS {
        let mut counters = Counters::new(format!("{name} starts in a group of few processes, {way:?}"));
        let mut well = Vec::new();
        for most in 1..=12 {
            group.set("pids.max", most);
            let ended = run(backend, way).in_group(group.path()).run();
            ended.assert_clear();
            well.push(ended.code == Some(0));
            counters.count();
        }
        assert!(!well.first().unwrap() && *well.last().unwrap(), "{way:?} {well:?}");
    }
}

fn a_group_that_is_full_at_the_start_of_the_vcpus_ends_the_vm(backend: Backend) {
    let name = backend.name();
    let Some(group) = Group::new("pids", &format!("full-{name}")) else { return };
    let mut counters = Counters::new(format!("{name} starts of vCPUs in a full group"));
    for room in 0..4 {
        let driven = Driven::of(Outboard::plugin(backend, &["-c", "4"], "relay", [""; 0]).in_group(group.path()));
        let event = driven.main.descriptor(&request::get_shutdown_eventfd());
        group.set("pids.max", group.get("pids.current") + room);
        driven.main.done(&request::start());
        driven.obey(&event).assert_failure(&["thread", "vCPU"]);
        fs::write(group.path().join("pids.max"), "max").unwrap();
        counters.count();
    }
}

fn a_plugin_that_its_group_runs_out_of_memory_for_is_named(backend: Backend) {
    let name = backend.name();
    let Some(group) = Group::new("memory", &format!("plugin-{name}")) else { return };
    group.set("memory.limit_in_bytes", 16 << 20);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let eater = "echo ready; read go; text=16-bytes-of-text; while :; do text=$text$text; done";
    let call = Outboard::executable(backend, &[], Path::new("/bin/sh"), ["-c", eater]);
    let mut running = call.stdin(reader).start();
    running.await_line("ready");
    fs::write(group.path().join("tasks"), only_child(running.await_plugin()).to_string()).unwrap();
    File::from(writer).write_all(b"go\n").unwrap();
    running.end().assert_failure(&["sh was killed by signal 9 (SIGKILL)"]);
    let _tally = Counters::of(format!("{name} plugins without memory"), 1);
}

const GIGABYTE: u64 = 1 << 30;

fn a_vmm_that_its_group_has_no_more_memory_for_refuses_or_takes_its_plugin_along(backend: Backend) {
    let name = backend.name();
    let Some(group) = Group::new("memory", &format!("vmm-{name}")) else { return };
    let mut counters = Counters::new(format!("{name} requests of a VMM without memory"));
    let options = ["--max-memory", "1T"];
    let driven = Driven::of(Outboard::plugin(backend, &options, "relay", [""; 0]).in_group(group.path()));
    let memory = sealed_memfd(7 * GIGABYTE);
    driven.main.done(&request::set_irq(5, false));
    group.set("memory.limit_in_bytes", group.get("memory.usage_in_bytes") + (2 << 20));
    let heir = driven.running.heir();
    let before = driven.resources();
    // Each has logs of dirty pages that take nearly half a megabyte, on KVM at once.
    let mut made = Vec::new();
    let mut refused = false;
    for id in 1..100 {
        let create = Memory { dirty_log: true, ..Memory::new(u64::from(id) * 8 * GIGABYTE, 7 * GIGABYTE) };
        let sent = driven.main.send(request::create_memory(id, create).as_bytes(), &[memory.as_fd()]);
        counters.count();
        let Some(answer) = sent.ok().and_then(|()| driven.main.receive()) else {
            // The kernel has killed it, and with it all of its jail.
            driven.running.end_killed(heir);
            return;
        };
        if answer.errno != 0 {
            assert_eq!(answer.errno, i64::from(Errno::NOMEM.raw_os_error()));
            refused = true;
            break;
        }
        made.push(id);
    }
    assert!(refused || backend == Backend::Mock);
    for id in made {
        driven.main.done(&request::destroy(id));
    }
    driven.assert_holds_no_more_than(before, "memories that there was no memory for");
    driven.finish();
}

/// A guest's program is of no interest here.
impl Driven {
    fn of(call: Outboard) -> Self {
        Self::start(&Program::new(), call)
    }
}
