//! The process a plugin finds itself in, and what is left when it is gone. Shell commands serve as plugins.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use hypervisor::mock::{Mock, Script};
use plugin_runtime::jail::{Helper, JailConfig};
use plugin_runtime::{Config, Error, PluginCommand, Sandbox, run};

fn run_program(path: &str, args: &[&str]) -> Result<(), Error> {
    run_in(Sandbox::None, path, args)
}

fn run_in(sandbox: Sandbox, path: &str, args: &[&str]) -> Result<(), Error> {
    let command = PluginCommand { path: path.into(), args: args.iter().map(Into::into).collect() };
    let config = Config::new(NonZeroU32::new(2).unwrap(), sandbox);
    run(&Mock::new(Script::nothing()), &command, config)
}

fn run_shell(script: &str) -> Result<(), Error> {
    run_program("/bin/sh", &["-c", script])
}

/// Runs a shell script that writes its findings to standard output, and gives them.
fn findings(script: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    run_shell(&format!("exec > {}; {script}", file.path().display())).unwrap();
    std::fs::read_to_string(file.path()).unwrap()
}

#[test]
fn the_plugins_end_is_the_runs() {
    run_shell("exit 0").unwrap();
    assert_eq!(run_shell("exit 7").unwrap_err().to_string(), "plugin sh exited with code 7");
    assert_eq!(run_shell("kill -9 $$").unwrap_err().to_string(), "plugin sh was killed by signal 9 (SIGKILL)");
    assert_eq!(run_shell("kill -ABRT $$").unwrap_err().to_string(), "plugin sh was killed by signal 6 (SIGABRT)");
}

#[test]
fn an_executable_that_cannot_be_started_is_named() {
    let error = run_program("/nonexistent/plugin", &[]).unwrap_err().to_string();
    assert_eq!(error, "starting plugin /nonexistent/plugin: No such file or directory (os error 2)");
    // A bare name is a file here, not a command in PATH.
    assert!(matches!(run_program("sh", &["-c", "exit 0"]), Err(Error::Start { .. })));
}

#[test]
fn a_plugin_inherits_its_socket_and_nothing_else() {
    // Not close-on-exec, as a careless parent of the VMM could have left it.
    let file = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let found = findings("echo $CROSVM_SOCKET; exec find /proc/self/fd -type l -printf '%f %l\\n'");
    let (socket, descriptors) = found.split_once('\n').unwrap();
    for line in descriptors.lines() {
        let (number, target) = line.split_once(' ').unwrap();
        match number {
            "0" | "1" | "2" => {}
            number if number == socket => assert!(target.starts_with("socket:"), "{line}"),
            // The directories that the listing itself has open.
            _ => assert!(Path::new(target).is_dir() || target.ends_with("/fd"), "not the plugin's own: {line}"),
        }
    }
}

#[test]
fn a_plugin_has_its_arguments_unsplit_the_vmms_directory_and_default_signals() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = "exec > \"$1\"; echo \"$0|$2|$3\"; pwd; exec grep -E 'PPid|Sig(Blk|Ign)' /proc/self/status";
    let args = ["-c", script, "name", file.path().to_str().unwrap(), "two words", "-x"];
    run_program("/bin/sh", &args).unwrap();
    let found = std::fs::read_to_string(file.path()).unwrap();
    let mut lines = found.lines();
    assert_eq!(lines.next(), Some("name|two words|-x"));
    assert_eq!(lines.next().map(Path::new), Some(&*std::env::current_dir().unwrap()));
    assert_eq!(lines.next(), Some(&*format!("PPid:\t{}", std::process::id())), "a direct child");
    for name in ["SigBlk", "SigIgn"] {
        assert_eq!(lines.next(), Some(&*format!("{name}:\t0000000000000000")));
    }
}

#[test]
fn a_plugin_that_leaves_a_child_with_its_standard_error_open_still_ends_the_run() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // The child waits for a pipe that it keeps open itself, until it is killed below.
    run_shell(&format!("mkfifo {0}.fifo; (exec sleep 1000 <> {0}.fifo) & echo $! > {0}", file.path().display()))
        .unwrap();
    let child = std::fs::read_to_string(file.path()).unwrap();
    let pid = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    std::fs::remove_file(format!("{}.fifo", file.path().display())).unwrap();
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// One test alone in its process would be needed to compare exactly; the other tests here hold a few dozen at most.
#[test]
fn runs_leave_no_descriptor_and_no_thread_behind() {
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    for _ in 0..200 {
        run_shell("exit 0").unwrap();
    }
    let after = (count("/proc/self/fd"), count("/proc/self/task"));
    assert!(after.0 < before.0 + 150 && after.1 < before.1 + 50, "{before:?} {after:?}");
}

/// Set for a copy of this program that is to do what [`a_signal_after_the_last_run_does_what_it_did_before`] checks.
const COPY: &str = "OUTBOARD_TEST_SIGNAL_AFTER_RUN";

#[test]
fn a_signal_after_the_last_run_does_what_it_did_before() {
    use std::os::unix::process::ExitStatusExt;
    if std::env::var_os(COPY).is_some() {
        run_shell("exit 0").unwrap();
        run_shell("exit 0").unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        std::thread::park_timeout(test_utils::wait::LIMIT);
        return;
    }
    let copy = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_signal_after_the_last_run_does_what_it_did_before"])
        .env(COPY, "")
        .output()
        .unwrap();
    assert_eq!(copy.status.signal(), Some(15), "{copy:?}");
}

/// Where a helper that is killed writes down its init.
const INIT: &str = "OUTBOARD_TEST_INIT";

/// Not a test: a jail's helper that is killed before it has told of its init, which ends without a word too.
#[test]
#[allow(unsafe_code, reason = "no wrapper makes a process that is its parent's parent's child")]
fn be_a_helper_that_is_killed() {
    let Some(file) = std::env::var_os(INIT) else { return };
    // SAFETY: a fork, in which nothing but system calls is made.
    let init = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) };
    if init == 0 {
        // SAFETY: plain numbers.
        unsafe {
            libc::usleep(20_000);
            libc::_exit(0)
        }
    }
    std::fs::write(file, init.to_string()).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn an_init_that_nobody_could_tell_of_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (helper, init) = (folder.path().join("helper"), folder.path().join("init"));
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{INIT}={} exec {} --exact be_a_helper_that_is_killed >/dev/null\n",
        init.display(),
        this.display()
    );
    // By another process: what this one has open to write, a test beside may just be handing to a child, and it cannot be run.
    let write = "printf '%s' \"$1\" >\"$0\" && chmod 755 \"$0\"";
    let written = Command::new("/bin/sh").args(["-c", write]).arg(&helper).arg(script).status().unwrap();
    assert!(written.success());
    let jail = JailConfig { helper: Helper { program: helper }, ..JailConfig::default() };
    let error = run_in(Sandbox::Jail(Box::new(jail)), "/bin/true", &[]).unwrap_err();
    assert!(matches!(error, Error::Killed { signal: 9, .. }), "{error}");
    let pid = rustix::process::Pid::from_raw(std::fs::read_to_string(init).unwrap().parse().unwrap()).unwrap();
    // One that nobody has waited for is still there.
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}
