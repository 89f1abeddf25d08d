//! Other processes, other programs, more processes, other privileges.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Attempt, Verdict, failed, path, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("trace-a-process-outside", trace_a_process_outside),
    ("trace-the-init", trace_the_init),
    ("signal-a-process-outside", signal_a_process_outside),
    ("signal-the-init", signal_the_init),
    ("take-descriptors-of-another-process", take_descriptors_of_another_process),
    ("see-processes-outside", see_processes_outside),
    ("look-into-the-init", look_into_the_init),
    ("execute-another-binary", execute_another_binary),
    ("outlive-the-plugin", outlive_the_plugin),
    ("become-root", become_root),
    ("gain-capabilities", gain_capabilities),
    ("lift-no-new-privs", lift_no_new_privs),
    ("leave-the-session", leave_the_session),
    ("real-time-priority", real_time_priority),
];

fn pid(args: &[String]) -> Result<libc::pid_t, String> {
    args.first().and_then(|pid| pid.parse().ok()).ok_or_else(|| "ESCAPE KIT: no pid".into())
}

fn trace(pid: libc::pid_t) -> Verdict {
    for (name, request) in [("PTRACE_ATTACH", libc::PTRACE_ATTACH), ("PTRACE_SEIZE", libc::PTRACE_SEIZE)] {
        // SAFETY: no memory is touched by these requests.
        refused(name, unsafe { libc::ptrace(request, pid, 0, 0) })?;
    }
    let mut byte = 0_u8;
    let here = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let there = libc::iovec { iov_base: 0x40_0000 as *mut _, iov_len: 1 };
    // SAFETY: one byte is written to `byte`, if at all.
    refused("process_vm_readv", unsafe { libc::process_vm_readv(pid, &here, 1, &there, 1, 0) as i64 })?;
    // SAFETY: nothing here is written.
    refused("process_vm_writev", unsafe { libc::process_vm_writev(pid, &here, 1, &there, 1, 0) as i64 })
}

/// The first argument is the pid of a process outside.
fn trace_a_process_outside(args: &[String]) -> Verdict {
    trace(pid(args)?)
}

fn trace_the_init(_: &[String]) -> Verdict {
    trace(1)
}

/// The first argument is the pid of a process outside.
fn signal_a_process_outside(args: &[String]) -> Verdict {
    let pid = pid(args)?;
    for signal in [0, libc::SIGTERM, libc::SIGKILL] {
        // SAFETY: plain numbers.
        refused("kill", unsafe { libc::kill(pid, signal) })?;
        // SAFETY: plain numbers.
        refused("tgkill", unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, signal) })?;
        // SAFETY: plain numbers.
        refused("kill of a group", unsafe { libc::kill(-pid, signal) })?;
    }
    Ok(())
}

/// It may be said to work, but the init lives on.
fn signal_the_init(_: &[String]) -> Verdict {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP, libc::SIGSEGV] {
        // SAFETY: plain numbers.
        unsafe { libc::kill(1, signal) };
    }
    let state = fs::read_to_string("/proc/1/stat").map_err(|error| format!("the init is gone: {error}"))?;
    if state.contains(") T ") { Err("the init is stopped".into()) } else { Ok(()) }
}

/// The first argument is the pid of a process outside.
fn take_descriptors_of_another_process(args: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    refused("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, pid(args)?, 0) })?;
    // SAFETY: plain numbers.
    let init = unsafe { libc::syscall(libc::SYS_pidfd_open, 1, 0) };
    for fd in 0..64 {
        // SAFETY: plain numbers.
        let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, init, fd, 0) };
        if taken >= 0 {
            return Err(format!("descriptor {fd} of the init"));
        }
    }
    Ok(())
}

/// The first argument is the pid of a process outside.
fn see_processes_outside(args: &[String]) -> Verdict {
    failed("its directory in /proc", fs::read_dir(format!("/proc/{}", pid(args)?)))?;
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name().to_string_lossy().into_owned();
        if name.parse().is_ok_and(|pid: u32| pid != 1 && pid != std::process::id()) {
            return Err(format!("process {name} is to be seen"));
        }
    }
    Ok(())
}

