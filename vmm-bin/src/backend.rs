//! Which hypervisor a command runs on.

use std::sync::Arc;

use clap::ValueEnum;
use hypervisor::Hypervisor;
use hypervisor::kvm::Kvm;
use hypervisor::mock::Mock;

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

/// What was taken.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    Kvm(Arc<Kvm>),
    Mock,
}

impl Backend {
    /// Opens what was asked for. Which one `auto` takes, and why, is logged.
    pub(crate) fn open(choice: Choice) -> hypervisor::Result<Self> {
        Self::open_with(choice, Kvm::open)
    }

    fn open_with(choice: Choice, open_kvm: impl FnOnce() -> hypervisor::Result<Kvm>) -> hypervisor::Result<Self> {
        match choice {
            Choice::Kvm => Ok(Self::Kvm(Arc::new(open_kvm()?))),
            Choice::Mock => Ok(Self::Mock),
            Choice::Auto => Ok(match open_kvm() {
                Ok(kvm) => {
                    tracing::info!("hypervisor: KVM, since {} opens", Kvm::DEVICE);
                    Self::Kvm(Arc::new(kvm))
                }
                Err(error) => {
                    tracing::info!("hypervisor: the mock, since {} does not open: {error}", Kvm::DEVICE);
                    Self::Mock
                }
            }),
        }
    }

    /// The hypervisor, whose vCPUs execute what lies in guest memory.
    pub(crate) fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        match self {
            Self::Kvm(kvm) => Arc::<Kvm>::clone(kvm),
            Self::Mock => Arc::new(Mock::guest_code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refuse() -> hypervisor::Result<Kvm> {
        Err(hypervisor::Error::System { what: "opening", source: io::Error::from(io::ErrorKind::NotFound) })
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
    fn the_mock_that_was_asked_for_by_name_does_not_look_for_kvm() {
        let backend = Backend::open_with(Choice::Mock, || panic!("it looked"));
        assert!(matches!(backend, Ok(Backend::Mock)));
    }
}
