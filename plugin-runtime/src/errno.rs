//! The errnos of the protocol: what typed errors become on the wire.

use hypervisor::{Error as BackendError, MemoryProblem};
use vmm_core::{Error as MachineError, ReservationProblem};

/// A positive errno value, as responses carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const BADF: Self = Self(libc::EBADF);
    pub(crate) const EXIST: Self = Self(libc::EEXIST);
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
    pub(crate) const MFILE: Self = Self(libc::EMFILE);
    pub(crate) const MSGSIZE: Self = Self(libc::EMSGSIZE);
    pub(crate) const NODATA: Self = Self(libc::ENODATA);
    pub(crate) const NOENT: Self = Self(libc::ENOENT);
    pub(crate) const NOMEM: Self = Self(libc::ENOMEM);
    pub(crate) const NOSPC: Self = Self(libc::ENOSPC);
    pub(crate) const BUSY: Self = Self(libc::EBUSY);
    pub(crate) const PIPE: Self = Self(libc::EPIPE);
    pub(crate) const NOTTY: Self = Self(libc::ENOTTY);
    pub(crate) const PROTO: Self = Self(libc::EPROTO);
    pub(crate) const TOOBIG: Self = Self(libc::E2BIG);
}

impl From<&std::io::Error> for Errno {
    /// An error that has no errno never came from the kernel; `EIO` says that something broke.
    fn from(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<&BackendError> for Errno {
    fn from(error: &BackendError) -> Self {
        match error {
            BackendError::System { source, .. } => source.into(),
            BackendError::Memory { problem, .. } => problem.into(),
            BackendError::MemoryFault { .. } => Self(libc::EFAULT),
            BackendError::Read { .. } | BackendError::Script { .. } => Self::INVAL,
        }
    }
}

impl From<&MemoryProblem> for Errno {
    fn from(problem: &MemoryProblem) -> Self {
        match problem {
            MemoryProblem::Unaligned | MemoryProblem::Empty | MemoryProblem::PastEnd { .. } => Self::INVAL,
            MemoryProblem::Hugetlb => Self::INVAL,
            MemoryProblem::Overflow => Self(libc::EOVERFLOW),
            MemoryProblem::NotSealed => Self(libc::EPERM),
            MemoryProblem::Overlap => Self::EXIST,
            MemoryProblem::NoSlot => Self::NOSPC,
            MemoryProblem::NotMapped => Self::NOENT,
            MemoryProblem::System(source) => source.into(),
        }
    }
}

impl From<&MachineError> for Errno {
    fn from(error: &MachineError) -> Self {
        match error {
            MachineError::Reservation { problem, .. } => match problem {
                ReservationProblem::Overlap { .. } => Self(libc::EPERM),
                ReservationProblem::NotReserved => Self::NOENT,
                ReservationProblem::Overflow | ReservationProblem::Empty => Self::INVAL,
            },
            MachineError::Backend(error) => error.into(),
            MachineError::AlreadyStarted => Self::INVAL,
            MachineError::NotStopped { .. } => Self(libc::ETIMEDOUT),
            MachineError::Thread { source, .. }
            | MachineError::Cgroup { source, .. }
            | MachineError::EventFd { source, .. } => source.into(),
        }
    }
}