fn look_into_the_init(_: &[String]) -> Verdict {
    for file in ["mem", "environ", "maps", "root/etc/passwd", "cwd/etc/passwd", "fd/0", "exe", "ns/mnt"] {
        failed(file, File::open(format!("/proc/1/{file}")))?;
    }
    failed("fd", fs::read_dir("/proc/1/fd"))
}

/// The first argument is a binary of the host's.
fn execute_another_binary(args: &[String]) -> Verdict {
    let mut binaries = vec!["/bin/sh".to_owned(), "/usr/bin/env".to_owned(), "/bin/busybox".to_owned()];
    binaries.extend_from_slice(args);
    find_executable(Path::new("/usr/lib"), 4, &mut binaries);
    for binary in &binaries {
        let text = path(std::slice::from_ref(binary), 0)?;
        let argv = [text.as_ptr(), std::ptr::null()];
        // SAFETY: both end with 0, or with a null pointer.
        refused(binary, unsafe { libc::execv(text.as_ptr(), argv.as_ptr()) })?;
    }
    Ok(())
}

/// A program, not a library and no loader, among the libraries.
fn find_executable(directory: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if found.len() > 20 {
            return;
        }
        if metadata.is_dir() && depth > 0 {
            find_executable(&path, depth - 1, found);
        } else if metadata.is_file() && metadata.permissions().mode() & 0o1 != 0 {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.contains(".so") {
                found.push(path.display().to_string());
            }
        }
    }
}

/// The plugin is gone before its grandchild, which nothing ties to it. The test sees whether one is left.
fn outlive_the_plugin(_: &[String]) -> Verdict {
    // SAFETY: this process has one thread.
    if unsafe { libc::fork() } == 0 {
        // SAFETY: as above, in the child, which touches nothing before it sleeps.
        unsafe {
            libc::setsid();
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            libc::signal(libc::SIGTERM, libc::SIG_IGN);
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            loop {
                libc::pause();
            }
        }
    }
    Ok(())
}

fn become_root(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    unsafe {
        refused("setuid", libc::setuid(0))?;
        refused("setgid", libc::setgid(0))?;
        refused("setresuid", libc::setresuid(0, 0, 0))?;
        refused("setgroups", libc::setgroups(1, &0))?;
        refused("setuid to another", libc::setuid(1))
    }
}

fn gain_capabilities(_: &[String]) -> Verdict {
    // Version 3 and this process; effective, permitted and inheritable, twice.
    let header = [0x2008_0522_u32, 0];
    let all = [u32::MAX; 6];
    // SAFETY: both have the sizes that version 3 has.
    refused("capset", unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), all.as_ptr()) })?;
    // SAFETY: plain numbers.
    refused("an ambient capability", unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 21_u64, 0_u64, 0_u64)
    })?;
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    match status.lines().find(|line| line.starts_with("Cap") && !line.ends_with("\t0000000000000000")) {
        Some(set) => Err(set.to_owned()),
        None => Ok(()),
    }
}

fn lift_no_new_privs(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    refused("PR_SET_NO_NEW_PRIVS", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 0_u64, 0_u64, 0_u64, 0_u64) })?;
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    if status.contains("NoNewPrivs:\t1") { Ok(()) } else { Err("no_new_privs is not set".into()) }
}

/// A session of its own is no escape; to be in the VMM's, or to have its terminal, would be.
fn leave_the_session(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    let session = unsafe { libc::getsid(0) };
    if session == 0 {
        return Err("the session is one from outside".into());
    }
    failed("/dev/tty", File::open("/dev/tty"))
}

fn real_time_priority(_: &[String]) -> Verdict {
    let parameters = libc::sched_param { sched_priority: 50 };
    // SAFETY: `parameters` is what the call reads.
    refused("SCHED_FIFO", unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) })?;
    // SAFETY: plain numbers.
    refused("nice", unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) })
}
