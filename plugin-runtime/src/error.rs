//! How running a VM with a plugin can fail.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hypervisor::VcpuId;
use thiserror::Error;
use vmm_core::{Culprit, StopReason};

use crate::jail::Fault;
use crate::seccomp::Violation;

/// The result of running a VM.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a VM could not be set up, or how it ended.
///
/// `Debug` says what `Display` says, so a `main` that returns this error prints a sentence.
#[derive(Error)]
pub enum Error {
    /// The VM could not be made.
    #[error("making the VM: {0}")]
    Vm(#[from] hypervisor::Error),
    /// The machine around it could not be made, or its vCPUs could not be started.
    #[error("making the machine: {0}")]
    Machine(#[from] vmm_core::Error),
    /// The operating system refused something the VMM needs.
    #[error("{what}: {source}")]
    SetUp {
        /// What was tried.
        what: &'static str,
        /// Why it was refused.
        source: io::Error,
    },
    /// The plugin's executable could not be started.
    #[error("starting plugin {}: {source}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of the plugin's jail could not be made.
    #[error("the jail of plugin {plugin}: {fault}")]
    Jail {
        /// The plugin's name.
        plugin: String,
        /// Which part, why, and what to do.
        fault: Box<Fault>,
    },
    /// Waiting for something to happen failed.
    #[error("waiting for events: {0}")]
    Poll(io::Error),
    /// A vCPU failed, or the plugin failed it.
    #[error("vCPU {vcpu}: {reason}")]
    Vcpu {
        /// Which one.
        vcpu: VcpuId,
        /// How.
        reason: StopReason,
    },
    /// The plugin exited with another code than 0.
    #[error("plugin {plugin} exited with code {code}")]
    Exited {
        /// Its name.
        plugin: String,
        /// Its exit code.
        code: i32,
    },
    /// The dynamic loader did not find a library of the plugin's.
    #[error(
        "plugin {plugin} exited with code 127: its shared library {library} was not found; put the library's directory, \
         as an absolute path, into LD_LIBRARY_PATH, or with --plugin-root the library into that root"
    )]
    MissingLibrary {
        /// The plugin's name.
        plugin: String,
        /// The library's name, as the loader gave it.
        library: String,
    },
    /// A signal to the VMM ended the VM.
    #[error("ended by signal {signal} ({})", signal_name(*signal))]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// [`run`](crate::run) was called in the process that is to be the helper of a jail.
    #[error(
        "this process was started to make a plugin's jail, and its `main` has not called plugin_runtime::jail::helper_main(): \
         `main` must call it before anything else, and return the exit code that it gives"
    )]
    InHelper,
    /// A signal ended the plugin.
    #[error("plugin {plugin} was killed by signal {signal} ({})", signal_name(*signal))]
    Killed {
        /// Its name.
        plugin: String,
        /// The signal's number.
        signal: i32,
    },
    /// The plugin had to be killed.
    #[error("plugin {plugin} did not exit in time after it was told to, and was killed")]
    NotInTime {
        /// Its name.
        plugin: String,
    },
    /// The plugin made a system call that its filter does not allow.
    #[error("plugin {plugin} was killed for {violation}, which its seccomp policy does not allow")]
    Violation {
        /// Its name.
        plugin: String,
        /// The call.
        violation: Violation,
    },
    /// The plugin made a system call that its filter does not allow, and there was no listener to learn which.
    #[error(
        "plugin {plugin} was killed for a system call that its seccomp policy does not allow; the kernel's log names it \
         (type=1326), since no seccomp listener can be had here"
    )]
    UnnamedViolation {
        /// Its name.
        plugin: String,
    },
    /// A seccomp policy could not be read.
    #[error("reading the seccomp policy {}: {source}", file.display())]
    ReadPolicy {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A seccomp policy says what cannot be understood.
    #[error("{}, line {line}: {what}", file.display())]
    Policy {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, with the token that is.
        what: String,
    },
    /// A seccomp policy says more than the kernel takes.
    #[error("{}: it makes {instructions} instructions, and the kernel takes 4096", file.display())]
    LongPolicy {
        /// The file.
        file: PathBuf,
        /// How long its program would be.
        instructions: usize,
    },
    /// The plugin's end could not be learned.
    #[error("waiting for the end of plugin {plugin}: {source}")]
    Wait {
        /// Its name.
        plugin: String,
        /// Why not.
        source: io::Error,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// Returns who failed: the guest, the plugin ([`Culprit::Owner`]), or this program and the host beneath it. A
    /// [`Signal`](Self::Signal) is nobody's failure, and is counted as the host's.
    pub fn culprit(&self) -> Culprit {
        match self {
            Self::Vcpu { reason, .. } => reason.culprit().unwrap_or(Culprit::Host),
            Self::Start { .. }
            | Self::Exited { .. }
            | Self::MissingLibrary { .. }
            | Self::Killed { .. }
            | Self::NotInTime { .. }
            | Self::Violation { .. }
            | Self::UnnamedViolation { .. } => Culprit::Owner,
            Self::Vm(_)
            | Self::Machine(_)
            | Self::SetUp { .. }
            | Self::Jail { .. }
            | Self::Poll(_)
            | Self::Signal { .. }
            | Self::InHelper
            | Self::ReadPolicy { .. }
            | Self::Policy { .. }
            | Self::LongPolicy { .. }
            | Self::Wait { .. } => Culprit::Host,
        }
    }

    /// Names the seccomp policy that could not be read.
    pub(crate) fn reading_policy(file: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::ReadPolicy { file: file.to_owned(), source }
    }

    /// Names what the operating system refused.
    pub(crate) fn set_up<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::SetUp { what, source: source.into() }
    }
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a real-time signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_named_by_number_and_name() {
        let killed = Error::Killed { plugin: "adder".into(), signal: 9 };
        assert_eq!(killed.to_string(), "plugin adder was killed by signal 9 (SIGKILL)");
        assert_eq!(format!("{killed:?}"), killed.to_string(), "as a main that returns it shows it");
        let killed = Error::Killed { plugin: "adder".into(), signal: 40 };
        assert_eq!(killed.to_string(), "plugin adder was killed by signal 40 (a real-time signal)");
    }
}
