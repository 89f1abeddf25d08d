//! What can go wrong for a plugin.

use std::{fmt, io};

use crate::hints::hint;

/// Why a call of this crate failed.
///
/// `Debug` says what `Display` says, so a `main` that returns this error prints a sentence:
///
/// ```text
/// Error: the VMM refused start: Invalid argument (os error 22); the VM was started before (`outboard -v` logs the reason)
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No VMM started this process: the variable `CROSVM_SOCKET` is not in its environment.
    #[error("CROSVM_SOCKET is not set: this process was not started as a plugin")]
    NoSocket,
    /// `CROSVM_SOCKET` does not name an open socket.
    #[error("CROSVM_SOCKET is {value:?}, which names no open socket: {source}")]
    BadSocket {
        /// What the variable holds.
        value: String,
        /// `EINVAL` when that is no number of a descriptor, else what the system says of the descriptor.
        source: io::Error,
    },
    /// [`Connection::from_env`](crate::Connection::from_env) has been called before.
    #[error("the socket in CROSVM_SOCKET, descriptor {fd}, was taken over before")]
    SocketTaken {
        /// The descriptor's number.
        fd: i32,
    },
    /// The VMM has closed the channel. That is how a VM ends, so a vCPU's thread may end quietly on it.
    #[error("the VMM has disconnected")]
    Disconnected,
    /// The VMM understood the request and did not do it.
    #[error("the VMM refused {request}: {source}{} (`outboard -v` logs the reason)", hint_for(request, source))]
    Refused {
        /// What was asked: the request's name in the protocol, made clearer where one request does several things
        /// (`release_range`, `create_memory`, `get_state of regs`).
        request: &'static str,
        /// The errno in the answer.
        source: io::Error,
    },
    /// The VMM sent something that has no place here.
    #[error("unexpected from the VMM: {what}")]
    Unexpected {
        /// What came.
        what: String,
    },
    /// A message that does not encode or decode.
    #[error(transparent)]
    Message(#[from] plugin_proto::Error),
    /// A system call failed.
    #[error("{doing}: {source}")]
    System {
        /// What it was for.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The vCPUs of this VM have been handed out before, here or on a connection that this one is related to.
    #[error("the vCPUs have been handed out before")]
    VcpusTaken,
    /// A number that stands for none of the things it should choose from.
    #[error("{number} is no {what}")]
    UnknownNumber {
        /// The kind of thing.
        what: &'static str,
        /// The number.
        number: u32,
    },
    /// A read's answer must have as many bytes as the read.
    #[error("{given} bytes cannot answer a read of {expected}")]
    AnswerLength {
        /// Bytes the guest reads.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
    /// The bytes asked for are not all inside the guest memory.
    #[error("{length} bytes at offset {offset:#x} are not inside {size:#x} bytes of guest memory")]
    OutOfBounds {
        /// Where the bytes would begin.
        offset: u64,
        /// How many they would be.
        length: u64,
        /// The memory's size in bytes.
        size: u64,
    },
    /// An offset or length of guest memory that is no multiple of [`PAGE_SIZE`](crate::PAGE_SIZE), or a length of 0.
    #[error("{value:#x} bytes of guest memory are not a whole number of pages, at least one")]
    NotPages {
        /// The offset or length.
        value: u64,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hint_for(request: &str, source: &io::Error) -> String {
    hint(request, source).map(|hint| format!("; {hint}")).unwrap_or_default()
}

impl Error {
    /// The errno behind it, where there is one: the VMM's in [`Refused`](Self::Refused), the system's in
    /// [`System`](Self::System) and [`BadSocket`](Self::BadSocket). For interfaces that speak in errnos.
    ///
    /// ```
    /// # use std::io;
    /// let refused = plugin_sdk::Error::Refused { request: "start", source: io::Error::from_raw_os_error(22) };
    /// assert_eq!(refused.errno(), Some(22));
    /// assert_eq!(plugin_sdk::Error::Disconnected.errno(), None);
    /// ```
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::System { source, .. } | Self::BadSocket { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    pub(crate) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into() }
    }

    /// The end of the VMM is told apart from a failure.
    pub(crate) fn system(doing: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Disconnected,
            _ => Self::System { doing, source },
        }
    }

    /// What the errno of an answer says.
    pub(crate) fn check(request: &'static str, errno: i32) -> Result<(), Self> {
        match errno {
            0 => Ok(()),
            errno => Err(Self::Refused { request, source: io::Error::from_raw_os_error(errno) }),
        }
    }
}
