//! What the options of `outboard run` change, seen from outside.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Backend, Driven, Outboard, example, on_each_backend};
use rustix::process::Pid;
use tempfile::TempDir;
use test_utils::guest::Program;
use test_utils::kvm::{kvm_or_skip, skipped};
use test_utils::raw::request;

on_each_backend! {
    params_come_before_the_other_arguments_each_as_it_is
    the_thread_of_each_vcpu_joins_the_control_group
    a_control_group_that_takes_no_thread_ends_the_vm_by_an_error_that_names_it
    without_a_sandbox_a_plugin_runs
    without_a_sandbox_jail_options_give_one_warning
}

fn params_come_before_the_other_arguments_each_as_it_is(backend: Backend) {
    let probe = example("probe").display().to_string();
    let args = [
        "-p",
        "print=a b",
        "--plugin-stdio",
        "--plugin",
        &probe,
        "--params",
        "print=c,d",
        "--params=print=",
        "--",
        "print=last",
    ];
    let ended = Outboard::new(["run", "--hypervisor", backend.name()].into_iter().chain(args)).run();
    ended.assert_success();
    assert_eq!(ended.stdout, ["a b", "c,d", "", "last"]);
}

fn without_a_sandbox_a_plugin_runs(backend: Backend) {
    let program = Program::new();
    Driven::with(backend, &program, &["--disable-sandbox"]).finish();
}

/// As old test harnesses and scripts have them together.
fn without_a_sandbox_jail_options_give_one_warning(backend: Backend) {
    let probe = example("probe").display().to_string();
    let run = |options: &[&str]| {
        let call = ["run", "--hypervisor", backend.name(), "--disable-sandbox", "--plugin", &probe];
        let ended = Outboard::new(call.iter().chain(options)).run();
        ended.assert_success();
        ended
    };
    let each = [
        ["--plugin-root", "/nonexistent"],
        ["--plugin-mount", "/nonexistent"],
        ["--plugin-mount-file", "/nonexistent"],
        ["--plugin-gid-map", "5"],
        ["--plugin-gid-map-file", "/nonexistent"],
        ["--plugin-user", "7"],
        ["--plugin-max-descriptors", "20"],
        ["--plugin-max-processes", "3"],
        ["--seccomp-policy-dir", "/nonexistent"],
    ];
    let flags = [["--plugin-stdio"], ["--seccomp-log"]];
    let all: Vec<&str> = each.iter().flatten().chain(flags.iter().flatten()).copied().collect();
    let cases = each.iter().map(|option| &option[..]).chain(flags.iter().map(|flag| &flag[..])).chain([&all[..]]);
    for options in cases {
        let ended = run(options);
        let warned = ended.logged(&["WARN", "without a jail", "the other options for its jail have no effect"]);
        assert_eq!((warned, ended.logged(&["WARN"])), (1, 1), "{options:?}: {ended:#?}");
    }
    assert_eq!(run(&[]).logged(&["no effect"]), 0);
}

/// Of one option that another makes moot, without loss.
#[test]
fn options_that_others_make_moot_are_accepted() {
    let probe = example("probe").display().to_string();
    for options in [
        &["--hypervisor", "mock", "--kvm-device", "/nonexistent"][..],
        &["--hypervisor", "mock", "--hugepages"],
        &["--hypervisor", "mock", "--transport", "pipe", "--poll-us", "10"],
        &["-q", "-v", "--hypervisor", "mock"],
    ] {
        let ended = Outboard::new(["run", "--plugin", &probe].iter().chain(options)).run();
        ended.assert_success();
        assert_eq!(ended.logged(&["WARN"]), 0, "{options:?}: {ended:#?}");
    }
}

/// The ids of the VMM's threads that run vCPUs.
fn vcpu_threads(vmm: Pid) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{vmm}/task")).unwrap();
    let ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    ids.filter(|id| fs::read_to_string(format!("/proc/{vmm}/task/{id}/comm")).unwrap().starts_with("vcpu")).collect()
}

/// A directory that looks like a control group.
fn fake_cgroup() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("tasks"), "").unwrap();
    directory
}

fn options(cgroup: &Path) -> [&str; 4] {
    ["-c", "2", "--vcpu-cgroup-path", cgroup.to_str().unwrap()]
}

/// Starts the vCPUs and waits until they are initialised.
fn start(driven: &Driven) {
    let mut vcpus = driven.main.vcpus();
    driven.main.done(&request::start());
    for vcpu in &mut vcpus {
        vcpu.await_init();
    }
}

