//! `outboard demo`: a guest that adds and talks, and the plugin that listens.

mod counters;
mod guest;
pub(crate) mod plugin;

use std::ffi::OsString;
use std::num::NonZeroU32;

use plugin_runtime::jail::JailConfig;
use plugin_runtime::{Config, PluginCommand, Sandbox};

use crate::backend::Backend;
use crate::cli::DemoArgs;
use crate::error::Error;

/// Runs the demo. The plugin is this very program, started a second time.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Error> {
    let backend = Backend::open(args.hypervisor)?;
    let hypervisor = backend.hypervisor();
    let path = std::env::current_exe().map_err(Error::system("finding this program's own file"))?;
    let plugin = PluginCommand { path, args: ["demo-plugin", hypervisor.name()].map(OsString::from).to_vec() };
    let sandbox = Sandbox::Jail(Box::new(JailConfig { stdio: true, ..JailConfig::with_filter()? }));
    let config = Config { confine: true, ..Config::new(NonZeroU32::MIN, sandbox) };
    Ok(plugin_runtime::run(&*hypervisor, &plugin, config)?)
}
