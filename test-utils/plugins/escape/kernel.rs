//! Parts of the kernel that a plugin has no need of.

use crate::{Attempt, Verdict, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("bpf", bpf),
    ("io-uring", io_uring),
    ("userfaultfd", userfaultfd),
    ("keyctl", keyctl),
    ("perf-events", perf_events),
    ("kernel-modules", kernel_modules),
    ("push-into-a-terminal", push_into_a_terminal),
    ("kernel-log", kernel_log),
    ("reboot", reboot),
    ("set-the-clock", set_the_clock),
    ("swap-and-accounting", swap_and_accounting),
    ("port-access", port_access),
    ("kernel-quotas", kernel_quotas),
];

/// The result of a system call with numbers and strings for arguments.
fn call(number: i64, args: [u64; 5]) -> i64 {
    // SAFETY: every pointer handed in here is to memory that lives as long as the program, or null.
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) }
}

fn bpf(_: &[String]) -> Verdict {
    // BPF_MAP_CREATE of a hash: type, size of key and value, entries. Then a socket filter that returns 0.
    static MAP: [u32; 16] = [1, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    refused("a map", call(libc::SYS_bpf, [0, MAP.as_ptr() as u64, 64, 0, 0]))?;
    static PROGRAM: [u64; 2] = [0xb7, 0x95];
    static LICENSE: [u8; 4] = *b"GPL\0";
    let attributes = [1 | 2 << 32, PROGRAM.as_ptr() as u64, LICENSE.as_ptr() as u64, 0, 0, 0, 0, 0];
    refused("a program", call(libc::SYS_bpf, [5, attributes.as_ptr() as u64, 64, 0, 0]))
}

/// On a kernel without it, or where an administrator has shut it off, this shows nothing.
fn io_uring(_: &[String]) -> Verdict {
    let mut parameters = [0_u32; 64];
    let ring = call(libc::SYS_io_uring_setup, [4, parameters.as_mut_ptr() as u64, 0, 0, 0]);
    refused("io_uring_setup", ring)
}

/// Faults that the kernel itself takes are the dangerous ones.
fn userfaultfd(_: &[String]) -> Verdict {
    refused("userfaultfd", call(libc::SYS_userfaultfd, [0, 0, 0, 0, 0]))
}

fn keyctl(_: &[String]) -> Verdict {
    let words = [c"user".as_ptr() as u64, c"planted".as_ptr() as u64, c"x".as_ptr() as u64];
    // To the session's keyring, then to the user's, which others of the same user share.
    refused("add_key", call(libc::SYS_add_key, [words[0], words[1], words[2], 1, -3_i64 as u64]))?;
    refused("add_key for the user", call(libc::SYS_add_key, [words[0], words[1], words[2], 1, -4_i64 as u64]))?;
    refused("keyctl", call(libc::SYS_keyctl, [0, -4_i64 as u64, 1, 0, 0]))
}

fn perf_events(_: &[String]) -> Verdict {
    // The size is in the second word; all zeros is a hardware event, of any process on processor 0.
    let mut attributes = [0_u32; 32];
    attributes[1] = 128;
    refused(
        "perf_event_open",
        call(libc::SYS_perf_event_open, [attributes.as_ptr() as u64, -1_i64 as u64, 0, u64::MAX, 0]),
    )
}

fn kernel_modules(_: &[String]) -> Verdict {
    refused("init_module", call(libc::SYS_init_module, [c"x".as_ptr() as u64, 1, c"".as_ptr() as u64, 0, 0]))?;
    refused("finit_module", call(libc::SYS_finit_module, [0, c"".as_ptr() as u64, 0, 0, 0]))?;
    refused("delete_module", call(libc::SYS_delete_module, [c"x".as_ptr() as u64, 0, 0, 0, 0]))?;
    refused("kexec_load", call(libc::SYS_kexec_load, [0, 0, 0, 0, 0]))
}

/// A byte that looks as if it had been typed.
fn push_into_a_terminal(_: &[String]) -> Verdict {
    for fd in 0..3 {
        // SAFETY: one byte is read.
        refused("TIOCSTI", unsafe { libc::ioctl(fd, libc::TIOCSTI, c"x".as_ptr()) })?;
        // SAFETY: plain numbers.
        refused("TIOCSCTTY", unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 1) })?;
    }
    Ok(())
}

fn kernel_log(_: &[String]) -> Verdict {
    refused("clearing it", call(libc::SYS_syslog, [5, 0, 0, 0, 0]))?;
    refused("turning it off", call(libc::SYS_syslog, [6, 0, 0, 0, 0]))
}

/// Ctrl-Alt-Del is what is tried to be turned off, in case it works.
fn reboot(_: &[String]) -> Verdict {
    refused("reboot", call(libc::SYS_reboot, [0xfee1_dead, 0x2812_1969, 0, 0, 0]))
}

fn set_the_clock(_: &[String]) -> Verdict {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is what the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    // SAFETY: `now` is what the call reads.
    refused("clock_settime", unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &now) })
}

fn swap_and_accounting(_: &[String]) -> Verdict {
    refused("swapon", call(libc::SYS_swapon, [c"/etc/ld.so.cache".as_ptr() as u64, 0, 0, 0, 0]))?;
    refused("swapoff", call(libc::SYS_swapoff, [c"/etc/ld.so.cache".as_ptr() as u64, 0, 0, 0, 0]))?;
    refused("acct", call(libc::SYS_acct, [0, 0, 0, 0, 0]))
}

fn port_access(_: &[String]) -> Verdict {
    refused("iopl", call(libc::SYS_iopl, [3, 0, 0, 0, 0]))?;
    refused("ioperm", call(libc::SYS_ioperm, [0x80, 1, 1, 0, 0]))
}

fn kernel_quotas(_: &[String]) -> Verdict {
    // Q_QUOTAON for users.
    refused("quotactl", call(libc::SYS_quotactl, [0x80_0002 << 8, c"/dev/vda".as_ptr() as u64, 0, 0, 0]))?;
    refused("lookup_dcookie or fanotify", call(libc::SYS_fanotify_init, [0, 0, 0, 0, 0]))
}
