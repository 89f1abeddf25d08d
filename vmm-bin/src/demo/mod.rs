//! `outboard demo`: a guest that adds and talks, and the plugin that listens.

mod guest;
pub(crate) mod plugin;
mod tally;

use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZeroU32;

use hypervisor::Hypervisor;
use plugin_runtime::{Config, PluginCommand};

use crate::backend::Backend;
use crate::cli::DemoArgs;
use crate::error::Error;

/// Runs the demo. The plugin is this very program, started a second time.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Error> {
    let backend = Backend::open(args.hypervisor)?;
    run_on(&*backend.with_script(guest::script()))?;
    if let Backend::Mock = backend {
        let note = "\nThe mock does not execute guest code yet: a script of the same exits stood in for it.\n";
        io::stdout().write_all(note.as_bytes()).map_err(Error::system("writing a note"))?;
    }
    Ok(())
}

fn run_on(hypervisor: &dyn Hypervisor) -> Result<(), Error> {
    let path = std::env::current_exe().map_err(Error::system("finding this program's own file"))?;
    let plugin = PluginCommand { path, args: ["demo-plugin", hypervisor.name()].map(OsString::from).to_vec() };
    let config = Config {
        vcpus: NonZeroU32::MIN,
        exit_timeout: None,
        vcpu_cgroup: None,
        transport: Default::default(),
        poll_us: None,
        tap: None,
    };
    Ok(plugin_runtime::run(hypervisor, &plugin, config)?)
}
