//! Filters on real processes.
#![allow(unsafe_code, reason = "a filter is installed between fork and exec, and forbidden calls have no wrapper")]

use std::ffi::CString;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::install::CStrings;
use super::{Filter, Listener, Violation};

/// Says to a copy of this test program which of `CASES` it is to be.
const CASE: &str = "OUTBOARD_TEST_UNDER_FILTER";

/// What a copy does under a filter.
const CASES: &[(&str, fn())] = &[
    ("nothing", || {}),
    ("threads", || {
        let threads: Vec<_> = (0..8).map(|n| std::thread::spawn(move || vec![n; 100_000].len())).collect();
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), 800_000);
    }),
    ("abort", || std::process::abort()),
    ("mount", || {
        // SAFETY: it fails, or never returns.
        let returned = unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), 0, std::ptr::null()) };
        assert_eq!(returned, -1);
    }),
    ("exec", || panic!("{}", Command::new("/bin/true").exec())),
    ("errno", || {
        let error = UnixStream::connect("/nonexistent").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }),
    ("int 0x80", || {
        let mut result: i32 = 20;
        // SAFETY: 20 is getpid, which touches no memory.
        unsafe { std::arch::asm!("int 0x80", inout("eax") result) };
        assert_eq!(result.unsigned_abs(), std::process::id());
    }),
    ("x32", || {
        // SAFETY: getpid touches no memory.
        unsafe { libc::syscall(libc::SYS_getpid | 0x4000_0000) };
    }),
    ("uretprobe", || {
        // SAFETY: it has no arguments. The kernel ends who calls it from elsewhere than its own code, or does not know it.
        unsafe { libc::syscall(libc::SYS_rseq + 1) };
    }),
    ("the VMM's filter", || {
        rustix::thread::set_no_new_privs(true).unwrap();
        super::confine_vmm().unwrap();
        // SAFETY: it has no effect.
        unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffff_u32) };
    }),
    ("a panic of the VMM", || {
        rustix::thread::set_no_new_privs(true).unwrap();
        super::confine_vmm().unwrap();
        panic!("as it may happen");
    }),
    ("a filter of its own", || {
        let own = Filter::builtin().unwrap();
        super::install::install(&own.program, 0).unwrap();
    }),
];

/// Not a test: what the copies of this program are.
#[test]
fn under_a_filter() {
    let Some(case) = std::env::var_os(CASE) else { return };
    CASES.iter().find(|(name, _)| case == *name).unwrap().1();
}

/// Starts a copy of this program under `filter`.
fn start(filter: &Filter, case: &str) -> (Child, Listener) {
    let path = CString::new(std::env::current_exe().unwrap().into_os_string().into_encoded_bytes()).unwrap();
    let arguments =
        ["test", "--exact", "seccomp::process_tests::under_a_filter"].map(|text| CString::new(text).unwrap());
    let arguments = CStrings::from_iter(arguments);
    let environment = CStrings::from_iter([CString::new(format!("{CASE}={case}")).unwrap()]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let filter = filter.clone();
    let mut command = Command::new("/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: system calls only, on what was made before.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let installed = filter.install()?;
            installed.send_listener(theirs.as_fd(), b"!")?;
            Err(installed.exec(&path, &arguments, &environment))
        })
    };
    let child = command.spawn().unwrap();
    (child, Listener::new(receive_descriptor(&ours)).unwrap())
}

fn receive_descriptor(socket: &UnixStream) -> OwnedFd {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut messages = control.drain();
    match messages.next() {
        Some(RecvAncillaryMessage::ScmRights(mut descriptors)) => descriptors.next().unwrap(),
        _ => panic!("no descriptor came"),
    }
}

/// Waits for the first violation; `None` if the processes end without one.
fn await_violation(listener: &Listener) -> Option<Violation> {
    loop {
        let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        match listener.receive().unwrap() {
            None if fds[0].revents().contains(rustix::event::PollFlags::HUP) => return None,
            None => {}
            violation => return violation,
        }
    }
}

