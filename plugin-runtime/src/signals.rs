//! The signals by which a user ends the VMM.
#![allow(unsafe_code, reason = "a signal's disposition is read by a call of the C library's")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::{register_conditional_default, register_usize};
use signal_hook::low_level::{pipe, unregister};

use crate::error::{Error, Result};

const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Runs in this process that listen to signals. While there is none, the signals do what they did before the first: a
/// handler once set is never taken back, so it must be told.
static LISTENERS: Mutex<Option<Listeners>> = Mutex::new(None);

struct Listeners {
    count: usize,
    /// Read by the handlers: no run listens, so the signal's default action is due.
    nobody: Arc<AtomicBool>,
}

/// Says, as a descriptor, whether the VMM is to end. Handlers are set as long as it lives.
pub(crate) struct Signals {
    stream: OwnedFd,
    handlers: Vec<SigId>,
    /// The number of the last signal; 0 before the first.
    received: Arc<AtomicUsize>,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let set_up = Error::set_up::<io::Error>;
        let (ours, handlers_end) = UnixStream::pair().map_err(set_up("making the socket for signals"))?;
        begin_listening().map_err(set_up("setting the handler of a signal"))?;
        // From here on, dropping it ends the listening.
        let mut signals = Self { stream: ours.into(), handlers: Vec::new(), received: Arc::default() };
        for signal in ENDING.into_iter().filter(|signal| !stays_ignored(*signal)) {
            // Handlers run in this order: which signal it was is known before the descriptor is readable.
            let number = usize::try_from(signal).unwrap_or_default();
            let handler = register_usize(signal, Arc::clone(&signals.received), number)
                .map_err(set_up("setting the handler of a signal"))?;
            signals.handlers.push(handler);
            let end = handlers_end.try_clone().map_err(set_up("copying the socket for signals"))?;
            let handler = pipe::register(signal, end).map_err(set_up("setting the handler of a signal"))?;
            signals.handlers.push(handler);
        }
        Ok(signals)
    }

    /// The number of the signal that has come last; `None` if none has.
    pub(crate) fn received(&self) -> Option<i32> {
        let number = i32::try_from(self.received.load(Ordering::SeqCst)).unwrap_or_default();
        Some(number).filter(|number| *number != 0)
    }
}

fn begin_listening() -> io::Result<()> {
    let mut listeners = LISTENERS.lock();
    if let Some(listeners) = &mut *listeners {
        listeners.count += 1;
        listeners.nobody.store(false, Ordering::SeqCst);
        return Ok(());
    }
    let nobody = Arc::new(AtomicBool::new(false));
    for signal in ENDING.into_iter().filter(|signal| !stays_ignored(*signal)) {
        register_conditional_default(signal, Arc::clone(&nobody))?;
    }
    *listeners = Some(Listeners { count: 1, nobody });
    Ok(())
}

/// Whether a signal that ends the VM stays ignored: SIGHUP, where the parent had it ignored, as nohup(1) does.
fn stays_ignored(signal: i32) -> bool {
    signal == SIGHUP && disposition(signal).is_ok_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// What this process does at a signal.
///
/// # Errors
///
/// The kernel's, for a number that is no signal.
pub(crate) fn disposition(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: a `sigaction` of zeros is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `action` is what the call writes, and nothing is set.
    match unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } {
        0 => Ok(action),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
        if let Some(listeners) = &mut *LISTENERS.lock() {
            listeners.count -= 1;
            listeners.nobody.store(listeners.count == 0, Ordering::SeqCst);
        }
    }
}

impl AsFd for Signals {
    /// Readable once one of the signals has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
