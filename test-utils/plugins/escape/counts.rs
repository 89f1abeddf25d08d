//! What the kernel counts for a user or for the whole host, and what reaches the host's files.

use std::os::fd::AsRawFd;

use crate::{Attempt, Verdict, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("watch-files", watch_files),
    ("make-a-session", make_a_session),
    ("lock-host-files", lock_host_files),
    ("sync-host-files", sync_host_files),
    ("make-timers", make_timers),
    ("attach-socket-filters", attach_socket_filters),
    ("lock-memory", lock_memory),
    ("make-message-queues", make_message_queues),
    ("fill-the-file-table", fill_the_file_table),
    ("share-equal-pages", share_equal_pages),
    ("enlarge-the-vmms-pipe", enlarge_the_vmms_pipe),
    ("violate-without-end", violate_without_end),
];

/// Files of the host that every jail shows.
const HOST_FILES: [&str; 2] = ["/dev/null", "/proc/self/exe"];

fn open(path: &str) -> Result<std::fs::File, String> {
    std::fs::File::open(path).map_err(|error| format!("ESCAPE KIT: {path}: {error}"))
}

fn watch_files(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    refused("inotify_init1", unsafe { libc::inotify_init1(0) })?;
    // FAN_REPORT_FID, as an ordinary process may ask for.
    // SAFETY: plain numbers.
    refused("fanotify_init", unsafe { libc::fanotify_init(0x200, 0) })
}

/// Each session is a group of the scheduler's with a share of its own.
fn make_a_session(_: &[String]) -> Verdict {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // Only a process that leads no group may make a session.
        // SAFETY: plain numbers, and the end of the child.
        unsafe { libc::_exit(i32::from(libc::setsid() >= 0)) };
    }
    let mut status = 0;
    // SAFETY: `status` is what the call writes.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    if status == 0 { Ok(()) } else { Err("a child made a session".into()) }
}

fn lock_host_files(_: &[String]) -> Verdict {
    for path in HOST_FILES {
        let file = open(path)?;
        let fd = file.as_raw_fd();
        // SAFETY: plain numbers.
        refused("flock", unsafe { libc::flock(fd, libc::LOCK_SH | libc::LOCK_NB) })?;
        // SAFETY: zeros are a lock of the whole file for reading (F_RDLCK).
        let lock: libc::flock = unsafe { std::mem::zeroed() };
        for call in [libc::F_SETLK, libc::F_OFD_SETLK, libc::F_SETLKW, libc::F_OFD_SETLKW] {
            // SAFETY: `lock` is what the call reads.
            refused("fcntl's lock", unsafe { libc::fcntl(fd, call, &raw const lock) })?;
        }
        // SAFETY: plain numbers.
        refused("F_SETLEASE", unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) })?;
    }
    Ok(())
}

fn sync_host_files(_: &[String]) -> Verdict {
    let file = open(HOST_FILES[1])?;
    let fd = file.as_raw_fd();
    // SAFETY: plain numbers, here and below.
    unsafe {
        refused("fsync", libc::fsync(fd))?;
        refused("fdatasync", libc::fdatasync(fd))?;
        refused("sync_file_range", libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE))?;
        // It returns its error.
        refused("dropping a cache", -libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED))?;
        refused("syncfs", libc::syncfs(fd))
    }
}

/// A few hundred are nobody's harm; the host's own limit is tens of thousands for all of a user's processes.
const FEW: usize = 1000;

/// Each timer counts as a signal.
fn make_timers(_: &[String]) -> Verdict {
    for timers in 0..=FEW {
        let mut timer = std::ptr::null_mut();
        // SAFETY: no event is a signal; `timer` is what the call writes.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &raw mut timer) } != 0 {
            eprintln!("the end after {timers}: {}", std::io::Error::last_os_error());
            return Ok(());
        }
    }
    Err(format!("{FEW} timers"))
}

/// Each takes of the memory that the host has for the code of all unprivileged filters. One is enough to see that it can be had.
fn attach_socket_filters(_: &[String]) -> Verdict {
    let mut ends = [0; 2];
    let code = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: u32::MAX };
    let program = libc::sock_fprog { len: 1, filter: (&raw const code).cast_mut() };
    // SAFETY: `ends` is what the first call writes, `program` and `code` are what the second reads.
    refused("SO_ATTACH_FILTER", unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, ends.as_mut_ptr());
        let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
        libc::setsockopt(ends[0], libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size)
    })
}

fn lock_memory(_: &[String]) -> Verdict {
    let memory = vec![0_u8; 64 << 20];
    // SAFETY: the memory is this program's.
    refused("64 MiB", unsafe { libc::mlock(memory.as_ptr().cast(), memory.len()) })
}

fn make_message_queues(_: &[String]) -> Verdict {
    // SAFETY: a name that ends with 0, and numbers; a null pointer is the default size.
    let queue = unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            c"planted".as_ptr(),
            libc::O_CREAT | libc::O_RDWR,
            0o600,
            std::ptr::null::<u8>(),
        )
    };
    refused("mq_open", queue)
}

/// The first argument is how many files the jail may have open.
fn fill_the_file_table(args: &[String]) -> Verdict {
    let most: usize = args.first().and_then(|most| most.parse().ok()).ok_or("ESCAPE KIT: no number")?;
    let (mut processes, mut files) = (0, 0);
    // By which each child tells how many it could open.
    let mut ends = [0; 2];
    // SAFETY: `ends` is what the call writes.
    unsafe { libc::pipe(ends.as_mut_ptr()) };
    while processes < most {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => break,
            // SAFETY: in the child, bare calls that end in a wait without end.
            0 => unsafe {
                let mut opened = 0_u64;
                while libc::eventfd(0, 0) >= 0 {
                    opened += 1;
                }
                libc::write(ends[1], (&raw const opened).cast(), 8);
                loop {
                    libc::pause();
                }
            },
            _ => processes += 1,
        }
        let mut opened = 0_u64;
        // SAFETY: eight bytes are read.
        unsafe { libc::read(ends[0], (&raw mut opened).cast(), 8) };
        files += opened as usize;
    }
    eprintln!("{processes} children with {files} files");
    if files <= most { Ok(()) } else { Err(format!("{files} files of {processes} children")) }
}

/// Pages that the kernel may merge with equal ones of any process.
fn share_equal_pages(_: &[String]) -> Verdict {
    // SAFETY: new memory, which stays.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let page = libc::mmap(std::ptr::null_mut(), 0x1000, access, kind, -1, 0);
        if page == libc::MAP_FAILED {
            return Err("ESCAPE KIT: no memory".into());
        }
        refused("MADV_MERGEABLE", libc::madvise(page, 0x1000, libc::MADV_MERGEABLE))
    }
}

/// Its pages count for the user of the VMM, which has made it.
fn enlarge_the_vmms_pipe(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    refused("F_SETPIPE_SZ of standard error", unsafe { libc::fcntl(2, libc::F_SETPIPE_SZ, 1 << 20) })
}

/// Where violations are only logged, each is received and answered by the VMM. Several threads leave it no moment without one.
fn violate_without_end(_: &[String]) -> Verdict {
    for _ in 0..8 {
        std::thread::spawn(|| {
            loop {
                // SAFETY: plain numbers.
                unsafe { libc::setns(-1, 0) };
            }
        });
    }
    println!("violating");
    loop {
        // SAFETY: waits for its end.
        unsafe { libc::pause() };
    }
}
