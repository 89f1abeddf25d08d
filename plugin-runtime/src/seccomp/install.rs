//! Putting a filter on the calling thread, and what its installer does under it: to hand over the listener, and to
//! become the plugin.
#![allow(unsafe_code, reason = "seccomp, and calls that carry the filter's key, have no safe wrapper")]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::Filter;
use super::bpf::Instruction;

impl Filter {
    /// Puts the filter on the calling thread, for good, and on all that it starts. The thread must have `no_new_privs`.
    ///
    /// Makes one system call, and allocates nothing.
    ///
    /// # Errors
    ///
    /// The kernel's: `EACCES` without `no_new_privs`, `EBUSY` where a filter with a listener is installed.
    pub(crate) fn install(&self) -> io::Result<Installed> {
        let listener = install(&self.program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
        Ok(Installed { listener: Some(listener), key: self.key, _program: Vec::new() })
    }

    /// The same without a listener: the kernel alone deals with violations.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn install_without_listener(&self) -> io::Result<Installed> {
        let program = self.without_listener();
        install(&program, 0)?;
        Ok(Installed { listener: None, key: self.key, _program: program })
    }

    /// Whether `error`, of [`install`](Self::install), says that there can be no listener: `EBUSY` where this process is under a
    /// filter that has one (the kernel allows one for all filters together; containers and WSL have such filters), `EINVAL` from
    /// kernels that know none (gVisor).
    pub(crate) fn lacks_listener(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINVAL))
    }
}

/// Puts `program` on the calling thread: the call's return value.
pub(super) fn install(program: &[Instruction], flags: libc::c_ulong) -> io::Result<i32> {
    let length = program.len().try_into().map_err(|_| io::Error::from(io::ErrorKind::ArgumentListTooLong))?;
    // An `Instruction` is laid out as a `sock_filter`.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: the kernel reads `len` instructions and keeps a copy of its own.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) } {
        -1 => Err(io::Error::last_os_error()),
        // A descriptor, or 0.
        returned => Ok(returned as i32),
    }
}

/// That a filter is on this thread. What the policy may forbid, these calls still can, and each is one system call.
#[derive(Debug)]
pub(crate) struct Installed {
    /// Close-on-exec; it is never closed by hand, since closing may be what the policy forbids.
    listener: Option<RawFd>,
    key: u64,
    /// Kept, since to free it may take a system call.
    _program: Vec<Instruction>,
}

impl Installed {
    /// Whether there is a listener.
    pub(crate) fn has_listener(&self) -> bool {
        self.listener.is_some()
    }

    /// Sends `bytes`, of which there must be one at least, and the listener, where there is one, over a socket.
    pub(crate) fn send_listener(&self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        self.send(socket, bytes, self.listener)
    }

    /// Sends `bytes` over a socket.
    pub(crate) fn send_bytes(&self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
        self.send(socket, bytes, None)
    }

    fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<RawFd>) -> io::Result<()> {
        let data = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // Aligned as a `cmsghdr`, with room for one that holds a descriptor: 16 bytes and 4, rounded up.
        let mut control = [0_u64; 3];
        // SAFETY: a structure of the kernel's, for which zeros are a value.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = (&raw const data).cast_mut();
        message.msg_iovlen = 1;
        if let Some(descriptor) = descriptor {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            // SAFETY: `control` is aligned and long enough for the header and the number behind it.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
                libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
            }
        }
        let (number, flags) = (libc::SYS_sendmsg, libc::MSG_NOSIGNAL);
        // SAFETY: `message` and all it points at live until the call returns; the kernel ignores what follows the flags.
        match unsafe { libc::syscall(number, socket.as_raw_fd(), &raw const message, flags, 0_u64, 0_u64, self.key) } {
            -1 => Err(io::Error::last_os_error()),
            // Messages this short go whole.
            _ => Ok(()),
        }
    }

    /// Becomes another program. It returns only to tell why not.
    pub(crate) fn exec(&self, path: &CStr, arguments: &CStrings, environment: &CStrings) -> io::Error {
        let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
        // SAFETY: a C string and two lists of C strings, each ended by a null pointer; the kernel ignores what follows.
        unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), arguments, environment, 0_u64, 0_u64, self.key) };
        io::Error::last_os_error()
    }

    /// Ends the process.
    pub(crate) fn exit(&self, code: i32) -> ! {
        loop {
            // SAFETY: plain numbers; it does not return.
            unsafe { libc::syscall(libc::SYS_exit_group, code, 0_u64, 0_u64, 0_u64, 0_u64, self.key) };
        }
    }
}

/// A list of strings as `execve` takes it.
#[derive(Debug)]
pub(crate) struct CStrings {
    /// Ended by a null pointer; the others point into `_strings`.
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

// SAFETY: the pointers are its own strings', which nobody changes.
unsafe impl Send for CStrings {}
// SAFETY: as above.
unsafe impl Sync for CStrings {}

impl CStrings {
    /// The list.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

impl FromIterator<CString> for CStrings {
    fn from_iter<T: IntoIterator<Item = CString>>(strings: T) -> Self {
        let strings: Vec<_> = strings.into_iter().collect();
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, _strings: strings }
    }
}
