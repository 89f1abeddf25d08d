//! Whether this process learns how its children end.

use std::io;

use crate::error::{Error, Result};
use crate::signals::disposition;

/// Sees that the kernel keeps a child's status until it is waited for.
///
/// # Errors
///
/// [`Error::SetUp`] where `SIGCHLD` is ignored, which may be inherited, or its action has `SA_NOCLDWAIT`: then `waitid` fails
/// for every child, and a plugin's end could not be told from its VMM's own fault (waitpid(2)).
pub(crate) fn must_be_waited_for() -> Result<()> {
    let failed = Error::set_up("learning how the plugin ends");
    let action = match disposition(libc::SIGCHLD) {
        Ok(action) => action,
        Err(error) => return Err(failed(error)),
    };
    if action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0 {
        return Err(failed(io::Error::other(
            "this process ignores SIGCHLD, so the kernel does not say how its children end: reset it to its default",
        )));
    }
    Ok(())
}

#[cfg(test)]
#[allow(unsafe_code, reason = "fork, and a child that sets a disposition")]
mod tests {
    use super::*;

    #[test]
    fn with_sigchld_ignored_a_run_is_refused() {
        must_be_waited_for().unwrap();
        // In a child, whose disposition is no other test's.
        // SAFETY: the child ends by the next call but the one that is tested.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ignoring runs no code of this program's, and the child ends at once.
            unsafe {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::_exit(i32::from(must_be_waited_for().is_err()));
            }
        }
        let mut status = 0;
        // SAFETY: `status` is what the call writes.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 1));
    }
}
