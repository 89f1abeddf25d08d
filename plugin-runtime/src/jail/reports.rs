//! What the processes of a jail tell the VMM.
//!
//! A report is one datagram, with a descriptor where one belongs to it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType, recvmsg,
    send, socketpair,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// A path's length and some words.
const LONGEST: usize = 8192;

/// One thing to tell.
#[derive(Debug)]
pub(crate) enum Report {
    /// Init is there: its process id here. Both helper and init tell, so that one of them may be killed before it can.
    Born(Pid),
    /// The plugin's system call filter is in force; where violations of it are learned.
    Filtered(OwnedFd),
    /// The plugin's system call filter is in force; violations of it are the kernel's alone, for there is no listener.
    FilteredWithoutListener,
    /// A part of the jail could not be made.
    Failed(Fault),
    /// The plugin has ended: its status, as `waitpid` tells it.
    Ended(i32),
}

/// The same without its descriptor.
#[derive(Serialize, Deserialize)]
pub(super) enum Words {
    /// By init itself.
    Born,
    /// By the helper, of init: its process id there, which is that of the VMM's namespace.
    Bore(i32),
    Filtered,
    FilteredWithoutListener,
    Failed(Fault),
    Ended(i32),
}

impl Words {
    /// As they are sent.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Errno> {
        // They have neither maps nor sequences of unknown length, which are what does not encode.
        postcard::to_stdvec(self).map_err(|_| Errno::INVAL)
    }
}

/// One end of the way from a jail's processes to the VMM. `SOCK_SEQPACKET`.
#[derive(Debug)]
pub(crate) struct Reports(OwnedFd);

impl Reports {
    /// The VMM's end and the jail's.
    pub(super) fn pair() -> Result<(Self, Self), Errno> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_passcred(&ours, true)?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The end that was inherited.
    pub(super) fn inherited(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?))
    }

    /// Tells. Who tells is known from the kernel; a descriptor is sent by nobody but the plugin's filter.
    pub(super) fn send(&self, words: &Words) -> Result<(), Errno> {
        retry_on_intr(|| send(&self.0, &words.to_bytes()?, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for a report; `None` when no more will come.
    pub(super) fn receive(&self) -> Result<Option<Report>, Errno> {
        self.receive_with(RecvFlags::empty())
    }

    /// A report that is there; `None` when no more will come.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if there is none yet.
    pub(crate) fn take(&self) -> Result<Option<Report>, Errno> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with(&self, flags: RecvFlags) -> Result<Option<Report>, Errno> {
        let mut words = [0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut words)], &mut control, RecvFlags::CMSG_CLOEXEC | flags)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let (mut sender, mut fd) = (None, None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials.pid),
                RecvAncillaryMessage::ScmRights(mut fds) => fd = fds.next(),
                _ => {}
            }
        }
        let words = words.get(..received.bytes).unwrap_or_default();
        Ok(Some(match postcard::from_bytes(words).map_err(|_| Errno::BADMSG)? {
            Words::Born => Report::Born(sender.ok_or(Errno::BADMSG)?),
            Words::Bore(pid) => Report::Born(Pid::from_raw(pid).ok_or(Errno::BADMSG)?),
            Words::Filtered => Report::Filtered(fd.ok_or(Errno::BADMSG)?),
            Words::FilteredWithoutListener => Report::FilteredWithoutListener,
            Words::Failed(fault) => Report::Failed(fault),
            Words::Ended(status) => Report::Ended(status),
        }))
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Part;
    use super::*;

    #[test]
    fn what_is_told_arrives_and_then_the_end() {
        let (ours, theirs) = Reports::pair().unwrap();
        assert_eq!(ours.take().unwrap_err(), Errno::AGAIN);
        theirs.send(&Words::Born).unwrap();
        theirs.send(&Words::Ended(0x0700)).unwrap();
        theirs.send(&Words::Failed(Fault::of(Part::Root)(Errno::NOENT))).unwrap();
        drop(theirs);

        assert!(matches!(ours.receive(), Ok(Some(Report::Born(pid))) if pid == rustix::process::getpid()));
        assert!(matches!(ours.take(), Ok(Some(Report::Ended(0x0700)))));
        assert!(matches!(ours.take(), Ok(Some(Report::Failed(fault))) if fault.part() == Part::Root));
        assert!(matches!(ours.take(), Ok(None)));
    }
}
