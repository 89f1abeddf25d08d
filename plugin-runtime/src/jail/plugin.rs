//! The last steps before the plugin is the plugin.
#![allow(unsafe_code, reason = "exec")]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::fault::{Fault, Part};
use super::landlock;
use super::reports::{Reports, Words};
use super::setup::Setup;
use crate::process;
use crate::seccomp::{CStrings, Filter, Installed};

/// The exit code of what did not become the plugin. The VMM is told why not.
const NOT_THE_PLUGIN: i32 = 127;

/// Becomes the plugin. Where it cannot, it tells, and this process ends.
pub(super) fn become_plugin(setup: &Setup, socket: BorrowedFd<'_>, reports: &Reports) -> ! {
    let mut filter = None;
    let fault = match Plugin::new(setup).and_then(|plugin| plugin.begin(setup, socket, reports, &mut filter)) {
        Ok(never) => match never {},
        Err(fault) => fault,
    };
    if let Some(installed) = &filter {
        if let Ok(words) = Words::Failed(fault).to_bytes() {
            let _ = installed.send_bytes(reports.as_fd(), &words);
        }
        installed.exit(NOT_THE_PLUGIN)
    }
    let _ = reports.send(&Words::Failed(fault));
    // SAFETY: ends this process at once, with nothing to be cleaned up.
    unsafe { libc::_exit(NOT_THE_PLUGIN) }
}

enum Never {}

/// What exec is called with.
struct Plugin {
    executable: CString,
    arguments: CStrings,
    environment: CStrings,
}

impl Plugin {
    fn new(setup: &Setup) -> Result<Self, Fault> {
        let failed = Fault::at(Part::Executable, &setup.executable);
        let variable = |(name, value): (OsString, OsString)| OsString::from_iter([&*name, OsStr::new("="), &*value]);
        let environment = std::env::vars_os().map(|pair| c_string(&variable(pair)));
        let arguments = [&setup.name].into_iter().chain(&setup.args).map(|argument| c_string(argument));
        Ok(Self {
            executable: c_string(setup.executable.as_os_str()).map_err(&failed)?,
            arguments: arguments.collect::<Result<_, _>>().map_err(&failed)?,
            environment: environment.collect::<Result<_, _>>().map_err(&failed)?,
        })
    }

    fn begin(
        &self,
        setup: &Setup,
        socket: BorrowedFd<'_>,
        reports: &Reports,
        installed: &mut Option<Installed>,
    ) -> Result<Never, Fault> {
        let failed = Fault::at(Part::Executable, &setup.executable);
        let refused = |error: io::Error| Fault::of(Part::Seccomp)(process::as_errno(&error));
        let filter = setup.filter()?;
        let encoded = |words: Words| words.to_bytes().map_err(Fault::of(Part::Seccomp));
        let (filtered, without_listener) = (encoded(Words::Filtered)?, encoded(Words::FilteredWithoutListener)?);
        landlock::confine(setup)?;
        process::keep_only(&[socket.as_raw_fd()]).map_err(&failed)?;
        process::default_signals();
        let error = match filter {
            Some(filter) => {
                // From here on every call must be one that carries the filter's key.
                let installed = installed.insert(install(&filter).map_err(refused)?);
                let words = if installed.has_listener() { &filtered } else { &without_listener };
                installed.send_listener(reports.as_fd(), words).map_err(refused)?;
                installed.exec(&self.executable, &self.arguments, &self.environment)
            }
            None => self.exec(),
        };
        Err(failed(process::as_errno(&error)))
    }

    /// Exec where there is no filter.
    fn exec(&self) -> io::Error {
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: a C string and two lists of C strings, each ended by a null pointer.
        unsafe { libc::execve(self.executable.as_ptr(), arguments, environment) };
        io::Error::last_os_error()
    }
}

/// Puts the filter on this process, with a listener where that can be.
fn install(filter: &Filter) -> io::Result<Installed> {
    match filter.install() {
        Err(error) if Filter::lacks_listener(&error) => filter.install_without_listener(),
        installed => installed,
    }
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::INVAL)
}
