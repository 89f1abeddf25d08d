//! The signals by which a user ends the VMM.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Says, as a descriptor, whether the VMM is to end. Handlers are set as long as it lives.
pub(crate) struct Signals {
    stream: OwnedFd,
    handlers: Vec<SigId>,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let set_up = Error::set_up::<std::io::Error>;
        let (ours, handlers_end) = UnixStream::pair().map_err(set_up("making the socket for signals"))?;
        let mut signals = Self { stream: ours.into(), handlers: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let end = handlers_end.try_clone().map_err(set_up("copying the socket for signals"))?;
            let handler = signal_hook::low_level::pipe::register(signal, end)
                .map_err(set_up("setting the handler of a signal"))?;
            signals.handlers.push(handler);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

impl AsFd for Signals {
    /// Readable once one of the signals has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
