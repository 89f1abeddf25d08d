//! What the command exits with. The manual page has the same list, under EXIT STATUS.

use std::process::ExitCode;

use plugin_runtime::{Culprit, Error as VmError};

use crate::error::Error;

/// The plugin failed; or what a `bench` or a `soak` looks for was found.
const PLUGIN: u8 = 1;
/// The command was called in a wrong way. `clap` exits with it too.
const USAGE: u8 = 2;
/// The guest could not go on.
const GUEST: u8 = 3;
/// This program failed, or the host refused what it needs.
const VMM: u8 = 4;
/// Plus the number of the signal that ended the VM, as shells have it.
const SIGNAL: u8 = 128;

impl Error {
    /// The code that tells whose failure it was.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            // There are 64 signals.
            Self::Vm(VmError::Signal { signal }) => SIGNAL.saturating_add(u8::try_from(*signal).unwrap_or_default()),
            Self::Vm(error) => match error.culprit() {
                Culprit::Guest => GUEST,
                Culprit::Owner => PLUGIN,
                Culprit::Host => VMM,
            },
            Self::Plugin(_) | Self::Link { .. } | Self::Soak { .. } => PLUGIN,
            Self::LogFilter(_) | Self::OnlyOnMock(_) => USAGE,
            Self::System { .. }
            | Self::Script { .. }
            | Self::Line { .. }
            | Self::Kvm { .. }
            | Self::Machine(_)
            | Self::Hypervisor(_) => VMM,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use hypervisor::{InternalError, VcpuId};
    use plugin_runtime::StopReason;

    use super::*;

    #[test]
    fn each_kind_of_failure_has_a_code_of_its_own() {
        let vcpu = |reason| VmError::Vcpu { vcpu: VcpuId(0), reason };
        let plugin = || "p".to_owned();
        let source = || io::Error::from(io::ErrorKind::NotFound);
        let internal = InternalError { suberror: 1, data: [0; 6], words: 0 };
        for (error, code) in [
            (VmError::Exited { plugin: plugin(), code: 7 }, 1),
            (VmError::Killed { plugin: plugin(), signal: 9 }, 1),
            (VmError::NotInTime { plugin: plugin() }, 1),
            (VmError::Start { path: PathBuf::from("/p"), source: source() }, 1),
            (vcpu(StopReason::Fault { owner: plugin(), source: "broken".into() }), 1),
            (vcpu(StopReason::Shutdown { state: None }), 3),
            (vcpu(StopReason::InternalError { error: internal, state: None }), 3),
            (vcpu(StopReason::EntryFailed { reason: 0, state: None }), 3),
            (vcpu(StopReason::Panicked), 4),
            (VmError::SetUp { what: "x", source: source() }, 4),
            (VmError::Signal { signal: 2 }, 130),
            (VmError::Signal { signal: 15 }, 143),
        ] {
            let text = error.to_string();
            assert_eq!(Error::Vm(error).code(), code, "{text}");
        }
        assert_eq!(Error::OnlyOnMock("--script").code(), 2);
        assert_eq!(Error::System { doing: "x".into(), source: source() }.code(), 4);
    }
}
