//! Why the command failed.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

/// Why a link of the benchmark ended early: whatever was in its way.
pub(crate) type Failure = Box<dyn StdError + Send + Sync>;

/// What ends the command with another exit code than 0.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("OUTBOARD_LOG does not say what to log: {0}")]
    LogFilter(#[from] tracing_subscriber::filter::ParseError),
    #[error("{doing}: {source}")]
    System { doing: String, source: io::Error },
    #[error("{}: {source}", path.display())]
    Script { path: PathBuf, source: hypervisor::Error },
    #[error("{}, line {line}: {problem}", path.display())]
    Line { path: PathBuf, line: usize, problem: String },
    #[error("{0} is for the mock, but --hypervisor auto has found KVM; ask for the mock with --hypervisor mock")]
    OnlyOnMock(&'static str),
    #[error("{}: {source}", path.display())]
    Kvm { path: PathBuf, source: hypervisor::Error },
    #[error(transparent)]
    Machine(#[from] vmm_core::Error),
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
    #[error(transparent)]
    Vm(#[from] plugin_runtime::Error),
    #[error(transparent)]
    Plugin(#[from] plugin_sdk::Error),
    #[error("the link {link} failed: {source}")]
    Link { link: &'static str, source: Failure },
    #[error(
        "round {round} of seed {seed} on {backend} ({plan}): {problem}\n\
         repeat it with: outboard -v soak --seed {seed} --round {round} --hypervisor {backend}"
    )]
    Soak { round: u64, seed: u64, backend: &'static str, plan: String, problem: String },
}

impl Error {
    /// What to do with the system's refusal: name what it was for.
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing: doing.into(), source }
    }
}
