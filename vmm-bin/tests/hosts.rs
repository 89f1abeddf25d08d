//! Jails on hosts that forbid a part of what makes them: distributions, containers, WSL, kernels without. Each run works, or
//! fails with one line that names the remedy.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::process::Command;

use hypervisor::mock::Mock;
use plugin_runtime::jail::{Helper, JailConfig};
use plugin_runtime::{Config, Error, Filter, PluginCommand, Sandbox, run};
use rustix::process::geteuid;
use test_utils::faults::syscalls::{Call, Whose, failing_of, refusing};
use test_utils::kvm::skipped;
use test_utils::log;

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

/// A run whose plugin is the shell with this script.
fn shell(script: &str, filter: Option<Filter>) -> Result<(), Error> {
    let args = ["-c", script].map(OsString::from).into();
    let command = PluginCommand { path: "/bin/sh".into(), args };
    let helper = Helper { program: env!("CARGO_BIN_EXE_outboard").into() };
    let jail = JailConfig { helper, seccomp: filter, ..JailConfig::default() };
    let config = Config::new(NonZeroU32::MIN, Sandbox::Jail(Box::new(jail)));
    run(&Mock::guest_code(), &command, config)
}

fn builtin() -> Option<Filter> {
    Some(Filter::builtin().unwrap())
}

/// Under a filter whose listener is somebody else's, as in WSL, in a container with a seccomp agent, or in a test that injects
/// faults.
fn under_a_listener<T: Send>(scenario: impl FnOnce() -> T + Send) -> T {
    // Nobody makes this call.
    let never = Call::new("vhangup", &[153]);
    failing_of(Whose::Own, never, 1, EPERM, scenario).0
}

/// One test: the log belongs to the process.
#[test]
fn under_a_listener_the_kernel_alone_holds_the_plugin() {
    log::keep();
    under_a_listener(|| shell("exit 0", builtin())).unwrap();
    let error = under_a_listener(|| shell("exit 3", builtin())).unwrap_err().to_string();
    assert_eq!(error, "plugin sh exited with code 3");
    log::take();

    let error = under_a_listener(|| shell("exec /bin/true", builtin())).unwrap_err();
    assert!(matches!(error, Error::UnnamedViolation { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("seccomp policy does not allow") && told.contains("kernel's log"), "{told}");

    // The call is made: there is no such file, and the shell says so.
    let error = under_a_listener(|| shell("exec /nonexistent; exit", builtin().map(Filter::logging))).unwrap_err();
    assert_eq!(error.to_string(), "plugin sh exited with code 127");

    // A signal of the plugin's own is none of the filter's, where that has a listener.
    let error = shell("kill -SYS $$; kill -31 $$", builtin()).unwrap_err().to_string();
    assert!(error.contains("signal 31 (SIGSYS)"), "{error}");
}

#[test]
fn a_kernel_that_knows_no_listener_has_filters_without() {
    // gVisor refuses the flag so.
    let run = |script: &'static str| refusing(Call::LISTENER, EINVAL, || shell(script, builtin()));
    run("exit 0").unwrap();
    let error = run("exec /bin/true").unwrap_err();
    assert!(matches!(error, Error::UnnamedViolation { .. }), "{error}");
}

#[test]
fn a_host_that_refuses_filters_is_named_with_its_remedy() {
    for errno in [EINVAL, ENOSYS, EPERM] {
        let error =
            refusing(Call::new("seccomp", &[317]), errno, || shell("exit 0", builtin())).unwrap_err().to_string();
        assert!(error.contains("the system call filter"), "{error}");
        assert!(error.contains("allow seccomp") || error.contains("filters this system call"), "{error}");
    }
}

#[test]
fn a_kernel_without_landlock_has_jails_without() {
    let create_ruleset = Call::new("landlock_create_ruleset", &[444]);
    for errno in [ENOSYS, EOPNOTSUPP, EINVAL] {
        refusing(create_ruleset, errno, || shell("exit 0", builtin()))
            .unwrap_or_else(|error| panic!("{errno}: {error}"));
    }
    // One that has it, behind a filter that does not let it be used.
    for (call, errno) in [
        (create_ruleset, EPERM),
        (Call::new("landlock_add_rule", &[445]), ENOSYS),
        (Call::new("landlock_restrict_self", &[446]), EPERM),
    ] {
        let error = refusing(call, errno, || shell("exit 0", builtin())).unwrap_err().to_string();
        assert!(error.contains("the landlock rules") && error.contains("filters the calls of landlock"), "{error}");
    }
}

#[test]
fn without_clone3_the_jail_is_made_by_clone() {
    // Docker's default filter answers so.
    refusing(Call::new("clone3", &[435]), ENOSYS, || shell("exit 0", builtin())).unwrap();
}

#[test]
fn what_hosts_and_containers_refuse_is_named_with_its_remedy() {
    for (call, errno, parts) in [
        // kernel.unprivileged_userns_clone=0 and containers: with CLONE_NEWUSER.
        (Call::new("clone3", &[435]), EPERM, ["namespaces", "kernel.unprivileged_userns_clone=1"]),
        (Call::new("clone3", &[435]), EACCES, ["namespaces", "or run as root"]),
        // Where /proc is masked no other may be mounted. The first file system here is the jail's root.
        (Call::new("fsmount", &[432]), EPERM, ["the root directory", "apparmor_restrict_unprivileged_userns=0"]),
        (Call::new("mount_setattr", &[442]), ENOSYS, ["what is to be mounted", "filters this system call"]),
        (Call::new("open_tree", &[428]), ENOSYS, ["what is to be mounted", "filters this system call"]),
        (Call::new("move_mount", &[429]), ENOSYS, ["the root directory", "filters this system call"]),
        (Call::new("pivot_root", &[155]), EPERM, ["the root directory", "or run as root"]),
        (Call::new("sethostname", &[170]), EPERM, ["the host name", "apparmor_restrict_unprivileged_userns=0"]),
    ] {
        let error = refusing(call, errno, || shell("exit 0", builtin())).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{}: {part:?} is not said: {error}", call.name);
        }
    }
}

/// With `vm.memfd_noexec` at 2, which is the PID namespace's own, each memfd has one seal more. The rings, what the helper is told,
/// and a plugin's guest memory are memfds.
#[test]
fn where_no_memfd_may_be_executable_a_plugin_runs() {
    let test = "hosts::where_no_memfd_may_be_executable_a_plugin_runs";
    if !geteuid().is_root() {
        return skipped(test, &"the tests are not root's");
    }
    let examples = std::path::Path::new(env!("CARGO_BIN_EXE_outboard")).parent().unwrap().join("examples/adder");
    let script = "echo 2 > /proc/sys/vm/memfd_noexec || exit 77; exec \"$0\" run --hypervisor mock --plugin-stdio --plugin \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    command.arg(env!("CARGO_BIN_EXE_outboard")).arg(examples);
    let output = match command.output() {
        Ok(output) if output.status.code() != Some(77) => output,
        Ok(output) => return skipped(test, &String::from_utf8_lossy(&output.stderr)),
        Err(error) => return skipped(test, &error),
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout.lines().collect::<Vec<_>>(), ["2 + 3 = 5", "20 + 22 = 42"]);
}
