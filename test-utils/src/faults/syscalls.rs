//! System calls that fail in the kernel: the Nth of a kind, of one thread and those it starts.
//!
//! A seccomp filter asks the test about each call of the kind, and the test lets it be made or names its errno. So it is the
//! code as it is that fails, in whatever library makes the call, and nothing has to be built for it.
//!
//! ```
//! use std::io::ErrorKind;
//! use test_utils::faults::syscalls::{self, Call};
//!
//! // The second pipe cannot be had.
//! let (results, struck) = syscalls::failing(Call::PIPE, 2, 24, || [(); 3].map(|()| std::io::pipe().is_ok()));
//! assert_eq!((results, struck), ([true, false, true], true));
//! ```
//!
//! It needs Linux 5.8, and a kernel that lets a process filter itself.
#![allow(unsafe_code, reason = "seccomp's filters and notifications have no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::wait::LIMIT;

/// A kind of system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is called.
    pub name: &'static str,
    numbers: &'static [libc::c_long],
}

impl Call {
    /// A process or a thread is started.
    pub const CLONE: Self = Self::new("clone", &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_vfork, libc::SYS_fork]);
    /// A file's descriptors, flags, seals and locks.
    pub const FCNTL: Self = Self::new("fcntl", &[libc::SYS_fcntl]);
    /// An epoll instance is made.
    pub const EPOLL_CREATE: Self = Self::new("epoll_create1", &[libc::SYS_epoll_create1]);
    /// A descriptor is watched.
    pub const EPOLL_CTL: Self = Self::new("epoll_ctl", &[libc::SYS_epoll_ctl]);
    /// An eventfd is made.
    pub const EVENTFD: Self = Self::new("eventfd2", &[libc::SYS_eventfd2]);
    /// A device is told something: all of KVM's calls are these.
    pub const IOCTL: Self = Self::new("ioctl", &[libc::SYS_ioctl]);
    /// A memfd is made.
    pub const MEMFD: Self = Self::new("memfd_create", &[libc::SYS_memfd_create]);
    /// A file is mapped. Memory without a file, which is the allocator's, is not asked about.
    pub const MMAP: Self = Self::new("mmap", &[libc::SYS_mmap]);
    /// A file is opened.
    pub const OPEN: Self = Self::new("openat", &[libc::SYS_openat]);
    /// A process is opened.
    pub const PIDFD: Self = Self::new("pidfd_open", &[libc::SYS_pidfd_open]);
    /// A pipe is made.
    pub const PIPE: Self = Self::new("pipe2", &[libc::SYS_pipe2]);
    /// A message is received.
    pub const RECVMSG: Self = Self::new("recvmsg", &[libc::SYS_recvmsg]);
    /// A message is sent.
    pub const SENDMSG: Self = Self::new("sendmsg", &[libc::SYS_sendmsg]);
    /// A pair of sockets is made.
    pub const SOCKETPAIR: Self = Self::new("socketpair", &[libc::SYS_socketpair]);
    /// A file's size is set.
    pub const TRUNCATE: Self = Self::new("ftruncate", &[libc::SYS_ftruncate]);
    /// Descriptors are waited for.
    pub const WAIT: Self =
        Self::new("poll", &[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait]);
    /// A child is waited for.
    pub const WAITID: Self = Self::new("waitid", &[libc::SYS_waitid, libc::SYS_wait4]);

    /// The calls of these numbers, under a name of the test's own.
    #[must_use]
    pub const fn new(name: &'static str, numbers: &'static [libc::c_long]) -> Self {
        Self { name, numbers }
    }
}

/// Runs `scenario` on a thread of its own, where the `n`th call of this kind, from 1, fails with `errno`: what the scenario
/// returned, and whether there was such a call. Calls of threads that it starts count too; those of other processes do not.
///
/// # Panics
///
/// If the scenario does, if it leaves a process or a thread behind, or if this system lets no process filter itself.
pub fn failing<T: Send>(call: Call, n: usize, errno: i32, scenario: impl FnOnce() -> T + Send) -> (T, bool) {
    let (over, sits) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let (over, sits) = (&over, &sits);
        // It stands outside the filter, which is the other thread's alone.
        let judge = scope.spawn(move || {
            let listener = receiver.recv().ok()?;
            sits.store(true, Ordering::SeqCst);
            judge(&listener, n, errno, over)
        });
        let scene = scope.spawn(move || {
            let _over = Over(over);
            let listener = filter(call).unwrap_or_else(|error| panic!("seccomp: {error}"));
            sender.send(listener).expect("a judge");
            // From here on the judge allocates nothing. Before, it would wait for a scenario that forks, which waits for it.
            while !sits.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            scenario()
        });
        let value = scene.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (value, judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).unwrap_or(false))
    })
}

