//! `outboard run`: a VM with a plugin.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hypervisor::mock::Script;
use plugin_runtime::{Cgroup, Config, PluginCommand};

use crate::backend::Backend;
use crate::cli::RunArgs;
use crate::error::Error;
use crate::huge_pages;

pub(crate) fn run(args: &RunArgs) -> Result<(), Error> {
    let backend = Backend::open_as(args.hypervisor, &args.kvm_options())?;
    if args.hugepages && matches!(backend, Backend::Kvm(_)) {
        huge_pages::warn_where_there_are_none();
    }
    let script = script(&backend, args.script.as_deref())?;
    let plugin = PluginCommand { path: args.plugin.clone(), args: args.plugin_args() };
    let config = Config {
        vcpus: args.cpus,
        exit_timeout: args.exit_timeout,
        vcpu_cgroup: args.vcpu_cgroup_path.as_deref().map(Cgroup::open).transpose()?.map(Arc::new),
        transport: args.transport.into(),
        poll_us: args.poll_us,
        tap: args.net.tap()?,
    };
    Ok(plugin_runtime::run(&*backend.with_script(script), &plugin, config)?)
}

/// What the mock's vCPUs do.
fn script(backend: &Backend, path: Option<&Path>) -> Result<Script, Error> {
    match (backend, path) {
        (Backend::Kvm(_), Some(_)) => Err(Error::ScriptOnKvm),
        (Backend::Kvm(_), None) => Ok(Script::nothing()),
        (Backend::Mock, Some(path)) => {
            let text =
                fs::read_to_string(path).map_err(Error::system(format!("reading the script {}", path.display())))?;
            Script::parse(&text).map_err(|source| Error::Script { path: path.to_owned(), source })
        }
        (Backend::Mock, None) => {
            tracing::warn!("the mock executes no guest code; --script FILE gives its vCPUs something to do");
            Ok(Script::nothing())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_script_that_cannot_be_read_or_understood_is_named() {
        let error = script(&Backend::Mock, Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(error.starts_with("reading the script /nonexistent: "), "{error}");

        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"mov 1\njump 2\n").unwrap();
        let error = script(&Backend::Mock, Some(file.path())).unwrap_err().to_string();
        assert_eq!(error, format!("{}: script line 2: no step is called `jump`", file.path().display()));
    }
}
