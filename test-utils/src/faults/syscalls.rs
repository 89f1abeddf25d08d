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
//! assert_eq!((results, struck.unwrap().name()), ([true, false, true], "pipe2"));
//! ```
//!
//! [`failing_of`] does the same to a process that the scenario starts.
//!
//! It needs Linux 5.8, and a kernel that lets a process filter itself.
#![allow(unsafe_code, reason = "seccomp's filters and notifications have no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use syscalls::Sysno;

use crate::wait::LIMIT;

/// A kind of system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is called.
    pub name: &'static str,
    numbers: &'static [libc::c_long],
}

impl Call {
    /// Any but those that the kernel refuses to nobody who makes them right: an end, the way back from a signal, what one is
    /// oneself, a look at a limit or a descriptor, a descriptor that is closed, a signal's disposition, a thread that is woken,
    /// the permissions that new files lack.
    /// Nor the allocator's, of memory without a file.
    pub const ANY: Self = Self::new("any", &[]);
    /// A process or a thread is started.
    pub const CLONE: Self = Self::new("clone", &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_vfork, libc::SYS_fork]);
    /// A file's descriptors, flags, seals and locks; but not a look whether a descriptor is open.
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
    /// A filter with a listener is installed. One without is not asked about.
    pub const LISTENER: Self = Self::new("seccomp with a listener", &[libc::SYS_seccomp]);
    /// A file is mapped. Memory without a file, which is the allocator's, is not asked about.
    pub const MMAP: Self = Self::new("mmap", &[libc::SYS_mmap]);
    /// A file is opened.
    pub const OPEN: Self = Self::new("openat", &[libc::SYS_openat]);
    /// A process is opened.
    pub const PIDFD: Self = Self::new("pidfd_open", &[libc::SYS_pidfd_open]);
    /// A pipe is made.
    pub const PIPE: Self = Self::new("pipe2", &[libc::SYS_pipe2]);
    /// Bytes are read.
    pub const READ: Self = Self::new("read", &[libc::SYS_read, libc::SYS_readv, libc::SYS_pread64]);
    /// A message is received.
    pub const RECVMSG: Self = Self::new("recvmsg", &[libc::SYS_recvmsg]);
    /// A message is sent.
    pub const SENDMSG: Self = Self::new("sendmsg", &[libc::SYS_sendmsg]);
    /// A socket is made.
    pub const SOCKET: Self = Self::new("socket", &[libc::SYS_socket]);
    /// A pair of sockets is made.
    pub const SOCKETPAIR: Self = Self::new("socketpair", &[libc::SYS_socketpair]);
    /// A file's size is set.
    pub const TRUNCATE: Self = Self::new("ftruncate", &[libc::SYS_ftruncate]);
    /// Descriptors are waited for.
    pub const WAIT: Self =
        Self::new("poll", &[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_epoll_wait, libc::SYS_epoll_pwait]);
    /// A child is waited for.
    pub const WAITID: Self = Self::new("waitid", &[libc::SYS_waitid, libc::SYS_wait4]);
    /// Bytes are written, but not eight: that is what an eventfd takes, which refuses them only when it is full.
    pub const WRITE: Self = Self::new("write", &[libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64]);

    /// The calls of these numbers, under a name of the test's own.
    #[must_use]
    pub const fn new(name: &'static str, numbers: &'static [libc::c_long]) -> Self {
        Self { name, numbers }
    }
}

/// See [`Call::ANY`].
const NEVER_FAIL: [libc::c_long; 24] = [
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_umask,
];

/// Whose calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the scenario's thread and of the threads that it starts.
    Own,
    /// Those of one of the processes that come of it.
    Child {
        /// Which of them, from 1, in the order of their first calls. Each thread of theirs counts as one.
        nth: usize,
        /// How many times it has become another program, by `execve`, when its calls begin to count; at the next time they
        /// cease to.
        execs: usize,
    },
}

/// Calls that may fail without a word: their name, which of them by their arguments, and why that is right.
pub type Silent = (&'static str, fn(&[u64; 6]) -> bool, &'static str);

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Struck {
    /// The number of the system call.
    pub number: libc::c_long,
    /// Its arguments.
    pub args: [u64; 6],
}

impl Struck {
    /// The name of the system call.
    #[must_use]
    pub fn name(&self) -> &'static str {
        usize::try_from(self.number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name())
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn is_among(&self, calls: &[Silent]) -> bool {
        calls.iter().any(|(name, is_it, _)| *name == self.name() && is_it(&self.args))
    }

