//! The VMM's end of a filter: learning of violations.
#![allow(unsafe_code, reason = "seccomp's notifications are received and answered by ioctls")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use syscalls::Sysno;

use super::compile::{X32_BIT, X86_64};

/// `AUDIT_ARCH_I386` of `linux/audit.h`: calls by `int 0x80`.
const I386: u32 = 0x4000_0003;

/// A system call that the filter did not allow. Its caller is held in the kernel until it is killed or let go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    id: u64,
    /// The thread, as this process's PID namespace numbers it; 0 where it does not.
    pub thread: u32,
    /// The call's number.
    pub number: i32,
    /// Whose numbers these are: a constant `AUDIT_ARCH_*` of `linux/audit.h`.
    pub architecture: u32,
    /// The call's arguments.
    pub arguments: [u64; 6],
}

impl Violation {
    /// The call's name, if it is a call of x86-64.
    pub fn name(&self) -> Option<&'static str> {
        let is_native = self.architecture == X86_64;
        let number = usize::try_from(self.number).ok().filter(|_| is_native)?;
        Sysno::new(number).map(|call| call.name())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match self.architecture {
            X86_64 if number as u32 & X32_BIT != 0 => {
                write!(f, "system call {} of the x32 ABI", number as u32 & !X32_BIT)
            }
            X86_64 => write!(f, "system call {number} ({})", self.name().unwrap_or("of no known name")),
            I386 => write!(f, "system call {number} of the 32-bit ABI"),
            other => write!(f, "system call {number} of architecture {other:#x}"),
        }
    }
}

/// Learns of violations. Readable while there is one that was not received; readable as ended once all processes under the filter
/// are gone.
#[derive(Debug)]
pub(crate) struct Listener {
    descriptor: OwnedFd,
    /// The notification's and the answer's size in the running kernel, which may be larger than those known here.
    sizes: libc::seccomp_notif_sizes,
}

impl Listener {
    /// Takes over what [`Installed::send_listener`](super::Installed::send_listener) sent.
    ///
    /// # Errors
    ///
    /// The kernel's, if it does not tell how large its notifications are.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let mut sizes = libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
        let operation = libc::SECCOMP_GET_NOTIF_SIZES;
        // SAFETY: the kernel writes one `seccomp_notif_sizes`.
        match unsafe { libc::syscall(libc::SYS_seccomp, operation, 0_u32, &raw mut sizes) } {
            0 => Ok(Self { descriptor, sizes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The next violation, if there is one. It never waits.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn receive(&self) -> io::Result<Option<Violation>> {
        let mut fds = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default()))?;
        if !fds[0].revents().contains(PollFlags::IN) {
            return Ok(None);
        }
        let mut space = zeros(self.sizes.seccomp_notif, size_of::<libc::seccomp_notif>());
        let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
        // SAFETY: the kernel writes one notification, for which `space` is large enough, and which must be zeros before.
        if unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, space.as_mut_ptr()) } != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // The caller has died, or a signal took it out of its call. If it comes back, it is notified anew.
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: the kernel wrote one, of plain numbers, at the beginning of `space`, which is aligned for it.
        let notification = unsafe { &*space.as_ptr().cast::<libc::seccomp_notif>() };
        Ok(Some(Violation {
            id: notification.id,
            thread: notification.pid,
            number: notification.data.nr,
            architecture: notification.data.arch,
            arguments: notification.data.args,
        }))
    }

    /// Lets the call be made after all. A caller that is gone is no error.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn let_go_on(&self, violation: &Violation) -> io::Result<()> {
        let mut space = zeros(self.sizes.seccomp_notif_resp, size_of::<libc::seccomp_notif_resp>());
        let answer = libc::seccomp_notif_resp {
            id: violation.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: `space` is large enough, and aligned for it.
        unsafe { space.as_mut_ptr().cast::<libc::seccomp_notif_resp>().write(answer) };
        let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
        // SAFETY: the kernel reads one answer.
        if unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, space.as_mut_ptr()) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Zeros, aligned as the kernel's structures, of at least so many bytes.
fn zeros(kernels: u16, ours: usize) -> Vec<u64> {
    vec![0; usize::from(kernels).max(ours).div_ceil(size_of::<u64>())]
}
