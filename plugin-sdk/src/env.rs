//! Taking over the socket that the VMM left open for this process.

#![allow(unsafe_code, reason = "a descriptor that is known by its number has no owner in Rust yet")]

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use plugin_proto::limits::SOCKET_VARIABLE;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

use crate::Error;

/// The descriptors that have been taken over. Closing one does not give its number back: whatever is open under it later
/// is not the VMM's socket.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The socket named in the environment, once.
pub(crate) fn take_socket() -> Result<OwnedFd, Error> {
    take(env::var_os(SOCKET_VARIABLE))
}

fn take(value: Option<OsString>) -> Result<OwnedFd, Error> {
    let value = value.ok_or(Error::NoSocket)?;
    let value = value.to_string_lossy().into_owned();
    let fd = match value.parse::<RawFd>() {
        Ok(fd) if fd >= 0 => fd,
        _ => return Err(bad(value, Errno::INVAL)),
    };

    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(Error::SocketTaken { fd });
    }
    if let Err(errno) = check_socket(fd) {
        return Err(bad(value, errno));
    }
    taken.insert(fd);
    // SAFETY: `fd` is open, as was just seen. By the protocol the VMM leaves it to this process alone, and `TAKEN` makes
    // this its only owner in Rust.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bad(value: String, errno: Errno) -> Error {
    Error::BadSocket { value, source: io::Error::from(errno) }
}

/// Looks whether `fd` is an open socket, by a `recvmsg` that takes nothing: plugins with a seccomp policy of their own allow
/// that call, and perhaps no `fcntl`.
fn check_socket(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: `fd` is not -1, and it is used for one system call below, which fails on a closed descriptor.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut no_space: [MaybeUninit<u8>; 0] = [];
    let mut control = RecvAncillaryBuffer::new(&mut no_space);
    match recvmsg(fd, &mut [], &mut control, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn error_of(value: &str) -> Option<i32> {
        match take(Some(value.into())) {
            Err(Error::BadSocket { source, .. }) => source.raw_os_error(),
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn without_the_variable_there_is_no_socket() {
        assert!(matches!(take(None), Err(Error::NoSocket)));
    }

    #[test]
    fn a_value_that_is_no_descriptor_number_is_refused() {
        for value in ["", "three", "-1", "3.0", "99999999999"] {
            assert_eq!(error_of(value), Some(Errno::INVAL.raw_os_error()));
        }
    }

    #[test]
    fn a_descriptor_that_is_not_open_or_no_socket_is_refused() {
        assert_eq!(error_of("1000000000"), Some(Errno::BADF.raw_os_error()));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        // A number of its own: a low one may be what another test has taken over and closed.
        let reader = rustix::io::fcntl_dupfd_cloexec(&reader, 700).unwrap();
        assert_eq!(error_of(&reader.into_raw_fd().to_string()), Some(Errno::NOTSOCK.raw_os_error()));
    }

    #[test]
    fn a_socket_is_taken_over_once_even_after_it_was_closed() {
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let fd = ours.into_raw_fd();
        let socket = take(Some(fd.to_string().into())).unwrap();
        for _ in 0..2 {
            let again = take(Some(fd.to_string().into()));
            assert!(matches!(again, Err(Error::SocketTaken { fd: taken }) if taken == fd));
        }
        drop(socket);
        let again = take(Some(fd.to_string().into()));
        assert!(matches!(again, Err(Error::SocketTaken { .. })));
    }
}