fn the_thread_of_each_vcpu_joins_the_control_group(backend: Backend) {
    let cgroup = fake_cgroup();
    let driven = Driven::with(backend, &Program::new(), &options(cgroup.path()));
    start(&driven);
    let joined = fs::read_to_string(cgroup.path().join("tasks")).unwrap();
    let joined: BTreeSet<_> = joined.lines().map(str::to_owned).collect();
    assert_eq!((joined.len(), joined), (2, vcpu_threads(driven.running.pid())));
    driven.finish();
}

fn a_control_group_that_takes_no_thread_ends_the_vm_by_an_error_that_names_it(backend: Backend) {
    let cgroup = TempDir::new().unwrap();
    symlink("/dev/full", cgroup.path().join("cgroup.threads")).unwrap();
    let driven = Driven::with(backend, &Program::new(), &options(cgroup.path()));
    let shutdown = driven.main.descriptor(&request::get_shutdown_eventfd());
    driven.main.done(&request::start());
    let ended = driven.obey(&shutdown);
    ended.assert_failure(&["vCPU", cgroup.path().to_str().unwrap(), "No space left on device"]);
}

#[test]
fn a_control_group_that_is_none_is_named_before_the_plugin_starts() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path().to_str().unwrap();
    for (path, why) in
        [("/nonexistent", "cgroup.threads"), (directory, "cgroup.threads"), ("/dev/null", "Not a directory")]
    {
        let probe = example("probe");
        let args = ["run", "--hypervisor", "mock", "--vcpu-cgroup-path", path, "--plugin", probe.to_str().unwrap()];
        let ended = Outboard::new(args.into_iter().chain(["--", "print=started"])).run();
        ended.assert_failure(&[path, why]);
        assert!(ended.stdout.is_empty());
    }
}

/// A control group of the system's, gone again when this is dropped.
struct RealCgroup(PathBuf);

impl Drop for RealCgroup {
    fn drop(&mut self) {
        // The kernel keeps it until the last thread has gone.
        let _ = test_utils::wait::holds(|| fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_control_group_of_the_systems_has_the_threads() {
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup/cpu/outboard-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&cgroup) {
        skipped("options::a_control_group_of_the_systems_has_the_threads", &error);
        return;
    }
    let cgroup = RealCgroup(cgroup);
    let driven = Driven::with(Backend::Mock, &Program::new(), &options(&cgroup.0));
    start(&driven);
    let joined = fs::read_to_string(cgroup.0.join("tasks")).unwrap();
    let joined: BTreeSet<_> = joined.lines().map(str::to_owned).collect();
    assert_eq!((joined.len(), joined), (2, vcpu_threads(driven.running.pid())));
    driven.finish();
}

#[test]
fn another_kvm_device_is_the_one_that_is_opened() {
    let probe = example("probe");
    let run = |device: &Path, more: &[&str]| {
        let args = ["run", "--kvm-device", device.to_str().unwrap(), "--plugin", probe.to_str().unwrap()];
        Outboard::new(args.iter().chain(more)).run()
    };
    for more in [&[][..], &["--hypervisor", "kvm"]] {
        run(Path::new("/nonexistent"), more).assert_failure(&["/nonexistent", "No such file or directory"]);
        run(Path::new("/dev/null"), more).assert_failure(&["/dev/null", "KVM_GET_API_VERSION"]);
    }
    if kvm_or_skip("options::another_kvm_device_is_the_one_that_is_opened, the half for KVM").is_some() {
        let directory = TempDir::new().unwrap();
        let device = directory.path().join("kvm-of-another-name");
        symlink("/dev/kvm", &device).unwrap();
        run(&device, &[]).assert_success();
    }
}

/// Of each mapping of a memfd that the VMM has, whether huge pages were advised.
fn huge_pages_advised(vmm: Pid) -> Vec<bool> {
    let smaps = fs::read_to_string(format!("/proc/{vmm}/smaps")).unwrap();
    let mut mappings = Vec::new();
    let mut is_memfd = false;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if is_memfd {
                mappings.push(flags.split_whitespace().any(|flag| flag == "hg"));
            }
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_memfd = line.contains("/memfd:");
        }
    }
    mappings
}

#[test]
fn hugepages_are_advised_for_guest_memory_when_asked_for() {
    if kvm_or_skip("options::hugepages_are_advised_for_guest_memory_when_asked_for").is_none() {
        return;
    }
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        skipped("options::hugepages_are_advised_for_guest_memory_when_asked_for", &"a kernel without huge pages");
        return;
    }
    for (options, advised) in [(&[][..], false), (&["--hugepages"], true)] {
        let driven = Driven::with(Backend::Kvm, &Program::new(), options);
        driven.load();
        assert_eq!(huge_pages_advised(driven.running.pid()), [advised]);
        driven.finish();
    }
}
