//! What the processes of a jail tell the VMM.
//!
//! A report is one datagram, with a descriptor where one belongs to it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// A path's length and some words.
const LONGEST: usize = 8192;

/// One thing to tell.
#[derive(Debug)]
pub(crate) enum Report {
    /// Init is there; a descriptor of it.
    Born(OwnedFd),
    /// The plugin's system call filter is in force; where violations of it are learned.
    Filtered(OwnedFd),
    /// A part of the jail could not be made.
    Failed(Fault),
    /// The plugin has ended: its status, as `waitpid` tells it.
    Ended(i32),
}

/// The same without its descriptor.
#[derive(Serialize, Deserialize)]
pub(super) enum Words {
    Born,
    Filtered,
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
        Ok((Self(ours), Self(theirs)))
    }

    /// The end that was inherited.
    pub(super) fn inherited(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 0)?))
    }

    /// Tells.
    pub(super) fn send(&self, words: &Words) -> Result<(), Errno> {
        self.send_with(words, &[])
    }

    /// Tells that init, whose descriptor it is, is there.
    pub(super) fn send_born(&self, init: &OwnedFd) -> Result<(), Errno> {
        self.send_with(&Words::Born, &[init.as_fd()])
    }

    fn send_with(&self, words: &Words, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let words = words.to_bytes()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(&words)], &mut control, SendFlags::NOSIGNAL))?;
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
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut words)], &mut control, RecvFlags::CMSG_CLOEXEC | flags)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let words = words.get(..received.bytes).unwrap_or_default();
        Ok(Some(match (postcard::from_bytes(words).map_err(|_| Errno::BADMSG)?, fd) {
            (Words::Born, Some(fd)) => Report::Born(fd),
            (Words::Filtered, Some(fd)) => Report::Filtered(fd),
            (Words::Born | Words::Filtered, None) => return Err(Errno::BADMSG),
            (Words::Failed(fault), _) => Report::Failed(fault),
            (Words::Ended(status), _) => Report::Ended(status),
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
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        theirs.send_born(&writer).unwrap();
        theirs.send(&Words::Ended(0x0700)).unwrap();
        theirs.send(&Words::Failed(Fault::of(Part::Root)(Errno::NOENT))).unwrap();
        drop((theirs, writer));

        let Some(Report::Born(writer)) = ours.receive().unwrap() else { panic!("no descriptor") };
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 4]).unwrap(), 1);
        assert!(matches!(ours.take(), Ok(Some(Report::Ended(0x0700)))));
        assert!(matches!(ours.take(), Ok(Some(Report::Failed(fault))) if fault.part() == Part::Root));
        assert!(matches!(ours.take(), Ok(None)));
    }
}
