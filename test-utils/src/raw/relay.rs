//! A plugin process that hands its socket to the test, which then controls the plugin.
//!
//! The process has a socket to the test, which for the example `relay` is its standard input. It sends its main socket over
//! that, closes its own copy, and then [obeys](obey).
#![allow(unsafe_code, reason = "the main socket is known by its number")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

use super::{LIMIT, MainSocket, readable_within};

/// The test's end, and the one that is to be the relay's standard input.
///
/// # Panics
///
/// If it cannot be made.
pub fn pair() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
    // So the kernel says which process it is that is called 2, or so, in its jail.
    set_socket_passcred(&ours, true).expect("SO_PASSCRED");
    (ours, theirs)
}

/// The plugin process. When it is dropped, the process exits with 98.
#[derive(Debug)]
pub struct Relay {
    control: OwnedFd,
    pid: Pid,
}

impl Relay {
    /// Waits for the relay, and takes its main socket. `control` is the test's end. `None` where the process ends before it
    /// hands the socket over.
    ///
    /// # Panics
    ///
    /// If neither happens within [`LIMIT`].
    pub fn accept(control: OwnedFd) -> Option<(Self, MainSocket)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        assert!(readable_within(&control, LIMIT), "no word from the relay within {LIMIT:?}");
        let received = retry_on_intr(|| {
            recvmsg(&control, &mut [IoSliceMut::new(&mut [0; 1])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        match received {
            Ok(message) if message.bytes > 0 => {}
            Ok(_) | Err(Errno::CONNRESET) => return None,
            Err(errno) => panic!("recvmsg: {errno}"),
        }
        let (mut main, mut pid) = (None, None);
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut rights) => main = rights.next(),
                RecvAncillaryMessage::ScmCredentials(credentials) => pid = Some(credentials.pid),
                _ => {}
            }
        }
        Some((Self { control, pid: pid.expect("a pid") }, MainSocket::new(main.expect("the main socket"))))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Gives it a command.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn command(&self, command: &str) {
        self.tell(command).expect("the relay is there");
    }

    /// Gives it a command.
    ///
    /// # Errors
    ///
    /// The kernel's, where it is gone.
    pub fn tell(&self, command: &str) -> Result<(), Errno> {
        send(&self.control, command.as_bytes(), SendFlags::NOSIGNAL).map(drop)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the relay is there");
    }

    /// Continues it, as often as it stops, until it is gone.
    ///
    /// # Panics
    ///
    /// If it is still there after [`LIMIT`].
    pub fn continue_until_it_ends(&self) {
        crate::wait::until("the relay has ended", || {
            // Until it was waited for.
            kill_process(self.pid, Signal::CONT) == Err(Errno::SRCH)
        });
    }
}

/// What the plugin's process does: it sends its main socket over `control`, closes its own, and does what it is told. Each
/// datagram is one command:
///
/// | command | does |
/// |---|---|
/// | `exit N` | exits |
/// | `kill N` | kills itself by the signal of that number |
/// | `stop` | stops itself by SIGSTOP |
/// | `say TEXT` | writes a line to standard error |
/// | `use-up-signals` | sends itself signals that it has blocked until its user may have no more, and says how many on standard error |
///
/// It returns the code to exit with: 98 where the test is gone, 99 for what it does not understand.
pub fn obey(control: impl AsFd) -> u8 {
    // One that dies on purpose leaves no core behind.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    obey_until_told(&control).unwrap_or_else(|failure| {
        eprintln!("relay: {failure}");
        99
    })
}

fn obey_until_told(control: &impl AsFd) -> Result<u8, Box<dyn std::error::Error>> {
    hand_over(control)?;
    loop {
        let mut command = [0; 4096];
        let (length, _) = recv(control, &mut command[..], RecvFlags::empty())?;
        let command = std::str::from_utf8(&command[..length])?;
        let (word, value) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "" => return Ok(98),
            "exit" => return Ok(value.parse()?),
            "kill" => {
                kill_process(getpid(), Signal::from_named_raw(value.parse()?).ok_or("no such signal")?)?;
            }
            "stop" => kill_process(getpid(), Signal::STOP)?,
            "say" => eprintln!("{value}"),
            "use-up-signals" => eprintln!("{} signals are pending", use_up_signals()),
            _ => return Err(format!("no such command: {command}").into()),
        }
    }
}

/// Uses up the pending signals of this process's user, as far as its limit goes (`RLIMIT_SIGPENDING`): how many it took.
#[must_use]
pub fn use_up_signals() -> usize {
    let signal = libc::SIGRTMIN() + 5;
    // SAFETY: `blocked` is initialised by sigemptyset, and only read after.
    unsafe {
        let mut blocked = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
    }
    let nothing = libc::sigval { sival_ptr: std::ptr::null_mut() };
    // SAFETY: plain numbers; the signal is blocked, and of this process alone.
    (0..).find(|_| unsafe { libc::sigqueue(libc::getpid(), signal, nothing) } != 0).unwrap_or(usize::MAX)
}

/// Sends the main socket, and closes it here.
fn hand_over(control: &impl AsFd) -> Result<(), Box<dyn std::error::Error>> {
    let number = std::env::var("CROSVM_SOCKET")?.parse()?;
    // SAFETY: the VMM opened it for this process, and nothing else here knows of it.
    let main = unsafe { OwnedFd::from_raw_fd(number) };
    let fds = [main.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(control, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
