//! Two plugins side by side: one uses up what the kernel counts for its user, the other needs a little of it.

use std::io::Write;

use crate::{Attempt, Verdict};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[("hoard", hoard), ("need", need)];

/// Takes all there is of what the first argument names, says so on standard output, and keeps it until it is killed.
fn hoard(args: &[String]) -> Verdict {
    let name = args.first().ok_or("ESCAPE KIT: an argument is missing")?;
    let count = count(name)?;
    let mut taken = 0;
    while taken < count.most && (count.take)() {
        taken += 1;
    }
    println!("hoarded");
    eprintln!("{taken} of {name}: {}", std::io::Error::last_os_error());
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    loop {
        // SAFETY: waits for its end.
        unsafe { libc::pause() };
    }
}

/// Takes one of what the first argument names. That it cannot is what must not be.
fn need(args: &[String]) -> Verdict {
    let name = args.first().ok_or("ESCAPE KIT: an argument is missing")?;
    if (count(name)?.take)() { Ok(()) } else { Err(format!("no {name}: {}", std::io::Error::last_os_error())) }
}

/// Something that the kernel counts.
struct Count {
    name: &'static str,
    /// Takes one, and keeps it; `false` where there is none any more.
    take: fn() -> bool,
    /// Where to stop, where the kernel's limit would cost the host too much memory.
    most: usize,
}

static COUNTS: [Count; 6] = [
    Count { name: "descriptors-in-flight", take: send_a_descriptor, most: 100_000 },
    Count { name: "epoll-watches", take: watch_by_epoll, most: 1500 },
    Count { name: "pipe-pages", take: make_a_large_pipe, most: 100_000 },
    Count { name: "keys", take: add_a_key, most: 100_000 },
    Count { name: "locked-memory", take: lock_a_page, most: 100_000 },
    Count { name: "pending-signals", take: queue_a_signal, most: 1_000_000 },
];

fn count(name: &str) -> Result<&'static Count, String> {
    COUNTS.iter().find(|count| count.name == name).ok_or_else(|| format!("ESCAPE KIT: {name} is not counted"))
}

/// Sends one to a socket of its own where nobody reads it. A socket takes some 278 messages, so each has its own.
fn send_a_descriptor() -> bool {
    // SAFETY: `ends`, `byte`, `control` and `message` have the layouts of socketpair(2) and sendmsg(2), and outlive the calls.
    unsafe {
        let mut ends = [0; 2];
        let mut byte = *b"x";
        let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let mut control = [0_u64; 160];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        // 253 is the most that one message takes (SCM_MAX_FD).
        let fds = [0; 253];
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(&fds) as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of_val(&fds) as u32) as _;
        libc::CMSG_DATA(header).cast::<[i32; 253]>().write_unaligned(fds);
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, ends.as_mut_ptr()) == 0
            && libc::sendmsg(ends[0], &raw const message, libc::MSG_DONTWAIT) >= 0
    }
}

fn watch_by_epoll() -> bool {
    // SAFETY: `event` is what the last call reads.
    unsafe {
        static EPOLL: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
        let epoll = *EPOLL.get_or_init(|| libc::epoll_create1(0));
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, libc::eventfd(0, 0), &raw mut event) == 0
    }
}

/// 256 KiB, the most that the built-in policy lets a pipe have.
fn make_a_large_pipe() -> bool {
    let mut ends = [0; 2];
    // SAFETY: `ends` is what the first call writes.
    unsafe { libc::pipe(ends.as_mut_ptr()) == 0 && libc::fcntl(ends[0], libc::F_SETPIPE_SZ, 1 << 18) >= 0 }
}

/// To the process's keyring, so that it goes with the process.
fn add_a_key() -> bool {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("hoarded {}\0", NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    // SAFETY: strings that end with 0, and a byte.
    unsafe { libc::syscall(libc::SYS_add_key, c"user".as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, -2) >= 0 }
}

fn lock_a_page() -> bool {
    // SAFETY: new memory, which stays.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 0x10000, access, kind, -1, 0);
        page != libc::MAP_FAILED && libc::mlock(page, 0x10000) == 0
    }
}

fn queue_a_signal() -> bool {
    // SAFETY: `set` is what the calls write and read; the last one sends a number to this process.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGRTMAX());
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::sigqueue(libc::getpid(), libc::SIGRTMAX(), libc::sigval { sival_ptr: std::ptr::null_mut() }) == 0
    }
}