    /// Whether it ever does.
    fn can_fail(&self) -> bool {
        match self.number {
            libc::SYS_mmap => self.args[4] as i32 >= 0,
            libc::SYS_fcntl => self.args[1] != libc::F_GETFD as u64,
            libc::SYS_write => self.args[2] != size_of::<u64>() as u64,
            libc::SYS_prlimit64 => self.args[2] != 0,
            number => !NEVER_FAIL.contains(&number),
        }
    }
}

/// Runs `scenario` on a thread of its own, where the `n`th call of this kind, from 1, fails with `errno`: what the scenario
/// returned, and the call that failed, if there was one. Calls of threads that it starts count too; those of other processes do
/// not.
///
/// # Panics
///
/// If the scenario does, if it leaves a process or a thread behind, or if this system lets no process filter itself.
pub fn failing<T: Send>(call: Call, n: usize, errno: i32, scenario: impl FnOnce() -> T + Send) -> (T, Option<Struck>) {
    failing_of(Whose::Own, call, n, errno, scenario)
}

/// [`failing`], of calls that are not the scenario's own perhaps. A process that comes of the scenario cannot have a filter of
/// its own that asks: the kernel has room for one.
///
/// # Panics
///
/// As [`failing`].
pub fn failing_of<T: Send>(
    whose: Whose,
    call: Call,
    n: usize,
    errno: i32,
    scenario: impl FnOnce() -> T + Send,
) -> (T, Option<Struck>) {
    let (over, sits, listener) = (AtomicBool::new(false), AtomicBool::new(false), AtomicI32::new(NO_LISTENER));
    thread::scope(|scope| {
        let (over, sits, listener) = (&over, &sits, &listener);
        // It stands outside the filter, which is the other thread's alone.
        let judge = scope.spawn(move || {
            sits.store(true, Ordering::SeqCst);
            let listener = await_listener(listener, over)?;
            Judge { whose, left: n, errno, children: [(0, 0); MOST_CHILDREN] }.sit(&listener, over)
        });
        let scene = scope.spawn(move || {
            let _over = Over(over);
            // From here on the judge allocates nothing. Before, it would wait for a scenario that forks, which waits for it.
            while !sits.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let asks = filter(call).unwrap_or_else(|error| panic!("seccomp: {error}"));
            listener.store(asks, Ordering::SeqCst);
            scenario()
        });
        let value = scene.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (value, judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// No descriptor.
const NO_LISTENER: i32 = -1;

/// Takes the listener over, without a system call of the thread that has it: that one may be asked about already.
fn await_listener(listener: &AtomicI32, over: &AtomicBool) -> Option<OwnedFd> {
    loop {
        match listener.load(Ordering::SeqCst) {
            NO_LISTENER if over.load(Ordering::SeqCst) => return None,
            NO_LISTENER => thread::yield_now(),
            // SAFETY: a descriptor that the kernel has made for the filter, and that is told once.
            number => return Some(unsafe { OwnedFd::from_raw_fd(number) }),
        }
    }
}

/// Runs `scenario` on a thread of its own, where every call of this kind fails with `errno`, also in the processes that come of
/// it. Unlike [`failing`] it leaves them free to have filters that ask.
///
/// # Panics
///
/// If the scenario does, or if this system lets no process filter itself.
pub fn refusing<T: Send>(call: Call, errno: i32, scenario: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let scene = scope.spawn(move || {
            let action = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
            // The flag, which is about speculation, tells this filter from a VMM's own, for who traces tests of VMMs.
            let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
            install(&mut program(call, action), flags).unwrap_or_else(|error| panic!("seccomp: {error}"));
            scenario()
        });
        scene.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Tells the judge that the scenario is over, however it ended.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// More processes than any scenario has that wants to tell them apart.
const MOST_CHILDREN: usize = 16;

/// Lets all calls be made but one.
///
/// It allocates nothing: who forks does so with the allocator's locks in hand.
struct Judge {
    whose: Whose,
    /// How many more are asked about before and with the one that fails; 0 when it has.
    left: usize,
    errno: i32,
    /// The processes that came of the scenario, with how many times each became another program; the others are 0.
    children: [(u32, usize); MOST_CHILDREN],
}

impl Judge {
    /// Judges until nobody is left under the filter: what was refused.
    fn sit(mut self, listener: &OwnedFd, over: &AtomicBool) -> Option<Struck> {
        let mut struck = None;
        let mut since = None;
        loop {
            let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            if poll(&mut fds, Some(&tenth)).is_ok() {
                let events = fds[0].revents();
                if events.contains(PollFlags::HUP) {
                    return struck;
                }
                if events.contains(PollFlags::IN)
                    && let Some((id, thread, asked)) = receive(listener)
                {
                    let refused = self.refuses(thread, &asked);
                    if refused {
                        struck = Some(asked);
                    }
                    answer(listener, id, if refused { self.errno } else { 0 });
                }
            }
            if over.load(Ordering::SeqCst) {
                let since = since.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < LIMIT, "the scenario left a process or a thread behind");
            }
        }
    }

    fn refuses(&mut self, thread: u32, asked: &Struck) -> bool {
        let counts = self.left > 0 && asked.can_fail() && self.is_meant(thread);
        self.left -= usize::from(counts);
        let refuses = counts && self.left == 0;
        if asked.number == libc::SYS_execve && !refuses {
            self.children.iter_mut().filter(|(child, _)| *child == thread).for_each(|(_, execs)| *execs += 1);
        }
        refuses
    }

    /// Whether the calls of this thread count.
    fn is_meant(&mut self, thread: u32) -> bool {
        if is_own(thread) {
            return self.whose == Whose::Own;
        }
        let Some(place) = self.children.iter().position(|(child, _)| [0, thread].contains(child)) else { return false };
        self.children[place].0 = thread;
        self.whose == Whose::Child { nth: place + 1, execs: self.children[place].1 }
    }
}

/// Whether this is a thread of this process.
fn is_own(thread: u32) -> bool {
    // SAFETY: plain numbers. Signal 0 is none: it only asks whether there is such a thread.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
}

/// A call that waits for judgement: its id, the thread that makes it, and what it is.
fn receive(listener: &OwnedFd) -> Option<(u64, u32, Struck)> {
    let mut space = Space::new();
    // SAFETY: the kernel writes one notification, for which there is room, and which must be zeros before.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, space.0.as_mut_ptr()) } != 0 {
        // The caller has died, or a signal took it out of its call; then it asks anew.
        return None;
    }
    // SAFETY: the kernel wrote one, of plain numbers, and the space is aligned for it.
    let notification = unsafe { &*space.0.as_ptr().cast::<libc::seccomp_notif>() };
    let asked = Struck { number: notification.data.nr.into(), args: notification.data.args };
    Some((notification.id, notification.pid, asked))
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
/// Where it has the low half of the second argument: the flags of `seccomp`.
const SECOND_ARGUMENT: u32 = 24;

/// Puts a filter on the calling thread, for good: the number of the descriptor where its questions come out.
fn filter(call: Call) -> io::Result<i32> {
    install(&mut program(call, libc::SECCOMP_RET_USER_NOTIF), libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
}

/// What gives `action` for the calls of a kind.
fn program(call: Call, action: u32) -> Vec<libc::sock_filter> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equals = |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value);
    let give = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let mut program = vec![load(ARCHITECTURE), equals(X86_64, 1, 0), give(libc::SECCOMP_RET_ALLOW), load(NUMBER)];
    let count = call.numbers.len() as u8;
    // Behind the comparisons: allow, look at the descriptor, act.
    let kinds = (0..count).zip(call.numbers);
    program.extend(kinds.map(|(index, number)| equals(*number as u32, count - index, 0)));
    if call != Call::ANY {
        program.push(give(libc::SECCOMP_RET_ALLOW));
    }
    if call == Call::MMAP {
        program.extend([load(FIFTH_ARGUMENT), equals(u32::MAX, 0, 1), give(libc::SECCOMP_RET_ALLOW)]);
    }
    if call == Call::LISTENER {
        let has = |bit, yes, no| instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, yes, no, bit);
        let flag = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
        program.extend([load(SECOND_ARGUMENT), has(flag, 1, 0), give(libc::SECCOMP_RET_ALLOW)]);
    }
    program.push(give(action));
    program
}

/// Puts a program on the calling thread, for good: a descriptor where `flags` ask for one, else 0.
fn install(program: &mut [libc::sock_filter], flags: libc::c_ulong) -> io::Result<i32> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a plain number; it is this thread that gives up privileges it might gain.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel reads `len` instructions, and keeps a copy of its own.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) } {
        -1 => Err(io::Error::last_os_error()),
        returned => Ok(returned as i32),
    }
}

fn instruction(code: u32, yes: u8, no: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: yes, jf: no, k: value }
}
