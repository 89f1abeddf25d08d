//! A plugin process that hands its socket to the test, which then is the plugin's brain.
//!
//! The process is the example `relay`. It connects to a socket of the test's, sends its main socket with its process id,
//! closes its own copy, and then obeys.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, recvmsg, send, socket_with,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{LIMIT, MainSocket, readable_within};

/// Where a relay is awaited.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at `path`, which does not exist yet.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn new(path: &Path) -> Self {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("socket");
        bind(&socket, &SocketAddrUnix::new(path).expect("a short path")).expect("bind");
        listen(&socket, 1).expect("listen");
        Self(socket)
    }

    /// Waits for the relay, and takes its main socket.
    ///
    /// # Panics
    ///
    /// If none comes within [`LIMIT`].
    pub fn accept(&self) -> (Relay, MainSocket) {
        assert!(readable_within(&self.0, LIMIT), "no relay within {LIMIT:?}");
        let control = accept_with(&self.0, SocketFlags::CLOEXEC).expect("accept");
        let mut pid = [0; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        assert!(readable_within(&control, LIMIT), "no word from the relay within {LIMIT:?}");
        let received = retry_on_intr(|| {
            recvmsg(&control, &mut [IoSliceMut::new(&mut pid)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let length = received.expect("recvmsg").bytes;
        let rights = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        let pid = std::str::from_utf8(&pid[..length]).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        (Relay { control, pid: pid.expect("a pid") }, MainSocket::new(rights.expect("the main socket")))
    }
}

/// The plugin process. When it is dropped, the process exits with 98.
#[derive(Debug)]
pub struct Relay {
    control: OwnedFd,
    pid: Pid,
}

impl Relay {
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
        send(&self.control, command.as_bytes(), SendFlags::NOSIGNAL).expect("the relay is there");
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
            // It may be gone between the look and the signal.
            let _ = kill_process(self.pid, Signal::CONT);
            let mut fds = [PollFd::new(&self.control, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
        });
    }
}
