//! A plugin process that hands its socket to the test, which then is the plugin's brain.
//!
//! The process is the example `relay`. Its standard input is a socket to the test. It sends its main socket over that,
//! closes its own copy, and then obeys.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, recvmsg,
    send, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};

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
    /// Waits for the relay, and takes its main socket. `control` is the test's end.
    ///
    /// # Panics
    ///
    /// If none comes within [`LIMIT`].
    pub fn accept(control: OwnedFd) -> (Self, MainSocket) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        assert!(readable_within(&control, LIMIT), "no word from the relay within {LIMIT:?}");
        retry_on_intr(|| {
            recvmsg(&control, &mut [IoSliceMut::new(&mut [0; 1])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })
        .expect("recvmsg");
        let (mut main, mut pid) = (None, None);
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(mut rights) => main = rights.next(),
                RecvAncillaryMessage::ScmCredentials(credentials) => pid = Some(credentials.pid),
                _ => {}
            }
        }
        (Self { control, pid: pid.expect("a pid") }, MainSocket::new(main.expect("the main socket")))
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
            // Until it was waited for.
            kill_process(self.pid, Signal::CONT) == Err(Errno::SRCH)
        });
    }
}
