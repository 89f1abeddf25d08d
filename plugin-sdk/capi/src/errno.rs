//! What C is told of an error.

use libc::c_int;
use plugin_sdk::Error;

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// The number of an error, 1 to 4095, as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(c_int);

impl Errno {
    pub(crate) const BADF: Self = Self(libc::EBADF);
    pub(crate) const BUSY: Self = Self(libc::EBUSY);
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
    pub(crate) const NOENT: Self = Self(libc::ENOENT);
    pub(crate) const NOTRECOVERABLE: Self = Self(libc::ENOTRECOVERABLE);
    pub(crate) const OVERFLOW: Self = Self(libc::EOVERFLOW);
    pub(crate) const PIPE: Self = Self(libc::EPIPE);
    pub(crate) const PROTO: Self = Self(libc::EPROTO);
    pub(crate) const TOO_BIG: Self = Self(libc::E2BIG);

    /// What a failing function returns.
    pub(crate) fn negative(self) -> c_int {
        -self.0
    }

    /// The number in an error of the system or the VMM. A number that is none must not look like a success.
    fn of(errno: Option<i32>) -> Self {
        match errno {
            Some(number @ 1..=4095) => Self(number),
            _ => Self::PROTO,
        }
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match &error {
            Error::NoSocket => Self(libc::ENOTCONN),
            Error::SocketTaken { .. } | Error::VcpusTaken => Self::BUSY,
            Error::Disconnected => Self::PIPE,
            Error::BadSocket { .. } | Error::Refused { .. } | Error::System { .. } => Self::of(error.errno()),
            Error::Message(plugin_proto::Error::TooLong { .. }) => Self::TOO_BIG,
            Error::AnswerLength { .. }
            | Error::OutOfBounds { .. }
            | Error::NotPages { .. }
            | Error::UnknownNumber { .. } => Self::INVAL,
            _ => Self::PROTO,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_refusal_has_the_vmms_number_unless_that_is_none() {
        let refused = |number| {
            let source = io::Error::from_raw_os_error(number);
            Errno::from(Error::Refused { request: "start", source }).negative()
        };
        assert_eq!(refused(libc::EPERM), -libc::EPERM);
        assert_eq!(refused(4095), -4095);
        for number in [-1, 4096, i32::MIN, i32::MAX] {
            assert_eq!(refused(number), -libc::EPROTO, "{number}");
        }
    }
}
