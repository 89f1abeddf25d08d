//! What the peer of a socket has not read yet.
#![allow(unsafe_code, reason = "an ioctl that rustix has no function for")]

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl};

/// Whether the peer of a UNIX socket has left something unread (`SIOCOUTQ`, which for these sockets counts what was sent
/// and lies in the peer's queue).
pub(crate) fn peer_has_unread(socket: impl AsFd) -> Result<bool, Errno> {
    // SAFETY: the kernel writes one `int` for this number.
    let getter = unsafe { Getter::<{ libc::TIOCOUTQ as u32 }, libc::c_int>::new() };
    // SAFETY: as above; the call changes nothing.
    unsafe { ioctl(socket, getter) }.map(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

    use super::*;

    #[test]
    fn what_was_sent_is_unread_until_it_is_received_whole() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        assert_eq!(peer_has_unread(&ours), Ok(false));
        send(&ours, b"a", SendFlags::empty()).unwrap();
        send(&ours, b"b", SendFlags::empty()).unwrap();
        for unread in [true, false] {
            assert_eq!(peer_has_unread(&ours), Ok(true));
            recv(&theirs, &mut [0; 8][..], RecvFlags::empty()).unwrap();
            assert_eq!(peer_has_unread(&ours), Ok(unread));
        }
    }
}
