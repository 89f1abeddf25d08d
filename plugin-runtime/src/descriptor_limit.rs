//! How many descriptors this process may open: as many as the quotas allow a plugin to make it hold, if the system lets it.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As it was when this process began, which the plugin gets.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit (1024 on most systems) to the hard one. Where that fails a plugin may get less than its quotas, and
/// `EMFILE`.
pub(crate) fn raise() {
    let before = *BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }) {
        tracing::debug!(%errno, "the limit of descriptors stays");
    }
}

/// Takes the limit back, in a child between fork and exec: it makes one system call.
pub(crate) fn restore() -> rustix::io::Result<()> {
    BEFORE.get().map_or(Ok(()), |before| setrlimit(Resource::Nofile, *before))
}