/// Tells the judge that the scenario is over, however it ended.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets all calls be made but one, until nobody is left under the filter: whether one was refused.
///
/// It allocates nothing: who forks does so with the allocator's locks in hand.
fn judge(listener: &OwnedFd, n: usize, errno: i32, over: &AtomicBool) -> Option<bool> {
    let mut left = n;
    let mut since = None;
    loop {
        let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut fds, Some(&tenth)).is_ok() {
            let events = fds[0].revents();
            if events.contains(PollFlags::HUP) {
                return Some(left == 0);
            }
            if events.contains(PollFlags::IN)
                && let Some((id, thread)) = receive(listener)
            {
                let counts = left > 0 && is_own(thread);
                left -= usize::from(counts);
                answer(listener, id, if counts && left == 0 { errno } else { 0 });
            }
        }
        if over.load(Ordering::SeqCst) {
            let since = since.get_or_insert_with(Instant::now);
            assert!(since.elapsed() < LIMIT, "the scenario left a process or a thread behind");
        }
    }
}

/// Whether this is a thread of this process.
fn is_own(thread: u32) -> bool {
    // SAFETY: plain numbers. Signal 0 is none: it only asks whether there is such a thread.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
}

/// A call that waits for judgement: its id, and the thread that makes it.
fn receive(listener: &OwnedFd) -> Option<(u64, u32)> {
    let mut space = Space::new();
    // SAFETY: the kernel writes one notification, for which there is room, and which must be zeros before.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, space.0.as_mut_ptr()) } != 0 {
        // The caller has died, or a signal took it out of its call; then it asks anew.
        return None;
    }
    // SAFETY: the kernel wrote one, of plain numbers, and the space is aligned for it.
    let notification = unsafe { &*space.0.as_ptr().cast::<libc::seccomp_notif>() };
    Some((notification.id, notification.pid))
}

/// Refuses a call with `errno`, or has it made where that is 0.
fn answer(listener: &OwnedFd, id: u64, errno: i32) {
    let flags = if errno == 0 { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 };
    let mut space = Space::new();
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -errno, flags };
    // SAFETY: there is room for it, aligned.
    unsafe { space.0.as_mut_ptr().cast::<libc::seccomp_notif_resp>().write(answer) };
    // SAFETY: the kernel reads one answer. A caller that is gone is no error.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, space.0.as_mut_ptr()) };
}

/// Room for a notification or an answer, also where the running kernel's are larger than those known here: by far.
struct Space([u64; 64]);

impl Space {
    fn new() -> Self {
        const { assert!(size_of::<libc::seccomp_notif>() <= 256) };
        Self([0; 64])
    }
}

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;
/// Where `seccomp_data` has the call's number, its architecture, and the low half of its fifth argument: `mmap`'s descriptor.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIFTH_ARGUMENT: u32 = 48;

/// Puts a filter on the calling thread, for good: where its questions come out.
fn filter(call: Call) -> io::Result<OwnedFd> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equals = |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let give = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let mut program = vec![load(ARCHITECTURE), equals(X86_64, 1, 0), give(libc::SECCOMP_RET_ALLOW), load(NUMBER)];
    let count = call.numbers.len() as u8;
    // Behind the comparisons: allow, look at the descriptor, ask.
    let kinds = (0..count).zip(call.numbers);
    program.extend(kinds.map(|(index, number)| equals(*number as u32, count - index, 0)));
    program.push(give(libc::SECCOMP_RET_ALLOW));
    if call == Call::MMAP {
        program.extend([load(FIFTH_ARGUMENT), equals(u32::MAX, 0, 1), give(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(give(libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a plain number; it is this thread that gives up privileges it might gain.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel reads `len` instructions, and keeps a copy of its own.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a descriptor that the kernel has just made, which nothing else knows of.
        listener => Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) }),
    }
}

fn instruction(code: u32, yes: u8, no: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: yes, jf: no, k: value }
}
