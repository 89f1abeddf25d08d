//! How a Rust function becomes one of the library's.

use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::c_int;

use crate::errno::{Errno, Result};
use crate::stats;

/// Defines functions of the library. Each is written as a Rust function whose `Result` is what C gets as a number.
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block)*) => {$(
        $(#[$doc])*
        #[allow(unsafe_code, reason = "the name is the library's own: no other symbol of the program has it")]
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> libc::c_int {
            $crate::export::guard(stringify!($name), move || -> $result { $body })
        }
    )*};
}
pub(crate) use export;

/// What a function of the library returns on success.
pub(crate) trait Answer {
    fn number(self) -> c_int;
}

impl Answer for () {
    fn number(self) -> c_int {
        0
    }
}

/// A descriptor that becomes the caller's.
impl Answer for OwnedFd {
    fn number(self) -> c_int {
        self.into_raw_fd()
    }
}

/// A descriptor that stays a handle's.
impl Answer for RawFd {
    fn number(self) -> c_int {
        self
    }
}

/// Does `body`, and keeps a panic of it from its caller. A handle it had locked gives `-EBUSY` from then on.
pub(crate) fn guard<T: Answer>(function: &'static str, body: impl FnOnce() -> Result<T>) -> c_int {
    let timer = stats::start();
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Errno::NOTRECOVERABLE));
    if let Some(timer) = timer {
        timer.stop(function);
    }
    match outcome {
        Ok(answer) => answer.number(),
        Err(errno) => errno.negative(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let body = || -> Result<()> { panic!("as a test") };
        assert_eq!(guard("test", body), -libc::ENOTRECOVERABLE);
    }
}
