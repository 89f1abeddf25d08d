//! Plugin processes: starting them, their connections, carrying exits, and how they end.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use hypervisor::Hypervisor;

/// The program that is to be a VM's plugin.
#[derive(Clone, Debug)]
pub struct PluginCommand {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments, each handed over as it is, after the path.
    pub args: Vec<OsString>,
}

/// What a VM is run with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many vCPUs it has.
    pub vcpus: NonZeroU32,
    /// How long the plugin may take to answer an access; `None` for as long as it likes.
    pub exit_timeout: Option<Duration>,
}

/// TODO
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs a VM until its plugin has ended.
pub fn run(_hypervisor: &dyn Hypervisor, _plugin: &PluginCommand, _config: &Config) -> Result<(), Error> {
    Ok(())
}
