//! Which hypervisor a command runs on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use hypervisor::Hypervisor;
use hypervisor::kvm::Kvm;
use hypervisor::mock::{Clock, Mock};

use crate::error::Error;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// KVM if /dev/kvm opens, else the mock
    Auto,
    /// /dev/kvm
    Kvm,
    /// No device, no privilege: guest code is interpreted
    Mock,
}

/// What moves the clock of a VM of the mock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MockClock {
    /// The host's clock
    Host,
    /// The guest's instructions, a nanosecond each; while all vCPUs halt it jumps to the next timer, whatever the plugin does meanwhile
    Virtual,
}

impl From<MockClock> for Clock {
    fn from(clock: MockClock) -> Self {
        match clock {
            MockClock::Host => Self::Host,
            MockClock::Virtual => Self::Virtual,
        }
    }
}

/// How KVM is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvmOptions {
    /// The device; without it, the one that every system with KVM has.
    pub(crate) device: Option<PathBuf>,
    /// Whether guest memory should be in huge pages.
    pub(crate) huge_pages: bool,
}

impl KvmOptions {
    fn open(&self) -> Result<Kvm, Error> {
        let path = self.device.as_deref().unwrap_or(Path::new(Kvm::DEVICE));
        let kvm = Kvm::open_at(path).map_err(|source| Error::Kvm { path: path.to_owned(), source })?;
        Ok(if self.huge_pages { kvm.with_huge_pages() } else { kvm })
    }
}

/// What was taken.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    Kvm(Arc<Kvm>),
    Mock,
}

impl Backend {
    /// Opens what was asked for. Which one `auto` takes, and why, is logged.
    pub(crate) fn open(choice: Choice) -> Result<Self, Error> {
        Self::open_as(choice, &KvmOptions::default())
    }

    /// [`open`](Self::open) where it is told how KVM is used. A device that is named is not replaced by the mock.
    pub(crate) fn open_as(choice: Choice, options: &KvmOptions) -> Result<Self, Error> {
        match choice {
            Choice::Auto if options.device.is_some() => Self::open_with(Choice::Kvm, || options.open()),
            _ => Self::open_with(choice, || options.open()),
        }
    }

    fn open_with(choice: Choice, open_kvm: impl FnOnce() -> Result<Kvm, Error>) -> Result<Self, Error> {
        match choice {
            Choice::Kvm => Ok(Self::Kvm(Arc::new(open_kvm()?))),
            Choice::Mock => Ok(Self::Mock),
            Choice::Auto => Ok(match open_kvm() {
                Ok(kvm) => {
                    tracing::info!("hypervisor: KVM, since {} opens", Kvm::DEVICE);
                    Self::Kvm(Arc::new(kvm))
                }
                Err(error) => {
                    match remedy(&error) {
                        None => tracing::info!("hypervisor: the mock, since {} does not open: {error}", Kvm::DEVICE),
                        Some(remedy) => tracing::warn!(
                            "hypervisor: the mock, which is many times slower, since {} is there and does not open: {error}; \
                             {remedy}, or say --hypervisor mock",
                            Kvm::DEVICE
                        ),
                    }
                    Self::Mock
                }
            }),
        }
    }

    /// The hypervisor, whose vCPUs execute what lies in guest memory.
    pub(crate) fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        // Plugins are other processes, which a virtual clock does not wait for.
        self.hypervisor_with(MockClock::Host)
    }

    /// The same; of the mock, with this clock.
    pub(crate) fn hypervisor_with(&self, clock: MockClock) -> Arc<dyn Hypervisor> {
        match self {
            Self::Kvm(kvm) => Arc::<Kvm>::clone(kvm),
            Self::Mock => Arc::new(Mock::guest_code().with_clock(clock.into())),
        }
    }
}

/// What to do about a device that is there; `None` where there is none.
fn remedy(error: &Error) -> Option<&'static str> {
    let Error::Kvm { source, .. } = error else { return Some("see that it works") };
    let hypervisor::Error::System { source, .. } = source else { return Some("see that it works") };
    match source.kind() {
        io::ErrorKind::NotFound => None,
        io::ErrorKind::PermissionDenied => Some("let this user open it (as a member of its group, usually `kvm`)"),
        _ => Some("see that the kernel's module for this processor is loaded (kvm_intel or kvm_amd)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: io::ErrorKind) -> Error {
        let source = hypervisor::Error::System { what: "opening", source: kind.into() };
        Error::Kvm { path: Kvm::DEVICE.into(), source }
    }

    fn refuse() -> Result<Kvm, Error> {
        Err(error(io::ErrorKind::NotFound))
    }

    #[test]
    fn a_device_that_is_there_and_does_not_open_has_a_remedy() {
        assert_eq!(remedy(&error(io::ErrorKind::NotFound)), None);
        assert!(remedy(&error(io::ErrorKind::PermissionDenied)).unwrap().contains("`kvm`"));
        assert!(remedy(&error(io::ErrorKind::Other)).unwrap().contains("kvm_intel"));
    }

    #[test]
    fn auto_takes_the_mock_where_kvm_does_not_open() {
        assert!(matches!(Backend::open_with(Choice::Auto, refuse), Ok(Backend::Mock)));
    }

    #[test]
    fn kvm_that_was_asked_for_by_name_is_not_replaced() {
        assert!(Backend::open_with(Choice::Kvm, refuse).is_err());
    }

    #[test]
    fn a_device_that_was_named_is_not_replaced_and_is_told() {
        let options = KvmOptions { device: Some("/nonexistent".into()), ..KvmOptions::default() };
        for choice in [Choice::Auto, Choice::Kvm] {
            let error = Backend::open_as(choice, &options).unwrap_err().to_string();
            assert!(error.contains("/nonexistent"), "{error}");
        }
    }

    #[test]
    fn the_mock_that_was_asked_for_by_name_does_not_look_for_kvm() {
        let backend = Backend::open_with(Choice::Mock, || panic!("it looked"));
        assert!(matches!(backend, Ok(Backend::Mock)));
    }
}