/// Runs `case` to its end under `filter`.
fn assert_ends_well(filter: &Filter, case: &str) {
    let (child, listener) = start(filter, case);
    let violation = await_violation(&listener);
    assert!(violation.is_none(), "{case}: {}", violation.unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{case}: {output:?}");
}

/// Runs `case`, whose first violation is told as `expected`, and kills it.
fn assert_violation(filter: &Filter, case: &str, expected: &str) -> Violation {
    let (mut child, listener) = start(filter, case);
    let violation = await_violation(&listener).unwrap_or_else(|| panic!("{case}: no violation"));
    child.kill().unwrap();
    drop(listener);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((violation.to_string().as_str(), child.wait().unwrap().signal()), (expected, Some(9)), "{stderr}");
    violation
}

#[test]
fn programs_with_threads_and_with_filters_of_their_own_run_under_the_built_in_policy() {
    let filter = Filter::builtin().unwrap();
    for case in ["nothing", "threads", "errno", "a filter of its own"] {
        assert_ends_well(&filter, case);
    }
}

#[test]
fn an_abort_is_an_abort_under_the_built_in_policy() {
    let (mut child, listener) = start(&Filter::builtin().unwrap(), "abort");
    assert_eq!(await_violation(&listener), None);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGABRT));
}

/// No listener learns of it, whatever the kernel makes of it.
#[test]
fn a_call_made_by_the_kernel_is_no_violation() {
    let (mut child, listener) = start(&Filter::builtin().unwrap(), "uretprobe");
    assert_eq!(await_violation(&listener), None);
    let status = child.wait().unwrap();
    assert!(status.success() || status.signal() == Some(libc::SIGILL), "{status}");
}

#[test]
fn a_violation_is_named() {
    let filter = Filter::builtin().unwrap();
    let violation = assert_violation(&filter, "mount", "system call 165 (mount)");
    assert_eq!((violation.number, violation.name()), (165, Some("mount")));
    assert_violation(&filter, "exec", "system call 59 (execve)");
    assert_violation(&filter, "x32", "system call 39 of the x32 ABI");
}

/// Where the kernel has the 32-bit ABI; without it, `int 0x80` is a fault.
#[test]
fn a_call_by_the_gate_of_another_abi_is_named() {
    let (mut child, listener) = start(&Filter::builtin().unwrap(), "int 0x80");
    match await_violation(&listener) {
        Some(violation) => assert_eq!(violation.to_string(), "system call 20 of the 32-bit ABI"),
        None => test_utils::kvm::skipped("process_tests::a_call_by_the_gate_of_another_abi_is_named", &"no 32-bit ABI"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_violation_that_is_let_go_on_is_made() {
    let (child, listener) = start(&Filter::builtin().unwrap(), "mount");
    let violation = await_violation(&listener).unwrap();
    listener.let_go_on(&violation).unwrap();
    assert_eq!(await_violation(&listener), None);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn a_violation_whose_listener_is_gone_is_not_made() {
    let (child, listener) = start(&Filter::builtin().unwrap(), "mount");
    await_violation(&listener).unwrap();
    drop(listener);
    // The copy checks that the call has failed.
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn a_policy_that_allows_nothing_still_lets_its_installer_become_the_plugin() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("plugin.policy"), "").unwrap();
    let filter = Filter::from_policy_dir(Path::new(directory.path())).unwrap();
    // The dynamic loader's first call, in the new program.
    assert_violation(&filter, "nothing", "system call 12 (brk)");
}

/// Runs `case`, which puts the VMM's filter on itself: its exit code, and what it said.
fn run_as_vmm(case: &str) -> (Option<i32>, String) {
    let copy = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seccomp::process_tests::under_a_filter", "--nocapture"])
        .env(CASE, case)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    (copy.status.code(), String::from_utf8_lossy(&copy.stderr).into_owned())
}

#[test]
fn a_call_the_vmm_should_not_make_is_named_and_ends_it() {
    let expected = "outboard: error: the VMM made system call 135 (personality), which its own seccomp filter does not \
                    allow. This is a bug.\n";
    assert_eq!(run_as_vmm("the VMM's filter"), (Some(1), expected.into()));
}

#[test]
fn a_panic_of_the_vmm_is_told_by_itself_with_a_backtrace() {
    let (code, said) = run_as_vmm("a panic of the VMM");
    assert!(said.contains("as it may happen") && !said.contains("system call"), "{said}");
    // The test harness's code for a test that panicked.
    assert_eq!(code, Some(101), "{said}");
}
